"""Looking a name up at given name servers, as a client behind a caching resolver would: an answer is kept for its TTL.

Only what the probe needs of DNS (RFC 1035): A and AAAA over UDP, answers that fit into one packet.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

#: What a server that does not answer costs a lookup, both questions together.
TIMEOUT_SEC = 1.0
_A, _AAAA, _IN = 1, 28, 1
_RESPONSE, _TRUNCATED, _CODE, _NO_SUCH_NAME = 0x8000, 0x0200, 0x000F, 3


class BadReply(Exception):
    """Not an answer to what was asked, or the server cannot say."""


@dataclass(frozen=True, slots=True)
class NameServer:
    address: str
    port: int

    @staticmethod
    def parse(text: str) -> NameServer:
        """``192.0.2.1``, ``192.0.2.1:5353``, ``2001:db8::1`` or ``[2001:db8::1]:5353``. Raises ValueError."""
        address, port = text, "53"
        if text.startswith("["):
            address, _, rest = text[1:].partition("]")
            port = rest.removeprefix(":") if rest else port
        elif text.count(":") == 1:
            address, _, port = text.partition(":")
        ipaddress.ip_address(address)
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("the port is no number from 1 to 65535")
        return NameServer(address, int(port))


class Resolver:
    """A lookup for ``Names``. Servers are asked in turn, beginning with the one that answered last, so that a dead one
    costs its second once and not with every lookup. One thread's own."""

    def __init__(self, servers: tuple[NameServer, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self._servers, self._clock = list(servers), clock
        self._kept: dict[str, tuple[float, list[str]]] = {}

    def __call__(self, host: str, _port: int) -> list[str]:
        """Raises OSError when no server has an address for the name."""
        until, addresses = self._kept.get(host, (0.0, []))
        if addresses and self._clock() < until:
            return addresses
        problem: OSError = socket.gaierror(socket.EAI_AGAIN, "no name server answers")
        for server in list(self._servers):
            try:
                addresses, ttl = ask(server, host)
            except BadReply as bad:
                problem = socket.gaierror(socket.EAI_FAIL, str(bad))
            except OSError as error:
                problem = error
            else:
                self._servers.remove(server)
                self._servers.insert(0, server)
                if not addresses:
                    raise socket.gaierror(socket.EAI_NONAME, "no such name, or it has no address")
                self._kept[host] = (self._clock() + ttl, addresses)
                return addresses
        raise problem


def ask(server: NameServer, host: str) -> tuple[list[str], int]:
    """(IPv4 then IPv6 addresses, seconds they may be kept). Raises BadReply, OSError."""
    deadline = time.monotonic() + TIMEOUT_SEC
    found: list[str] = []
    ttls: list[int] = []
    with socket.socket(socket.AF_INET6 if ":" in server.address else socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect((server.address, server.port))  # what others send is not heard
        for kind in (_A, _AAAA):
            number = secrets.randbelow(65536)
            asked = query(number, host, kind)
            link.send(asked)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("no answer in time")
                link.settimeout(left)
                packet = link.recv(65535)
                if packet[:2] == asked[:2]:
                    break
            for address, ttl in reply(packet, kind):
                found.append(address)
                ttls.append(ttl)
    return found, min(ttls, default=0)


def query(number: int, host: str, kind: int) -> bytes:
    """Raises BadReply: not a name that can be asked for."""
    try:
        labels = [label.encode("ascii") for label in host.removesuffix(".").split(".")]
    except UnicodeEncodeError:
        raise BadReply("the name is not in ASCII") from None
    if not all(0 < len(label) < 64 for label in labels):
        raise BadReply("the name has a part that is empty or too long")
    name = b"".join(bytes([len(label)]) + label for label in labels)
    # Recursion desired: the server may as well be a resolver.
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + name + b"\0" + struct.pack(">2H", kind, _IN)


def reply(packet: bytes, kind: int) -> list[tuple[str, int]]:
    """(address, TTL) of each record of that kind; none for a name that does not exist. Raises BadReply."""
    try:
        _number, flags, questions, answers = struct.unpack_from(">4H", packet)
        if not flags & _RESPONSE or flags & _TRUNCATED:
            raise BadReply("the answer is none, or does not fit into a packet")
        if flags & _CODE == _NO_SUCH_NAME:
            return []
        if flags & _CODE:
            raise BadReply(f"the name server answers with error {flags & _CODE}")
        at = 12
        for _ in range(questions):
            at = _after_name(packet, at) + 4
        found = []
        for _ in range(answers):
            at = _after_name(packet, at)
            this, _class, ttl, length = struct.unpack_from(">2HIH", packet, at)
            data = packet[at + 10 : at + 10 + length]
            at += 10 + length
            if this == kind:
                found.append((str(ipaddress.ip_address(data)), ttl))
    except (struct.error, IndexError, ValueError):
        raise BadReply("the answer cannot be read") from None
    return found


def _after_name(packet: bytes, at: int) -> int:
    """A name ends with an empty part, or with a pointer to one that was there before."""
    while packet[at]:
        if packet[at] >= 0xC0:
            return at + 2
        at += packet[at] + 1
    return at + 1

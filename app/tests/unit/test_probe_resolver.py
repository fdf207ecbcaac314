"""The probe's resolver against small name servers on loopback."""

from __future__ import annotations

import argparse
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from holdfast.errors import SettingsError
from holdfast.probe.arguments import add_arguments
from holdfast.probe.names import system_lookup
from holdfast.probe.options import make_access, parse_target
from holdfast.probe.resolver import BadReply, NameServer, Resolver, query, reply

NAME = "cp.kv.example"


class Server(threading.Thread):
    """Answers every A question with ``addresses`` and ``ttl``, AAAA ones with ``addresses6``; ``code``, ``flags`` as
    told. ``stray``: an answer to another question is sent first."""

    def __init__(self, addresses: list[str], ttl: int = 0) -> None:
        super().__init__(daemon=True)
        self.addresses, self.addresses6, self.ttl = addresses, list[str](), ttl
        self.code, self.flags, self.cut, self.stray, self.silent = 0, 0x8400, 0, False, False
        self.asked = 0
        self.link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.link.bind(("127.0.0.1", 0))
        self.at = NameServer("127.0.0.1", self.link.getsockname()[1])
        self.start()

    def run(self) -> None:
        while True:
            try:
                packet, peer = self.link.recvfrom(512)
            except OSError:
                return
            self.asked += 1
            if self.silent:
                continue
            kind = struct.unpack(">H", packet[-4:-2])[0]
            if self.stray:
                other = bytes([packet[0] ^ 1]) + packet[1:]
                self.link.sendto(self.answer(other, ["127.9.9.9"] if kind == 1 else ["::9"]), peer)
            self.link.sendto(self.answer(packet, self.addresses if kind == 1 else self.addresses6), peer)

    def answer(self, packet: bytes, addresses: list[str]) -> bytes:
        kind = struct.unpack(">H", packet[-4:-2])[0]
        # First an alias: records of another kind are passed over.
        records = [struct.pack(">3HIH", 0xC00C, 5, 1, self.ttl, 2) + b"\xc0\x0c"] if addresses else []
        for address in addresses:
            data = socket.inet_pton(socket.AF_INET if kind == 1 else socket.AF_INET6, address)
            records.append(struct.pack(">3HIH", 0xC00C, kind, 1, self.ttl, len(data)) + data)
        head = packet[:2] + struct.pack(">5H", self.flags | self.code, 1, len(records), 0, 0)
        whole = head + packet[12:] + b"".join(records)
        return whole[: len(whole) - self.cut]


@pytest.fixture
def make() -> Iterator[type[Server]]:
    made: list[Server] = []

    class Kept(Server):
        def __init__(self, addresses: list[str], ttl: int = 0) -> None:
            super().__init__(addresses, ttl)
            made.append(self)

    yield Kept
    for server in made:
        server.link.close()


def test_both_families_are_found_and_other_records_passed_over(make: type[Server]) -> None:
    server = make(["127.0.0.1", "127.0.0.2"])
    server.addresses6 = ["::1"]
    assert Resolver((server.at,))(NAME, 5001) == ["127.0.0.1", "127.0.0.2", "::1"]


def test_an_answer_is_kept_for_its_ttl_and_not_longer(make: type[Server]) -> None:
    server, now = make(["127.0.0.1"], ttl=4), [100.0]
    resolver = Resolver((server.at,), lambda: now[0])
    assert resolver(NAME, 5001) == ["127.0.0.1"]
    server.addresses = ["127.0.0.2"]
    now[0] += 3.9
    assert resolver(NAME, 5001) == ["127.0.0.1"]
    assert server.asked == 2
    now[0] += 0.2
    assert resolver(NAME, 5001) == ["127.0.0.2"]


def test_a_dead_server_costs_a_second_once(make: type[Server]) -> None:
    dead, alive = make(["127.0.0.9"]), make(["127.0.0.1"])
    dead.silent = True
    resolver = Resolver((dead.at, alive.at))
    started = time.monotonic()
    assert resolver(NAME, 5001) == ["127.0.0.1"]
    assert 0.9 < time.monotonic() - started < 1.9
    asked = dead.asked
    for _ in range(2):
        assert resolver(NAME, 5001) == ["127.0.0.1"]
    assert dead.asked == asked, "it is not asked first again"
    # When the one that answered dies, the other is asked again.
    dead.silent, alive.silent = False, True
    assert resolver(NAME, 5001) == ["127.0.0.9"]


def test_the_first_server_is_asked_first_and_the_second_not_at_all(make: type[Server]) -> None:
    first, second = make(["127.0.0.1"]), make(["127.0.0.2"])
    resolver = Resolver((first.at, second.at))
    assert [resolver(NAME, 1) for _ in range(3)] == [["127.0.0.1"]] * 3
    assert second.asked == 0


@pytest.mark.parametrize(
    ("what", "value"), [("code", 5), ("code", 2), ("flags", 0x8600), ("flags", 0x0400), ("cut", 1)]
)
def test_a_server_that_cannot_say_is_passed_over(make: type[Server], what: str, value: int) -> None:
    bad, good = make(["127.0.0.9"]), make(["127.0.0.1"])
    setattr(bad, what, value)
    assert Resolver((bad.at, good.at))(NAME, 1) == ["127.0.0.1"]
    with pytest.raises(socket.gaierror):
        Resolver((bad.at,))(NAME, 1)


def test_a_name_that_is_not_there_has_no_address_and_is_looked_up_again(make: type[Server]) -> None:
    server = make([], ttl=60)
    resolver = Resolver((server.at,))
    for code in (3, 0):
        server.code = code
        with pytest.raises(socket.gaierror) as raised:
            resolver(NAME, 1)
        assert raised.value.errno == socket.EAI_NONAME
    server.addresses = ["127.0.0.1"]
    assert resolver(NAME, 1) == ["127.0.0.1"]


def test_the_answer_to_another_question_is_not_taken(make: type[Server]) -> None:
    server = make(["127.0.0.1"])
    server.stray = True
    assert Resolver((server.at,))(NAME, 1) == ["127.0.0.1"]


def test_what_a_server_keeps_no_port_for_is_an_error_at_once() -> None:
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.bind(("127.0.0.1", 0))
    port = link.getsockname()[1]
    link.close()
    with pytest.raises(OSError, match=r"refused"):
        Resolver((NameServer("127.0.0.1", port),))(NAME, 1)


@pytest.mark.parametrize("packet", [b"", b"\0" * 11, b"\0\0\x84\0\0\1\0\1" + b"\0" * 4 + b"\x3f" + b"a" * 20])
def test_rubbish_is_refused(packet: bytes) -> None:
    with pytest.raises(BadReply):
        reply(packet, 1)


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64 + ".example", "k\u00e4se.example"])
def test_names_that_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(BadReply):
        query(1, name, 1)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [("192.0.2.1", "192.0.2.1", 53), ("192.0.2.1:5353", "192.0.2.1", 5353), ("2001:db8::1", "2001:db8::1", 53),
     ("[2001:db8::1]", "2001:db8::1", 53), ("[2001:db8::1]:5353", "2001:db8::1", 5353)],
)  # fmt: skip
def test_servers_are_given_by_address(text: str, address: str, port: int) -> None:
    assert NameServer.parse(text) == NameServer(address, port)


@pytest.mark.parametrize(
    "text", ["", "ns1.example", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x", "[::1]x"]
)
def test_wrong_servers_are_named(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--resolver"):
        make_access((), None, None, 3.0, [text])


def test_the_option_reaches_the_clients() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = "run --out x --target a=http://cp.kv.example:1 --resolver 192.0.2.1 --resolver 192.0.2.2:54"
    arguments = parser.parse_args(given.split())
    access = make_access((parse_target(arguments.target[0], "cp"),), None, None, 3.0, arguments.resolver)
    assert access.servers == (NameServer("192.0.2.1", 53), NameServer("192.0.2.2", 54))
    assert isinstance(access.lookup(), Resolver)
    assert make_access((), None, None, 3.0).lookup() is system_lookup

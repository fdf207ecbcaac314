"""TLS to a node, over memory buffers instead of OpenSSL's own socket I/O.

OpenSSL notes errors per thread, and Python's ssl module does not clear that note before it reads or writes
(python/cpython#148594; seen with Python 3.13 and OpenSSL 3.5). Greenlets share a thread, so one node that breaks its
connection would make every other connection fail too. With memory buffers OpenSSL does no I/O and so never notes an I/O
error; asyncio works the same way.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

RECEIVE_BYTES = 65536
#: A TLS record holds 16 KiB; more at once only makes the copies larger.
SEND_BYTES = 65536
Result = TypeVar("Result")


class TlsSocket:
    """A TLS client on a connected socket, with the few methods redis-py and our link need.

    Timeouts are the socket's own and raise TimeoutError, a broken connection raises OSError, and the peer's end of
    the stream reads as ``b""``, whether it was announced or not. Not thread-safe.
    """

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._socket = connected
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._complete(self._tls.do_handshake)

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def gettimeout(self) -> float | None:
        return self._socket.gettimeout()

    def recv(self, size: int) -> bytes:
        try:
            return self._complete(lambda: self._tls.read(size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def recv_into(self, buffer: Any) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        """The timeout is one for all of ``data``, however slowly it is taken."""
        view, seconds = memoryview(data), self._socket.gettimeout()
        end = None if seconds is None else time.monotonic() + seconds
        for start in range(0, len(view), SEND_BYTES):
            if end is not None and start:
                self._socket.settimeout(max(0.001, end - time.monotonic()))
            self._write(view[start : start + SEND_BYTES])
        self._socket.settimeout(seconds)

    def _write(self, part: memoryview) -> None:
        while part:
            written = self._complete(lambda left=part: self._tls.write(left))  # type: ignore[misc]
            part = part[written:]

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def _complete(self, step: Callable[[], Result]) -> Result:
        """Run ``step``, carrying bytes between OpenSSL and the socket until it needs no more of them."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(RECEIVE_BYTES)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())


def client_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, only certificates of this CA, host names checked. Raises OSError when a file cannot be used."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file:
        context.load_cert_chain(cert_file, key_file)
    return context

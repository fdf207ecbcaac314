"""Reading HTTP/1.1 answers from bytes as they arrive. Pure: no sockets."""

from __future__ import annotations

from dataclasses import dataclass

MAX_HEAD = 64 * 1024


class BadAnswer(Exception):
    """The bytes are not an HTTP answer this client can read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``headers`` have lower-case names. ``reusable``: the connection may carry another request."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    reusable: bool


class Parser:
    """One answer. ``feed`` returns it when it is complete; ``end`` when the peer has closed the connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._status = 0
        self._headers: dict[bytes, bytes] | None = None
        self._length: int | None = None
        self._chunked = False

    def feed(self, data: bytes) -> Answer | None:
        self._buffer = self._buffer + data if self._buffer else data
        while self._headers is None:
            if not self._head():
                return None
        if self._chunked:
            body = _unchunk(self._buffer)
            return None if body is None else self._answer(body)
        if self._length is None or len(self._buffer) < self._length:
            return None
        return self._answer(self._buffer[: self._length], exact=len(self._buffer) == self._length)

    def end(self) -> Answer | None:
        """An answer without a length ends with the connection; anything else that is not complete is none."""
        if self._headers is None or self._chunked or self._length is not None:
            return None
        return self._answer(self._buffer, exact=False)

    def _head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(self._buffer) > MAX_HEAD:
                raise BadAnswer("the head of the answer is too long")
            return False
        first, *lines = head.split(b"\r\n")
        parts = first.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise BadAnswer("not an HTTP/1 answer")
        self._buffer = rest
        self._status = int(parts[1])
        if 100 <= self._status < 200:  # an interim answer: the real one follows
            return bool(self._buffer)
        fields = (line.partition(b":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        self._chunked = headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        length = headers.get(b"content-length")
        if length is not None and not length.isdigit():
            raise BadAnswer("Content-Length is not a number")
        self._length = 0 if self._status in (204, 304) else int(length) if length is not None else None
        self._headers = headers
        if parts[0] == b"HTTP/1.0":
            headers.setdefault(b"connection", b"close")
        return True

    def _answer(self, body: bytes, exact: bool = True) -> Answer:
        headers = self._headers or {}
        return Answer(self._status, headers, body, exact and headers.get(b"connection", b"").lower() != b"close")


def _unchunk(data: bytes) -> bytes | None:
    """The body of a chunked answer, None while it is not complete. Trailers are dropped."""
    body, position = bytearray(), 0
    while True:
        end = data.find(b"\r\n", position)
        if end < 0:
            return None
        try:
            size = int(data[position:end].partition(b";")[0], 16)
        except ValueError:
            raise BadAnswer("a chunk has no size") from None
        start = end + 2
        if size == 0:
            return bytes(body) if data.find(b"\r\n", start) == start or b"\r\n\r\n" in data[start:] else None
        if len(data) < start + size + 2:
            return None
        body += data[start : start + size]
        position = start + size + 2

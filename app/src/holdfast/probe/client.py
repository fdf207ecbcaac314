"""A small HTTP/1.1 client on asyncio: keep-alive, every request bounded in time, none ever repeated.

A generic client would hide what is measured here: it retries on a closed connection, follows answers, and does not
say whether a failed request had been sent.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from .http1 import Answer, BadAnswer, Parser
from .names import Lookup, Names, system_lookup

#: An idle connection older than this is not used again: the other side may be closing it at this moment.
IDLE_SEC = 5.0


class Refused(Exception):
    """No connection: the request was certainly not sent. The text is a short, stable reason."""


class NoAnswer(Exception):
    """The request was sent, at least in part, and no complete answer came in time. The text is a short reason."""


@dataclass(frozen=True, slots=True)
class Url:
    tls: bool
    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Url:
        """Raises ValueError with a reason."""
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https"):
            raise ValueError("it must start with https:// or http://")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it must not hold credentials; use --token-file")
        if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("it must be scheme://host:port and nothing else")
        return Url(parts.scheme == "https", parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.address = ""
        self.idle_since = 0.0
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._parser = Parser()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (for the type checker)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.close()  # bytes nobody asked for: this connection cannot be trusted with another request
            return
        try:
            answer = self._parser.feed(data)
        except BadAnswer:
            self._fail("bad_answer")
            return
        if answer is not None:
            self.usable = self.usable and answer.reusable
            self._waiter.set_result(answer)

    def eof_received(self) -> None:
        self.usable = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._waiter is not None and not self._waiter.done():
            answer = self._parser.end() if exc is None else None
            if answer is not None:
                self._waiter.set_result(answer)
            else:
                self._fail("reset" if isinstance(exc, ConnectionResetError) else "closed")

    async def exchange(self, request: bytes, deadline: float) -> Answer:
        """Raises NoAnswer. What had arrived by the time anybody looked counts, even if the deadline had passed."""
        loop = asyncio.get_running_loop()
        self._parser = Parser()
        self._waiter = loop.create_future()
        timer = loop.call_at(deadline, self._fail, "timeout")
        try:
            if self._transport is None or not self.usable:
                raise NoAnswer("closed")
            self._transport.write(request)
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, reason: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(NoAnswer(reason))
        self.close()


class Client:
    """Requests to one URL. Connections are opened as requests need them and reused, the latest first."""

    def __init__(self, url: Url, token: str | None, tls: ssl.SSLContext | None, lookup: Lookup = system_lookup) -> None:
        self._url, self._tls = url, tls
        self._idle: deque[_Connection] = deque()
        self._names = Names(url.host, url.port, self._addresses_moved, lookup)
        common = f"Host: {url.authority}\r\nUser-Agent: holdfast-probe\r\nAccept: application/json\r\n"
        self._common = common + (f"Authorization: Bearer {token}\r\n" if token else "")

    def start(self) -> None:
        """In the running event loop."""
        self._names.start()

    def close(self) -> None:
        self._names.stop()
        while self._idle:
            self._idle.pop().close()

    async def write(self, key: str, value: str, session: str | None, timeout: float) -> Answer:
        """Raises Refused, NoAnswer."""
        body = value.encode()
        head = f"POST /write/{quote(key, safe=':')} HTTP/1.1\r\n{self._common}{_session(session)}"
        return await self._request(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, timeout)

    async def read(self, key: str, session: str | None, timeout: float) -> Answer:
        """Raises Refused, NoAnswer."""
        head = f"GET /read/{quote(key, safe=':')} HTTP/1.1\r\n{self._common}{_session(session)}\r\n"
        return await self._request(head.encode(), timeout)

    async def _request(self, request: bytes, timeout: float) -> Answer:
        deadline = time.monotonic() + timeout
        connection = self._reusable() or await self._connect(deadline)
        answer = await connection.exchange(request, deadline)
        if connection.usable and connection.address in (self._names.current or [connection.address]):
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _reusable(self) -> _Connection | None:
        oldest = time.monotonic() - IDLE_SEC
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, deadline: float) -> _Connection:
        """To the first address that answers, all within the deadline; a silent one gets its share of the time."""
        loop = asyncio.get_running_loop()
        reason = "name"
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._names.addresses()
        except TimeoutError:
            raise Refused(reason) from None
        for number, address in enumerate(addresses):
            until = loop.time() + (deadline - loop.time()) / (len(addresses) - number)
            try:
                async with asyncio.timeout_at(until):
                    _transport, connection = await loop.create_connection(
                        _Connection,
                        address,
                        self._url.port,
                        ssl=self._tls if self._url.tls else None,
                        server_hostname=self._url.host if self._url.tls else None,
                    )
            except TimeoutError:
                reason = "connect_timeout"
            except ssl.SSLError:
                reason = "tls"
            except OSError as problem:
                reason = type(problem).__name__
            else:
                connection.address = address
                return connection
        raise Refused(reason)

    def _addresses_moved(self) -> None:
        """Leave addresses the name no longer has; requests that run there are not disturbed."""
        for connection in list(self._idle):
            if connection.address not in self._names.current:
                self._idle.remove(connection)
                connection.close()


def _session(token: str | None) -> str:
    return f"X-Session-Token: {token}\r\n" if token else ""

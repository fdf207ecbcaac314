"""A small HTTP/1.1 client on asyncio: keep-alive, every request bounded in time, none ever repeated.

A generic client would hide what is measured here: it retries on a closed connection, follows answers, and does not
say whether a failed request had been sent.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from .http1 import Answer, BadAnswer, Parser
from .names import Lookup, Names, system_lookup

#: An idle connection older than this is not used again: the other side may be closing it at this moment.
IDLE_SEC = 5.0
_PLAIN = re.compile(r"[A-Za-z0-9_.~:-]+")


class Refused(Exception):
    """No connection: the request was certainly not sent. The text is a short, stable reason."""


class NoAnswer(Exception):
    """The request was sent, at least in part, and no complete answer came in time. The text is a short reason."""


#: How a request ended.
Result = Answer | Refused | NoAnswer
Done = Callable[[Result], None]


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
    """One connection, one request at a time. Callbacks throughout: a task and a future for each request would cost more
    than all the rest of it."""

    def __init__(self) -> None:
        self.address = ""
        self.idle_since = 0.0
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        self._parser = Parser()
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (for the type checker)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            self.close()  # bytes nobody asked for: this connection cannot be trusted with another request
            return
        try:
            answer = self._parser.feed(data)
        except BadAnswer:
            self._fail("bad_answer")
            return
        if answer is not None:
            self.usable = self.usable and answer.reusable
            self._finish(answer)

    def eof_received(self) -> None:
        self.usable = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._done is not None:
            answer = self._parser.end() if exc is None else None
            if answer is not None:
                self._finish(answer)
            else:
                self._fail("reset" if isinstance(exc, ConnectionResetError) else "closed")
        if self._timer is not None:
            self._timer.cancel()

    def send(self, request: bytes, deadline: float, done: Done) -> None:
        """``done`` is called once. What had arrived by the time anybody looked counts, even past the deadline."""
        self._parser, self._done, self._deadline = Parser(), done, deadline
        if self._transport is None or not self.usable:
            self._fail("closed")
            return
        if self._timer is None or self._timer.when() > deadline:
            self._watch()
        self._transport.write(request)

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._deadline, self._look)

    def _look(self) -> None:
        """One timer serves many requests: it is only set again when it went off, not with every request."""
        self._timer = None
        if self._done is None:
            return
        if time.monotonic() >= self._deadline:
            self._fail("timeout")
        else:
            self._watch()

    def _finish(self, result: Result) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(result)

    def _fail(self, reason: str) -> None:
        self.close()
        self._finish(NoAnswer(reason))


class Client:
    """Requests to one URL. Connections are opened as requests need them and reused, the latest first."""

    def __init__(self, url: Url, token: str | None, tls: ssl.SSLContext | None, lookup: Lookup = system_lookup) -> None:
        self._url, self._tls = url, tls
        self._idle: deque[_Connection] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
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
        return await self._waited_for(lambda done: self.start_write(key, value, session, timeout, done))

    async def delete(self, key: str, session: str | None, timeout: float) -> Answer:
        """Raises Refused, NoAnswer."""
        head = f"DELETE /write/{_quoted(key)} HTTP/1.1\r\n{self._common}{_session(session)}\r\n"
        return await self._waited_for(lambda done: self._request(head.encode(), timeout, done))

    async def read(self, key: str, session: str | None, timeout: float) -> Answer:
        """Raises Refused, NoAnswer."""
        return await self._waited_for(lambda done: self.start_read(key, session, timeout, done))

    def start_write(self, key: str, value: str, session: str | None, timeout: float, done: Done) -> None:
        """``done`` is called once, with the answer, a Refused or a NoAnswer; perhaps before this returns."""
        body = value.encode()
        head = f"POST /write/{_quoted(key)} HTTP/1.1\r\n{self._common}{_session(session)}"
        self._request(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, timeout, done)

    def start_read(self, key: str, session: str | None, timeout: float, done: Done) -> None:
        """Like ``start_write``."""
        head = f"GET /read/{_quoted(key)} HTTP/1.1\r\n{self._common}{_session(session)}\r\n"
        self._request(head.encode(), timeout, done)

    async def _waited_for(self, start: Callable[[Done], None]) -> Answer:
        ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        start(ended.set_result)
        result = await ended
        if isinstance(result, Answer):
            return result
        raise result

    def _request(self, request: bytes, timeout: float, done: Done) -> None:
        deadline = time.monotonic() + timeout
        connection = self._reusable()
        if connection is not None:
            self._send(connection, request, deadline, done)
            return
        task = asyncio.get_running_loop().create_task(self._connect_and_send(request, deadline, done))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_and_send(self, request: bytes, deadline: float, done: Done) -> None:
        try:
            connection = await self._connect(deadline)
        except Refused as refused:
            done(refused)
        else:
            self._send(connection, request, deadline, done)

    def _send(self, connection: _Connection, request: bytes, deadline: float, done: Done) -> None:
        def ended(result: Result) -> None:
            if isinstance(result, Answer) and connection.usable and self._is_current(connection):
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            else:
                connection.close()
            done(result)

        connection.send(request, deadline, ended)

    def _is_current(self, connection: _Connection) -> bool:
        return not self._names.current or connection.address in self._names.current

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


def _quoted(key: str) -> str:
    return key if _PLAIN.fullmatch(key) else quote(key, safe=":")


def _session(token: str | None) -> str:
    return f"X-Session-Token: {token}\r\n" if token else ""

"""The one place that talks to Redis: one connection per node, shared by all threads of the process.

Each node has a thread that takes everything queued, writes it as one batch and reads the answers. Concurrent requests
thus share round trips and (with ``appendfsync always``) disk flushes, and a dead or paused node blocks its own thread
only: callers wait for their quorum, not for it. The queue is bounded, each command has a deadline, a command whose
deadline passed in the queue is never sent. redis-py's own retries are off: a command is sent at most once, except
after NOSCRIPT, which says that it did not run.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from .logs import LOG
from .scripts import Script
from .settings import Address, RedisAccess
from .tls import TlsSocket, client_context

MAX_QUEUE = 4096
#: Bytes of large commands that may wait for one node; a node that hangs must not fill the process's memory.
MAX_QUEUE_BYTES = 32 * 1024 * 1024
LARGE_COMMAND = 65536
MAX_BATCH_COMMANDS = 256
MAX_BATCH_BYTES = 8 * 1024 * 1024
RECEIVE_BYTES = 262144
RECONNECT_MIN_SEC, RECONNECT_MAX_SEC = 0.05, 0.5
#: Error replies that Redis gives before it runs anything: the command was surely not executed.
_CERTAIN: tuple[str, ...] = ("LOADING", "MISCONF", "READONLY", "OOM", "NOPERM", "NOAUTH", "WRONGPASS", "MASTERDOWN")
_CERTAIN += ("BUSY", "NOSCRIPT", "NOREPLICAS", "TRYAGAIN")


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's reply."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable reply. ``reason`` is a stable class; ``certain``: the command surely did not run and never will."""

    reason: str
    certain: bool


NO_SCRIPT = Failed("noscript", True)
Outcome = Answer | Failed
Done = Callable[[Outcome], None]


@dataclass(slots=True)
class Command:
    args: tuple[Any, ...]
    script: Script | None
    deadline: float
    done: Done
    large: int = 0
    #: Only on this connection (``NodeLink.generation``), on no later one. None: on any.
    generation: int | None = None

    def __post_init__(self) -> None:
        size = sum(len(arg) for arg in self.args if isinstance(arg, (str, bytes)))
        self.large = size if size > LARGE_COMMAND else 0


def script_command(script: Script, keys: list[str], args: list[Any], deadline: float, done: Done) -> Command:
    """EVALSHA of ``script``; it is loaded when the node does not know it. ``deadline``: seconds, monotonic."""
    return Command(("EVALSHA", script.sha, len(keys), *keys, *args), script, deadline, done)


def plain_command(args: tuple[Any, ...], deadline: float, done: Done) -> Command:
    return Command(args, None, deadline, done)


def classify(problem: Exception) -> Failed:
    """An error reply as (class, certainty)."""
    if isinstance(problem, AuthenticationError):
        return Failed("auth", True)
    # redis-py turns the code into a class for some errors and leaves it in the text for others.
    name = {
        "BusyLoadingError": "LOADING",
        "ReadOnlyError": "READONLY",
        "OutOfMemoryError": "OOM",
        "NoPermissionError": "NOPERM",
        "NoScriptError": "NOSCRIPT",
        "MasterDownError": "MASTERDOWN",
        "TryAgainError": "TRYAGAIN",
    }.get(type(problem).__name__)
    code = name or str(problem).partition(" ")[0]
    if code in _CERTAIN:
        return Failed(code.lower(), True)
    return Failed("script_error" if isinstance(problem, (ResponseError, hiredis.ReplyError)) else "protocol", False)


class TlsConnection(SSLConnection):
    """redis-py's TLS connection on a ``TlsSocket``. ``context`` verifies the node and presents our certificate."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._context = context

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> TlsSocket:
        return TlsSocket(sock, self._context, self.host)


class NodeLink:
    """The connection to one node. Thread-safe; ``start`` must be called after any fork."""

    def __init__(
        self,
        name: str,
        address: Address,
        access: RedisAccess,
        timeout_sec: float,
        on_connect: Callable[[str | None], None] = lambda _failure: None,
    ) -> None:
        self.name = name
        self._address, self._access, self._timeout = address, access, timeout_sec
        self._on_connect = on_connect
        self._queue: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._waiting, self._waiting_lock = 0, threading.Lock()
        self._stopped = False
        #: Grows with each new connection. A node that was restarted is on another connection: none outlives its
        #: process.
        self.generation = 0
        self._connection: Connection | None = None
        self._replies = hiredis.Reader()
        self._retry_at, self._pause, self._last_failure = 0.0, RECONNECT_MIN_SEC, "connect"
        self._thread = threading.Thread(target=self._run, name=f"link-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread once what is queued now is through; what comes later fails."""
        self._stopped = True
        self._queue.put(None)

    def submit(self, command: Command) -> None:
        """Queue a command; never blocks. ``done`` is called exactly once, from this link's thread or from here."""
        if self._stopped or self._queue.qsize() >= MAX_QUEUE or not self._has_room(command):
            command.done(Failed("queue_full", True))
            return
        self._queue.put(command)
        if self._stopped and not self._thread.is_alive():
            self._refuse_queued()

    def _has_room(self, command: Command) -> bool:
        if command.large:
            with self._waiting_lock:
                if self._waiting + command.large > MAX_QUEUE_BYTES:
                    return False
                self._waiting += command.large
        return True

    def _leaves(self, command: Command) -> None:
        if command.large:
            with self._waiting_lock:
                self._waiting -= command.large

    def _run(self) -> None:
        going = True
        while going:
            batch, packed, going = self._take()
            if batch:
                self._exchange(batch, packed)
        self._drop()
        self._refuse_queued()

    def _refuse_queued(self) -> None:
        while True:
            try:
                command = self._queue.get_nowait()
            except queue.Empty:
                return
            if command is not None:
                self._leaves(command)
                command.done(Failed("queue_full", True))

    def _take(self) -> tuple[list[Command], list[bytes], bool]:
        """Wait for a command; take what else is queued within the bounds of a batch. False: the end was reached."""
        batch: list[Command] = []
        packed: list[bytes] = []
        size = 0
        try:
            command = self._queue.get()
            while command is not None:
                self._leaves(command)
                if command.deadline <= time.monotonic():
                    command.done(Failed("timeout", True))
                elif (data := self._packed(command)) is not None:
                    packed.append(data)
                    batch.append(command)
                    size += len(data)
                if len(batch) >= MAX_BATCH_COMMANDS or size >= MAX_BATCH_BYTES:
                    break
                command = self._queue.get_nowait()
        except queue.Empty:
            return batch, packed, True
        return batch, packed, command is not None

    def _packed(self, command: Command) -> bytes | None:
        """What is sent; None if it cannot be packed, and then the command has failed."""
        try:
            data: bytes = hiredis.pack_command(command.args)
            return data
        except Exception:  # this thread must live on whatever happens
            LOG.exception("LINK_ERROR", extra={"fields": {"node": self.name}})
            command.done(Failed("protocol", True))
            return None

    def _exchange(self, batch: list[Command], packed: list[bytes]) -> None:
        connection, failure = self._connected()
        if connection is None:
            for command in batch:
                command.done(failure)
            return
        now = time.monotonic()
        late = [c.deadline <= now or c.generation not in (None, self.generation) for c in batch]
        if any(late):  # connecting took its time, or the connection is another one
            for command in (c for c, is_late in zip(batch, late, strict=True) if is_late):
                command.done(Failed("timeout" if command.deadline <= now else "reconnected", True))
            packed = [data for data, is_late in zip(packed, late, strict=True) if not is_late]
            batch = [command for command, is_late in zip(batch, late, strict=True) if not is_late]
            if not batch:
                return
        answered = 0
        latest = max(c.deadline for c in batch)
        unknown: list[tuple[Command, Script]] = []
        live = batch
        try:
            # Before, the socket has what was left of the time of the batch before this one.
            wire: Any = connection._sock
            wire.settimeout(max(0.01, latest - time.monotonic()))
            connection.send_packed_command([b"".join(packed)], check_health=False)
            for command in live:
                outcome = self._receive(connection, latest)
                answered += 1
                if command.script is not None and outcome == NO_SCRIPT:
                    unknown.append((command, command.script))
                else:
                    command.done(outcome)
            again, unknown = unknown, []
            live, answered = [command for command, _script in again], 0
            for command, script in again:
                self._load_and_repeat(connection, command, script)
                answered += 1
        except Exception as problem:
            # Replies are lost, so the connection is out of step: drop it. What was sent may have been executed.
            self._drop()
            reason = "timeout" if isinstance(problem, (RedisTimeout, TimeoutError)) else "reset"
            if not isinstance(problem, (RedisError, OSError)):
                # This thread must live on whatever happens: without it the node is lost to the process.
                LOG.exception("LINK_ERROR", extra={"fields": {"node": self.name}})
            for command, _script in unknown:
                command.done(Failed(reason, True))
            for command in live[answered:]:
                command.done(Failed(reason, False))

    def _receive(self, connection: Connection, deadline: float) -> Outcome:
        """The next reply. An error reply leaves the connection in step; only lost replies make us drop it."""
        reply = self._replies.gets()
        while reply is False:  # not whole yet: no reply of RESP 2 is a boolean
            # redis-py's own reader costs more than the rest of the exchange; what it has read so far is the hello.
            wire: Any = connection._sock
            wire.settimeout(max(0.01, deadline - time.monotonic()))
            data = wire.recv(RECEIVE_BYTES)
            if not data:
                raise RedisConnectionError("the node closed the connection")
            self._replies.feed(data)
            reply = self._replies.gets()
        return classify(reply) if isinstance(reply, Exception) else Answer(reply)

    def _load_and_repeat(self, connection: Connection, command: Command, script: Script) -> None:
        load = hiredis.pack_command(("SCRIPT", "LOAD", script.source))
        connection.send_packed_command([load + hiredis.pack_command(command.args)], check_health=False)
        loaded = self._receive(connection, command.deadline)
        outcome = self._receive(connection, command.deadline)
        command.done(loaded if isinstance(loaded, Failed) and loaded.certain else outcome)

    def _connected(self) -> tuple[Connection | None, Failed]:
        if self._connection is not None:
            return self._connection, Failed("connect", True)
        if time.monotonic() < self._retry_at:
            return None, Failed(self._last_failure, True)
        connection = None
        try:
            connection = self._new_connection()
            connection.connect()
        except Exception as problem:  # whatever it is, the node is not reached and this thread goes on
            if connection is not None:
                connection.disconnect()
            known = classify(problem)
            hung = isinstance(problem, (RedisTimeout, TimeoutError))
            self._last_failure = known.reason if known.certain else "timeout" if hung else "connect"
            self._retry_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, RECONNECT_MAX_SEC)
            self._on_connect(f"{type(problem).__name__}: {problem}")
            return None, Failed(self._last_failure, True)
        self._connection, self._pause, self._replies = connection, RECONNECT_MIN_SEC, hiredis.Reader()
        self.generation += 1
        self._on_connect(None)
        return connection, Failed("connect", True)

    def _new_connection(self) -> Connection:
        options: dict[str, Any] = {
            "host": self._address.host,
            "port": self._address.port,
            "username": self._access.username,
            "password": self._access.password,
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
            "socket_keepalive": True,
        }
        if not self._access.tls:
            return Connection(**options)
        # Read anew for each connection: certificates are renewed while we run.
        context = client_context(self._access.ca_file, self._access.cert_file, self._access.key_file)
        return TlsConnection(context, **options)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

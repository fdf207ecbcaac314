"""The one place that talks to Redis: one connection per node, shared by all threads of the process.

Each node has a thread that takes everything queued, writes it as one batch and reads the answers. Concurrent requests
thus share round trips and (with ``appendfsync always``) disk flushes, and a dead or paused node blocks its own thread
only: callers wait for their quorum, not for it. The queue is bounded, each command has a deadline, a command whose
deadline passed in the queue is never sent. redis-py's own retries are off: a command is sent at most once, except
after NOSCRIPT, which says that it did not run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from .logs import LOG
from .scripts import Script
from .settings import Address, RedisAccess

MAX_QUEUE = 4096
MAX_BATCH_COMMANDS = 256
MAX_BATCH_BYTES = 8 * 1024 * 1024
RECONNECT_MIN_SEC, RECONNECT_MAX_SEC = 0.05, 0.5
#: Error replies that Redis gives before it runs anything: the command was surely not executed.
_CERTAIN = (
    "LOADING",
    "MISCONF",
    "READONLY",
    "OOM",
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "MASTERDOWN",
    "BUSY",
    "NOSCRIPT",
    "NOREPLICAS",
    "TRYAGAIN",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's reply."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable reply. ``reason`` is a stable class; ``certain``: the command surely did not run and never will."""

    reason: str
    certain: bool


Outcome = Answer | Failed
Done = Callable[[Outcome], None]


@dataclass(slots=True)
class Command:
    args: tuple[Any, ...]
    script: Script | None
    deadline: float
    done: Done
    size: int


def script_command(script: Script, keys: list[str], args: list[Any], deadline: float, done: Done) -> Command:
    """EVALSHA of ``script``; it is loaded when the node does not know it. ``deadline``: seconds, monotonic."""
    size = sum(len(a) if isinstance(a, (str, bytes)) else 16 for a in args) + 200
    return Command(("EVALSHA", script.sha, len(keys), *keys, *args), script, deadline, done, size)


def plain_command(args: tuple[Any, ...], deadline: float, done: Done) -> Command:
    return Command(args, None, deadline, done, 200)


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
    return Failed("script_error" if isinstance(problem, ResponseError) else "protocol", False)


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
        self._queue: deque[Command] = deque()
        self._wake = threading.Condition()
        self._stopped = False
        self._connection: Connection | None = None
        self._retry_at, self._pause, self._last_failure = 0.0, RECONNECT_MIN_SEC, "connect"
        self._thread = threading.Thread(target=self._run, name=f"link-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread once the running batch is through; what is queued fails."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def submit(self, command: Command) -> None:
        """Queue a command; never blocks. ``done`` is called exactly once, from this link's thread or from here."""
        with self._wake:
            full = len(self._queue) >= MAX_QUEUE or self._stopped
            if not full:
                self._queue.append(command)
                self._wake.notify()
        if full:
            command.done(Failed("queue_full", True))

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._stopped:
                    self._wake.wait()
                batch = self._take()
                if self._stopped and not batch:
                    break
            if batch:
                self._exchange(batch)
        self._drop()

    def _take(self) -> list[Command]:
        batch: list[Command] = []
        size = 0
        while self._queue and len(batch) < MAX_BATCH_COMMANDS and size < MAX_BATCH_BYTES:
            size += self._queue[0].size
            batch.append(self._queue.popleft())
        return batch

    def _exchange(self, batch: list[Command]) -> None:
        connection, failure = self._connected()
        now = time.monotonic()
        live = []
        for command in batch:
            if command.deadline <= now:
                command.done(Failed("timeout", True))
            elif connection is None:
                command.done(failure)
            else:
                live.append(command)
        if connection is None or not live:
            return
        answered = 0
        latest = max(c.deadline for c in live)
        unknown: list[Command] = []
        try:
            self._send(connection, live)
            for command in live:
                outcome = self._receive(connection, latest)
                answered += 1
                if command.script is not None and outcome == Failed("noscript", True):
                    unknown.append(command)
                else:
                    command.done(outcome)
            live, answered, unknown = unknown, 0, []
            for command in live:
                self._load_and_repeat(connection, command)
                answered += 1
        except Exception as problem:
            # Replies are lost, so the connection is out of step: drop it. What was sent may have been executed.
            self._drop()
            reason = "timeout" if isinstance(problem, (RedisTimeout, TimeoutError)) else "reset"
            if not isinstance(problem, (RedisError, OSError)):
                # This thread must live on whatever happens: without it the node is lost to the process.
                LOG.exception("LINK_ERROR", extra={"fields": {"node": self.name}})
            for command in unknown:
                command.done(Failed(reason, True))
            for command in live[answered:]:
                command.done(Failed(reason, False))

    def _send(self, connection: Connection, commands: list[Command]) -> None:
        packed: list[bytes] = []
        for command in commands:
            packed.extend(connection.pack_command(*command.args))
        connection.send_packed_command([b"".join(packed)], check_health=False)

    def _receive(self, connection: Connection, deadline: float) -> Outcome:
        remaining = max(0.01, deadline - time.monotonic())
        try:
            # An error reply such as LOADING leaves the connection in step; only lost replies make us drop it.
            return Answer(connection.read_response(timeout=remaining, disconnect_on_error=False))
        except (ResponseError, AuthenticationError) as problem:
            return classify(problem)
        except RedisError as problem:
            known = classify(problem)
            if known.certain:
                return known
            raise

    def _load_and_repeat(self, connection: Connection, command: Command) -> None:
        if command.script is None:  # pragma: no cover - only scripts answer NOSCRIPT
            return
        self._send(connection, [plain_command(("SCRIPT", "LOAD", command.script.source), 0, command.done), command])
        loaded = self._receive(connection, command.deadline)
        outcome = self._receive(connection, command.deadline)
        command.done(loaded if isinstance(loaded, Failed) and loaded.certain else outcome)

    def _connected(self) -> tuple[Connection | None, Failed]:
        if self._connection is not None:
            return self._connection, Failed("connect", True)
        if time.monotonic() < self._retry_at:
            return None, Failed(self._last_failure, True)
        connection = self._new_connection()
        try:
            connection.connect()
        except (RedisError, OSError, ValueError) as problem:
            connection.disconnect()
            known = classify(problem)
            self._last_failure = known.reason if known.certain else "connect"
            self._retry_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, RECONNECT_MAX_SEC)
            self._on_connect(f"{type(problem).__name__}: {problem}")
            return None, Failed(self._last_failure, True)
        self._connection, self._pause = connection, RECONNECT_MIN_SEC
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
        return SSLConnection(
            **options,
            ssl_cert_reqs="required",
            ssl_check_hostname=True,
            ssl_ca_certs=self._access.ca_file,
            ssl_certfile=self._access.cert_file,
            ssl_keyfile=self._access.key_file,
        )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

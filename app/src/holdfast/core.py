"""What GET /read, POST /write and DELETE /write do, from the token to the audit line, knowing no web framework.

The server's short way and Flask's routes both end here, so a request is judged, counted, audited and answered alike
whichever way it came. Order: rate limit, token and role, key, body, the operation; errors become answers here.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import auth, limits, logs
from .ap_service import require_found
from .errors import (
    BadKey,
    BadRequest,
    BadValue,
    Internal,
    NoQuorum,
    NotFound,
    ServiceError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from .keys import decode_body_value, decode_key, decode_path_value
from .logs import LOG
from .runtime import Runtime
from .settings import Token

#: Bodies above this many bytes, and bodies of unknown size, are taken in by at most LARGE_AT_ONCE requests at once.
LARGE_BYTES, LARGE_AT_ONCE = 65536, 16
#: Which operation a method is on a path's first segment. HEAD is a read whose body the server leaves out.
OPERATIONS = {
    ("GET", "read"): "read",
    ("HEAD", "read"): "read",
    ("POST", "write"): "write",
    ("DELETE", "write"): "delete",
}
_EVENTS = {"cp": "CP", "ap": "AP"}
_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True)
class Asked:
    """A request. ``segments``: the still-encoded path after /read or /write. ``header`` takes a lower-case name.

    ``address``: what the trusted proxies saw. ``length`` is the declared size of the body, None if it is chunked;
    ``body(n)`` reads at most n bytes of it.
    """

    operation: str
    segments: list[str]
    address: str
    header: Callable[[str], str | None]
    length: int | None
    body: Callable[[int], bytes]


@dataclass(slots=True)
class Answered:
    """An answer. ``headers`` lack Content-Length only."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class _Noted:
    """What the audit line will say, as far as the request got."""

    token: Token | None = None
    key: str | None = None
    version: str | None = None


class _Busy(Exception):
    """No slot came free in time, so nothing was begun."""


class _Slots:
    """At most ``count`` holders at once, others wait ``seconds``. threading's own semaphores are slow under gevent."""

    def __init__(self, count: int, seconds: float) -> None:
        self._seconds = seconds
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def __enter__(self) -> None:
        try:
            self._free.get(timeout=self._seconds)
        except queue.Empty:
            raise _Busy from None

    def __exit__(self, *_exc: object) -> None:
        self._free.put(None)


class Core:
    def __init__(self, runtime: Runtime, tokens: auth.Tokens, check: limits.Check) -> None:
        self._runtime, self._tokens, self._check = runtime, tokens, check
        settings = runtime.settings
        self._mode, self._max = settings.mode, settings.max_value_bytes
        self._wait = wait = settings.network_timeout_sec
        self._slots, self._large = _Slots(settings.requests_at_once, wait), _Slots(LARGE_AT_ONCE, wait)
        self._output = logs.output()

    def answer(self, asked: Asked) -> Answered:
        """Never raises: whatever goes wrong becomes an answer of the contract."""
        started = time.perf_counter()
        if self._output is not None and not self._output.ready(self._wait):
            return self._unaudited(asked, started)
        noted = _Noted()
        try:
            fields, headers = self._serve(asked, noted)
            code = "success"
            answered = Answered(200, headers, (_json(fields) + "\n").encode())
        except ServiceError as error:
            code, answered = error.code, failed(self._mode, error)
        except _Busy:
            busy = (NoQuorum if self._mode == "cp" else Unavailable)("too many requests at once; nothing was sent")
            code, answered = busy.code, failed(self._mode, busy)
        except Exception as problem:
            LOG.error("UNEXPECTED_ERROR", exc_info=problem, extra={"fields": {"endpoint": asked.operation}})
            unexpected = Internal("unexpected error; the log has it under UNEXPECTED_ERROR")
            code, answered = unexpected.code, failed(self._mode, unexpected)
        self._runtime.metrics.request(asked.operation, code, time.perf_counter() - started)
        self._audit(asked, noted, code, answered.status)
        return answered

    def _unaudited(self, asked: Asked, started: float) -> Answered:
        """Refuse before anything is looked at. There is no audit line of it: LOG_RESUMED says how many there were."""
        error = Unavailable("nobody reads the audit log of this instance; nothing was sent")
        self._runtime.metrics.request(asked.operation, error.code, time.perf_counter() - started)
        return failed(self._mode, error)

    def _serve(self, asked: Asked, noted: _Noted) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        noted.token = self._tokens.identify(asked.header("authorization"))
        self._check(noted.token, asked.address)
        auth.require(noted.token, "read" if asked.operation == "read" else "write")
        key = self._key(asked, noted)
        if asked.operation == "read":
            with self._slots:
                return self._read(asked, key)
        value = self._value(asked) if asked.operation == "write" else None
        with self._slots:
            return self._write(asked, noted, key, value)

    def _read(self, asked: Asked, key: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        cp = self._runtime.cp
        body = self._about(key)
        if cp is not None:
            got = cp.read(key)
            body |= {"value": got.value, "version": got.version, "staleness_ms": 0, "stale": False}
            return body | {"source": "majority"}, _headers()
        visits = self._runtime.need_visits()
        answer, more = visits.read(key, asked.header("x-session-token"), asked.header("cookie"))
        require_found(answer)
        body |= {"value": answer.value, "version": answer.version, "staleness_ms": answer.staleness_ms}
        body |= {"stale": answer.stale, "source": answer.source}
        if answer.read_your_writes is not None:
            body["read_your_writes"] = answer.read_your_writes
        return body, [*_headers(), *more]

    def _write(
        self, asked: Asked, noted: _Noted, key: str, value: str | None
    ) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Write or (None) delete, in the instance's mode."""
        cp = self._runtime.cp
        if cp is not None:
            done = cp.delete(key) if value is None else cp.write(key, value)
            noted.version = done.version
            return self._about(key) | {"version": done.version, "acks": list(done.acks)}, _headers()
        visits = self._runtime.need_visits()
        written, more = visits.write(key, value, asked.header("x-session-token"), asked.header("cookie"))
        noted.version = written.version
        return self._about(key) | {"version": written.version, "acks": list(written.acks)}, [*_headers(), *more]

    def _about(self, key: str) -> dict[str, Any]:
        return {"status": "SUCCESS", "mode": self._mode, "key": key}

    def _key(self, asked: Asked, noted: _Noted) -> str:
        segments = asked.segments
        if not segments:
            raise BadKey("the path has no key")
        if len(segments) > (2 if asked.operation == "write" else 1):
            raise NotFound("no such path (a slash inside a key or value is written %2F)")
        noted.key = key = decode_key(segments[0])
        return key

    def _value(self, asked: Asked) -> str:
        if asked.length is not None and asked.length <= LARGE_BYTES:
            body = self._body(asked)
        else:
            with self._large:
                body = self._body(asked)
        if len(asked.segments) == 1:
            return decode_body_value(body, self._max)
        if body:
            raise BadValue("there is a value in the path and one in the body: send one of them")
        return decode_path_value(asked.segments[1], self._max)

    def _body(self, asked: Asked) -> bytes:
        """The whole body. A body that was cut off on its way is refused, never stored."""
        if asked.length is not None and asked.length > self._max:
            raise TooLarge(f"a value has at most {self._max} bytes")
        try:
            body = asked.body(self._max + 1)
        except Exception as problem:  # whatever kind of error this server's reader has for broken chunks
            raise BadRequest("the body could not be read") from problem
        if len(body) > self._max:
            raise TooLarge(f"a value has at most {self._max} bytes")
        if asked.length is not None and len(body) != asked.length:
            raise BadRequest("the body is shorter than its Content-Length")
        return body

    def _audit(self, asked: Asked, noted: _Noted, status: str, http_status: int) -> None:
        prefix = _EVENTS[self._mode]
        if status == "unauthorized":
            name = "AUTHENTICATION_FAILURE"
        elif status == "forbidden":
            name = "AUTHORIZATION_FAILURE"
        elif status == "rate_limited":
            name = "RATE_LIMITED"
        elif asked.operation == "read":
            name = f"{prefix}_READ"
        elif status == "success":
            name = f"{prefix}_COMMIT"
        else:
            name = f"{prefix}_OUTCOME_UNKNOWN" if status == "outcome_unknown" else f"{prefix}_ABORTED"
        self._runtime.audit.request(
            name,
            key=noted.key,
            client=asked.address,
            actor=noted.token.name if noted.token is not None else None,
            operation=asked.operation,
            outcome=status,
            http_status=http_status,
            version=noted.version,
        )


def _headers() -> list[tuple[str, str]]:
    return [("Content-Type", "application/json"), ("Cache-Control", "no-store")]


def failure(mode: str, error: ServiceError) -> dict[str, Any]:
    """The body of every answer that is not a success."""
    return {"status": "FAILURE", "mode": mode, "error": {"code": error.code, "message": error.message}, **error.details}


def failed(mode: str, error: ServiceError) -> Answered:
    """The whole answer that an error becomes."""
    headers = _headers()
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", 'Bearer realm="holdfast"'))
    return Answered(error.status, headers, (_json(failure(mode, error)) + "\n").encode())

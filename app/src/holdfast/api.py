"""HTTP: the application factory and the routes. Errors become answers here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, Response, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from . import auth, limits
from .ap_service import require_found
from .audit import derive_key
from .errors import (
    BadKey,
    BadRequest,
    BadValue,
    Internal,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    ServiceError,
    TooLarge,
    Unauthorized,
)
from .keys import decode_body_value, decode_key, decode_path_value, raw_segments
from .logs import LOG
from .metrics import CONTENT_TYPE
from .openapi import document
from .runtime import Runtime
from .sessions import Session, decode, encode

SESSION_HEADER = "X-Session-Token"
#: Endpoints that need no token and know no rate limit.
OPEN = ("health", "live", "metrics", "circuit_breaker")
_EVENTS = {"cp": "CP", "ap": "AP"}


class RawPath:
    """WSGI: route /read/... and /write/... on the raw target, so that an encoded slash stays in its segment."""

    def __init__(self, inner: Callable[[WSGIEnvironment, StartResponse], Any]) -> None:
        self._inner = inner

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ.get("PATH_INFO", "/")
        segments = raw_segments(str(raw))
        if segments[0] in ("read", "write"):
            environ["PATH_INFO"] = f"/{segments[0]}"
            environ["holdfast.segments"] = segments[1:]
        return self._inner(environ, start_response)


def create_app(runtime: Runtime) -> Flask:
    settings = runtime.settings
    app = Flask("holdfast", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config.update(MAX_CONTENT_LENGTH=settings.max_value_bytes, PROPAGATE_EXCEPTIONS=False)
    app.wsgi_app = RawPath(app.wsgi_app)  # type: ignore[method-assign]
    if settings.trusted_proxy_count:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxy_count, x_proto=0)  # type: ignore[method-assign]
    tokens = auth.Tokens(settings.tokens)

    @app.before_request
    def identify() -> None:
        g.started = time.perf_counter()
        g.token = tokens.identify(request.headers.get("Authorization"))

    # Registered after `identify` and before the routes: requests with bad tokens are counted per address.
    limiter = limits.attach(app, settings, lambda: request.endpoint in OPEN)
    _install_routes(app, runtime)
    _install_endings(app, runtime, limiter)
    return app


def _install_routes(app: Flask, runtime: Runtime) -> None:
    options: dict[str, Any] = {"provide_automatic_options": False}
    spec = document(runtime.settings.mode)

    @app.get("/health", **options)
    def health() -> ResponseReturnValue:
        reason = runtime.not_ready()
        about = {"mode": runtime.settings.mode, "zone": runtime.settings.zone}
        if reason is None:
            return {"status": "READY", **about}
        return {"status": "NOT_READY", **about, "reason": reason}, 503, {"Retry-After": "1"}

    @app.get("/health/live", **options)
    def live() -> ResponseReturnValue:
        return {"status": "LIVE"}

    @app.get("/metrics", **options)
    def metrics() -> ResponseReturnValue:
        return Response(runtime.metrics.exposition(), content_type=CONTENT_TYPE)

    @app.get("/circuit-breaker", **options)
    def circuit_breaker() -> ResponseReturnValue:
        return {"mode": runtime.settings.mode, "zone": runtime.settings.zone, "nodes": _breakers(runtime)}

    @app.get("/openapi.json", **options)
    def openapi() -> ResponseReturnValue:
        auth.require(g.token, "read")
        return jsonify(spec)

    @app.get("/read", **options)
    def read() -> ResponseReturnValue:
        auth.require(g.token, "read")
        key = _key(1)
        if runtime.cp is not None:
            got = runtime.cp.read(key)
            return _success(
                runtime, key, value=got.value, version=got.version, staleness_ms=0, stale=False, source="majority"
            )
        session, known = _session(runtime)
        answer = require_found(runtime.need_ap().read(key, session, known))
        extra = {} if answer.read_your_writes is None else {"read_your_writes": answer.read_your_writes}
        return _success(
            runtime,
            key,
            value=answer.value,
            version=answer.version,
            staleness_ms=answer.staleness_ms,
            stale=answer.stale,
            source=answer.source,
            **extra,
        )

    @app.post("/write", **options)
    def write() -> ResponseReturnValue:
        auth.require(g.token, "write")
        key = _key(1, 2)
        return _write(runtime, key, _value(runtime.settings.max_value_bytes))

    @app.delete("/write", **options)
    def delete() -> ResponseReturnValue:
        auth.require(g.token, "write")
        return _write(runtime, _key(1), None)


def _write(runtime: Runtime, key: str, value: str | None) -> ResponseReturnValue:
    """Write or (None) delete, in the instance's mode."""
    if runtime.cp is not None:
        done = runtime.cp.delete(key) if value is None else runtime.cp.write(key, value)
        g.version = done.version
        return _success(runtime, key, version=done.version, acks=list(done.acks))
    session, _known = _session(runtime)
    ap = runtime.need_ap()
    base = session or Session()
    written = ap.delete(key, base) if value is None else ap.write(key, value, base)
    g.version = written.version
    response = jsonify(_body(runtime, key, version=written.version, acks=list(written.acks)))
    response.headers[SESSION_HEADER] = encode(written.session, _session_key(runtime))
    return response


def _body(runtime: Runtime, key: str, **fields: Any) -> dict[str, Any]:
    return {"status": "SUCCESS", "mode": runtime.settings.mode, "key": key, **fields}


def _success(runtime: Runtime, key: str, **fields: Any) -> ResponseReturnValue:
    return _body(runtime, key, **fields)


def _key(*counts: int) -> str:
    """The key of a /read or /write path with one of the given numbers of segments."""
    segments: list[str] = request.environ.get("holdfast.segments", [])
    if not segments:
        raise BadKey("the path has no key")
    if len(segments) not in counts:
        raise NotFound("no such path (a slash inside a key or value is written %2F)")
    key = decode_key(segments[0])
    g.key = key
    return key


def _value(max_bytes: int) -> str:
    segments: list[str] = request.environ["holdfast.segments"]
    body = request.get_data(cache=False)
    if len(segments) == 1:
        return decode_body_value(body, max_bytes)
    if body:
        raise BadValue("there is a value in the path and one in the body: send one of them")
    return decode_path_value(segments[1], max_bytes)


def _session_key(runtime: Runtime) -> bytes:
    return derive_key(runtime.settings.secret_key, "holdfast session token 1")


def _session(runtime: Runtime) -> tuple[Session | None, bool]:
    """The session the client shows, and False if it shows something that is not one of ours."""
    token = request.headers.get(SESSION_HEADER)
    if not token:
        return None, True
    session = decode(token, _session_key(runtime))
    return session, session is not None


def _breakers(runtime: Runtime) -> dict[str, Any]:
    now, wall = time.monotonic(), time.time()

    def stamp(at: float | None) -> str | None:
        if at is None:
            return None
        return datetime.fromtimestamp(wall - (now - at), UTC).isoformat(timespec="milliseconds")

    shown = {}
    for name, breaker in runtime.nodes.breakers.items():
        status = breaker.status(now)
        shown[name] = {
            "state": status.state.name,
            "last_failure": status.last_failure,
            "since": stamp(status.since),
            "next_probe": stamp(status.next_probe),
            "window": {"calls": status.calls, "failures": status.failures},
            "guard": runtime.nodes.guard_state(name),
        }
    return shown


def _install_endings(app: Flask, runtime: Runtime, limiter: Any) -> None:
    mode = runtime.settings.mode

    @app.errorhandler(ServiceError)
    def failed(error: ServiceError) -> ResponseReturnValue:
        g.code = error.code
        response = jsonify(failure(mode, error))
        response.status_code = error.status
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        if isinstance(error, Unauthorized):
            response.headers["WWW-Authenticate"] = 'Bearer realm="holdfast"'
        return response

    @app.errorhandler(HTTPException)
    def http_failed(problem: HTTPException) -> ResponseReturnValue:
        response = app.make_response(failed(_translate(problem, limiter, runtime.settings.max_value_bytes)))
        if problem.code == 405 and isinstance(getattr(problem, "valid_methods", None), (list, tuple, set)):
            response.headers["Allow"] = ", ".join(sorted(problem.valid_methods))  # type: ignore[attr-defined]
        return response

    @app.errorhandler(Exception)
    def broken(problem: Exception) -> ResponseReturnValue:
        LOG.error("UNEXPECTED_ERROR", exc_info=problem, extra={"fields": {"endpoint": request.endpoint}})
        return failed(Internal("unexpected error; the log has it under UNEXPECTED_ERROR"))

    @app.after_request
    def account(response: Response) -> Response:
        operation = {"read": "read", "write": "write", "delete": "delete"}.get(request.endpoint or "")
        if operation is not None:
            status = g.get("code", "success")
            runtime.metrics.request(operation, status, time.perf_counter() - g.started)
            _audit(runtime, operation, status, response.status_code)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def failure(mode: str, error: ServiceError) -> dict[str, Any]:
    """The body of every answer that is not a success."""
    return {"status": "FAILURE", "mode": mode, "error": {"code": error.code, "message": error.message}}


def _translate(problem: HTTPException, limiter: Any, max_value_bytes: int) -> ServiceError:
    if problem.code == 404:
        return NotFound("no such path")
    if problem.code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed here")
    if problem.code == 413:
        return TooLarge(f"a value has at most {max_value_bytes} bytes")
    if problem.code == 429:
        return RateLimited("too many requests for this client", limits.retry_after(limiter))
    if problem.code is not None and 400 <= problem.code < 500:
        return BadRequest(problem.description or problem.name)
    return Internal(problem.name)


def _audit(runtime: Runtime, operation: str, status: str, http_status: int) -> None:
    token = g.get("token")
    prefix = _EVENTS[runtime.settings.mode]
    if status == "unauthorized":
        name = "AUTHENTICATION_FAILURE"
    elif status == "forbidden":
        name = "AUTHORIZATION_FAILURE"
    elif status == "rate_limited":
        name = "RATE_LIMITED"
    elif operation == "read":
        name = f"{prefix}_READ"
    else:
        name = {"success": f"{prefix}_COMMIT", "outcome_unknown": f"{prefix}_OUTCOME_UNKNOWN"}.get(
            status, f"{prefix}_ABORTED"
        )
    runtime.audit.record(
        name,
        key=g.get("key"),
        client=limits.client_address(),
        actor=token.name if token is not None else None,
        operation=operation,
        outcome=status,
        http_status=http_status,
        version=g.get("version"),
    )

"""HTTP: the application factory and the routes. Errors become answers here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, Response, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_list_header
from werkzeug.middleware.proxy_fix import ProxyFix

from . import auth, breaker_admin, limits
from .core import OPERATIONS, Answered, Asked, Core, failed
from .errors import BadRequest, Internal, MethodNotAllowed, NotFound, RateLimited, ServiceError, TooLarge
from .heads import Head
from .keys import raw_segments
from .logs import LOG
from .metrics import CONTENT_TYPE
from .openapi import document
from .runtime import Runtime

#: Endpoints that Flask-Limiter leaves alone: open ones that need no token, and those that `core` counts itself.
FREE = ("health", "live", "metrics", "circuit_breaker", "read", "write", "delete")


class RawPath:
    """WSGI: route /read/... and /write/... on the raw target, so that an encoded slash stays in its segment.

    What ``short`` takes is answered by it before Flask's dispatch; without ``short`` Flask's routes answer everything.
    """

    def __init__(self, inner: Callable[[WSGIEnvironment, StartResponse], Any], short: Core | None) -> None:
        self._inner, self._short = inner, short

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ.get("PATH_INFO", "/")
        segments = raw_segments(str(raw))
        if segments[0] in ("read", "write"):
            environ["PATH_INFO"] = f"/{segments[0]}"
            environ["holdfast.segments"] = segments[1:]
            if self._short is not None and (environ["REQUEST_METHOD"], segments[0]) in OPERATIONS:
                done = self._short.answer(asked_of(environ))
                start_response(
                    f"{done.status} {HTTPStatus(done.status).phrase.upper()}",
                    [*done.headers, ("Content-Length", str(len(done.body)))],
                )
                return [] if environ["REQUEST_METHOD"] == "HEAD" else [done.body]
        return self._inner(environ, start_response)


def create_app(runtime: Runtime, short: bool = True) -> Flask:
    """``short`` False: all requests through Flask's dispatch, for the comparison with the short way."""
    settings = runtime.settings
    app = Flask("holdfast", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config.update(MAX_CONTENT_LENGTH=settings.max_value_bytes, PROPAGATE_EXCEPTIONS=False)
    tokens = auth.Tokens(settings.tokens)

    @app.before_request
    def identify() -> None:
        g.token = tokens.identify(request.headers.get("Authorization"))

    # Registered after `identify` and before the routes: requests with bad tokens are counted per address.
    limiter = limits.attach(app, settings, lambda: request.endpoint in FREE, runtime.counts)
    core = Core(runtime, tokens, limits.Check(limiter, settings))
    app.extensions["holdfast"] = core
    app.wsgi_app = RawPath(app.wsgi_app, core if short else None)  # type: ignore[method-assign]
    if settings.trusted_proxy_count:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxy_count, x_proto=0)  # type: ignore[method-assign]
    _install_routes(app, runtime, core)
    _install_endings(app, runtime, limiter)
    return app


def _install_routes(app: Flask, runtime: Runtime, core: Core) -> None:
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
        return {"mode": runtime.settings.mode, "zone": runtime.settings.zone, "nodes": runtime.breakers.view()}

    @app.post("/circuit-breaker/<node>", **options)
    def force_breaker(node: str) -> ResponseReturnValue:
        actor = auth.require(g.token, "admin")
        state, seconds = breaker_admin.parse(request.get_json(force=True, silent=True))
        shown = runtime.breakers.force(node, state, seconds, actor.name, limits.client_address())
        return {"mode": runtime.settings.mode, "zone": runtime.settings.zone, "node": node, **shown}

    @app.get("/openapi.json", **options)
    def openapi() -> ResponseReturnValue:
        auth.require(g.token, "read")
        return jsonify(spec)

    @app.get("/read", **options)
    def read() -> ResponseReturnValue:
        return _through_core(core)

    @app.post("/write", **options)
    def write() -> ResponseReturnValue:
        return _through_core(core)

    @app.delete("/write", **options)
    def delete() -> ResponseReturnValue:
        return _through_core(core)


def _through_core(core: Core) -> Response:
    done = core.answer(asked_of(request.environ))
    return Response(done.body, done.status, done.headers)


def asked_of(environ: WSGIEnvironment) -> Asked:
    """The request of a WSGI environment that RawPath has seen. A body without a length is chunked or empty."""
    first = environ["PATH_INFO"][1:]
    length = environ.get("CONTENT_LENGTH") or ""
    chunked = "HTTP_TRANSFER_ENCODING" in environ
    return Asked(
        OPERATIONS[environ["REQUEST_METHOD"], first],
        environ["holdfast.segments"],
        environ.get("REMOTE_ADDR") or "unknown",
        lambda name: environ.get("HTTP_" + name.upper().replace("-", "_")),
        int(length) if length.isdecimal() else None if chunked else 0,
        environ["wsgi.input"].read,
    )


def short_way(core: Core, trusted_proxies: int) -> Callable[[Head, bytes, str], Answered]:
    """The way of a simple request to ``core`` without WSGI: head, whole body, the peer's address."""

    def answer(head: Head, body: bytes, peer: str) -> Answered:
        segments = raw_segments(head.target)
        forwarded = head.headers.get("x-forwarded-for")
        if forwarded is not None and trusted_proxies:
            peer = forwarded_address(forwarded, peer, trusted_proxies)
        operation = OPERATIONS[head.method, segments[0]]
        return core.answer(Asked(operation, segments[1:], peer, head.headers.get, head.length, lambda _size: body))

    return answer


def forwarded_address(header: str, peer: str, trusted: int) -> str:
    """What ProxyFix makes of X-Forwarded-For: the entry the outermost trusted proxy appended."""
    values = [header] if header.replace(".", "").isalnum() else parse_list_header(header)
    return (values[-trusted] or peer) if len(values) >= trusted else peer


def _install_endings(app: Flask, runtime: Runtime, limiter: Any) -> None:
    mode = runtime.settings.mode

    @app.errorhandler(ServiceError)
    def refused(error: ServiceError) -> Response:
        done = failed(mode, error)
        return Response(done.body, done.status, done.headers)

    @app.errorhandler(HTTPException)
    def http_failed(problem: HTTPException) -> ResponseReturnValue:
        response = refused(_translate(problem, limiter, runtime.settings.max_value_bytes))
        if problem.code == 405 and isinstance(getattr(problem, "valid_methods", None), (list, tuple, set)):
            with_value = len(request.environ.get("holdfast.segments", [])) == 2
            allowed = ["POST"] if with_value else sorted(problem.valid_methods)  # type: ignore[attr-defined]
            response.headers["Allow"] = ", ".join(allowed)
        return response

    @app.errorhandler(Exception)
    def broken(problem: Exception) -> ResponseReturnValue:
        LOG.error("UNEXPECTED_ERROR", exc_info=problem, extra={"fields": {"endpoint": request.endpoint}})
        return refused(Internal("unexpected error; the log has it under UNEXPECTED_ERROR"))

    @app.after_request
    def never_cached(response: Response) -> Response:
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _translate(problem: HTTPException, limiter: Any, max_value_bytes: int) -> ServiceError:
    if problem.code == 404:
        return NotFound("no such path")
    if problem.code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed here")
    if problem.code == 413:
        return TooLarge(f"a value has at most {max_value_bytes} bytes")
    if problem.code == 429:
        return RateLimited(limits.TOO_MANY, limits.retry_after(limiter))
    if problem.code is not None and 400 <= problem.code < 500:
        return BadRequest(problem.description or problem.name)
    return Internal(problem.name)

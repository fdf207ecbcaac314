"""The WSGI server of `holdfast serve`, kept in this one module: gunicorn, one process, threads.

SIGTERM: /health turns 503 at once, requests are served for DRAIN_SEC more (the edge needs that long to notice), then
no more connections are accepted and what is running is finished.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http import errors as http_errors
from gunicorn.workers.gthread import ThreadWorker

from . import logs
from .api import create_app, failure
from .errors import BadRequest, Internal, ServiceError, TooLarge
from .runtime import Runtime
from .settings import Settings

#: Seconds; longer than the edge keeps an idle connection for reuse, or it would hit connections being closed.
KEEPALIVE_SEC = 75
#: Bytes of the request line: a key of 512 bytes, percent-encoded, and a short value. Longer values go into the body.
MAX_REQUEST_LINE = 8190


class Logger(GunicornLogger):  # type: ignore[misc]
    """Sends gunicorn's messages into the operational log."""

    def setup(self, cfg: Any) -> None:
        self.error_log = logging.getLogger("holdfast.server")
        self.error_log.setLevel(logging.NOTSET)
        self.access_log = logging.getLogger("holdfast.server.access")
        self.access_log.disabled = True

    def reopen_files(self) -> None:
        """There are no files."""


class Worker(ThreadWorker):  # type: ignore[misc]
    _draining = False

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._draining:
            return
        self._draining = True
        self.app.runtime.drain()
        timer = threading.Timer(self.app.settings.drain_sec, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """What gunicorn refuses before Flask sees it gets the same JSON shape."""
        error = _as_service_error(exc)
        if error.status >= 500:
            logs.LOG.error("SERVER_ERROR", exc_info=exc)
        else:
            logs.event(logs.LOG, logging.INFO, "BAD_REQUEST", problem=type(exc).__name__)
        body = json.dumps(failure(self.app.settings.mode, error)).encode()
        head = (
            f"HTTP/1.1 {error.status} {type(error).__name__}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.sendall(head.encode() + body)
        except OSError:
            logs.event(logs.LOG, logging.DEBUG, "CLIENT_GONE")


def _as_service_error(exc: Exception) -> ServiceError:
    if isinstance(exc, (http_errors.LimitRequestLine, http_errors.LimitRequestHeaders)):
        return TooLarge("the request line or the headers are too long; send long values in the body")
    if isinstance(exc, (http_errors.ParseException, UnicodeError, ValueError)):
        return BadRequest("not a request this server can read")
    return Internal("unexpected error")


class Server(BaseApplication):  # type: ignore[misc]
    """Built in the parent; ``load`` runs in the worker, where threads may be started."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime: Runtime | None = None
        super().__init__()

    def load_config(self) -> None:
        s = self.settings
        for name, value in {
            "bind": str(s.listen),
            "workers": 1,
            "worker_class": "holdfast.server.Worker",
            "threads": s.threads,
            "worker_connections": 1000,
            "keepalive": KEEPALIVE_SEC,
            "graceful_timeout": int(s.drain_sec + s.network_timeout_sec + 5),
            "timeout": 30,
            "worker_tmp_dir": "/dev/shm",  # noqa: S108  a disk could block the heartbeat
            "control_socket_disable": True,
            "limit_request_line": MAX_REQUEST_LINE,
            "logger_class": "holdfast.server.Logger",
            "forwarded_allow_ips": "",
            "proc_name": "holdfast",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        logs.configure(self.settings.log_level, {"mode": self.settings.mode, "zone": self.settings.zone})
        self.runtime = Runtime(self.settings)
        app = create_app(self.runtime)
        self.runtime.start()
        return app


def run(settings: Settings) -> None:
    """Blocks until the server has ended; exits the process."""
    logs.configure(settings.log_level, {"mode": settings.mode, "zone": settings.zone})
    Server(settings).run()

"""The server of `holdfast serve`: gunicorn's gevent worker made short. ``master`` has what concerns its master.

Each connection is a greenlet. A plain request for /read or /write (``heads.simple``) goes straight to ``core``; every
other byte goes through gunicorn's own parser and Flask, and the connection comes back afterwards. Limits: REQUEST_SEC
to send a request and to take an answer, KEEPALIVE_SEC between requests, CONNECTIONS at once in a worker.

SIGTERM: /health turns 503 at once, requests are served for DRAIN_SEC more (the edge needs that long to notice), then
no more connections are accepted, idle ones are closed, and what is running is finished.

Nothing that makes locks, threads or sockets is imported here: the worker patches the standard library first.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import sys
import time
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import gevent
from gevent import monkey
from gevent import socket as green
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.http import RequestParser
from gunicorn.http import errors as http_errors
from gunicorn.workers.ggevent import GeventWorker

from . import board, heads, logs
from .errors import BadRequest, Internal, ServiceError, TooLarge
from .master import Master, heed_signals
from .output import Output
from .settings import Settings

#: Seconds; longer than the edge keeps an idle connection for reuse, or it would hit connections being closed.
KEEPALIVE_SEC = 75
#: Seconds a client may take to send one request, and again to take its answer.
REQUEST_SEC = 30
#: Bytes of the request line: a key of 512 bytes, percent-encoded, and a short value. Longer values go into the body.
MAX_REQUEST_LINE = 8190
#: Connections a worker holds at once; more wait in the backlog.
CONNECTIONS = 1000
#: Bodies up to this many bytes are read by the short way; larger ones by gunicorn.
SHORT_BODY = 65536
SWEEP_SEC = 1.0
#: Seconds that the end of a process waits for log lines that standard output did not take yet.
FLUSH_SEC = 2.0
FOREVER = float("inf")


class Connection:
    """One client. ``until`` is when the worker's sweep cuts it off (monotonic seconds)."""

    __slots__ = ("idle", "socket", "until")

    def __init__(self, client: Any) -> None:
        self.socket, self.idle, self.until = client, True, time.monotonic() + REQUEST_SEC

    def receive(self, size: int) -> bytes:
        return bytes(self.socket.recv(size))

    def cut(self) -> None:
        """The greenlet that reads or writes here finds the connection closed."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            logs.event(logs.LOG, logging.DEBUG, "CLIENT_GONE")


class Worker(GeventWorker):  # type: ignore[misc]
    sockets: list[Any]
    _draining = False

    def patch(self) -> None:
        """Runs in the new worker before the application is imported."""
        monkey.patch_all()
        inherited: list[Any] = self.sockets
        self.sockets = [green.socket(s.FAMILY, socket.SOCK_STREAM, fileno=s.sock.detach()) for s in inherited]

    def run(self) -> None:
        self._connections: set[Connection] = set()
        self._core = self.app.core
        self._second, self._date = 0, b""
        servers = []
        for listener in self.sockets:
            listener.setblocking(True)
            server = StreamServer(listener, handle=partial(self.handle, listener), spawn=Pool(CONNECTIONS))
            if self.cfg.workers > 1:
                server.max_accept = 1  # so that one worker does not take all that wait
            server.start()
            servers.append(server)
        while self.alive:
            self.notify()
            gevent.sleep(SWEEP_SEC if not self._draining else 0.05)
            self._sweep()
        for server in servers:
            server.close()
        until = time.monotonic() + self.cfg.graceful_timeout
        while self._connections and time.monotonic() < until:
            self.notify()
            for connection in list(self._connections):
                if connection.idle:
                    connection.cut()
            gevent.sleep(0.02)
        self.app.runtime.stop()
        self.app.output.finish(FLUSH_SEC)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            if connection.until < now:
                connection.cut()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection = Connection(client)
        self._connections.add(connection)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._converse(listener.getsockname(), connection, addr)
        except OSError as problem:
            logs.event(logs.LOG, logging.DEBUG, "CLIENT_GONE", problem=type(problem).__name__)
        except Exception as problem:
            self.handle_error(None, client, addr, problem)
        finally:
            self._connections.discard(connection)
            util.close(client)

    def _converse(self, name: Any, connection: Connection, addr: Any) -> None:
        """Requests one after the other, each the short way or the full one."""
        data = b""
        going = True
        while going:
            if not data:
                data = connection.receive(16384)
                if not data:
                    return
            connection.idle, connection.until = False, time.monotonic() + REQUEST_SEC
            head = heads.simple(data)
            if head is not None and head.length <= SHORT_BODY:
                data, going = self._short(connection, addr, head, data)
            else:
                data, going = self._full(name, connection, addr, data)
            connection.idle, connection.until = True, time.monotonic() + KEEPALIVE_SEC

    def _short(self, connection: Connection, addr: Any, head: heads.Head, data: bytes) -> tuple[bytes, bool]:
        """Answer through ``core``. Returns what was received beyond this request, and whether to go on."""
        end = head.size + head.length
        if len(data) < end:
            parts, missing = [data], end - len(data)
            while missing > 0:
                part = connection.receive(missing)
                if not part:
                    return b"", False
                parts.append(part)
                missing -= len(part)
            data = b"".join(parts)
        connection.until = FOREVER  # from here on ``core`` keeps the time
        done = self.app.short(head, data[head.size : end], addr[0])
        keep = head.keep and self.alive
        connection.until = time.monotonic() + REQUEST_SEC
        connection.socket.sendall(self._response(done, keep))
        return data[end:], keep

    def _response(self, done: Any, keep: bool) -> bytes:
        """The same head gunicorn would make of this answer."""
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, f"Server: gunicorn\r\nDate: {util.http_date()}\r\n".encode()
        headers = "".join([f"{name}: {value}\r\n" for name, value in done.headers])
        return b"%b%bConnection: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
            _STATUS_LINES[done.status],
            self._date,
            b"keep-alive" if keep else b"close",
            headers.encode("latin-1"),
            len(done.body),
            done.body,
        )

    def _full(self, name: Any, connection: Connection, addr: Any, data: bytes) -> tuple[bytes, bool]:
        """Answer one request with gunicorn's parser and Flask. Returns like ``_short``."""
        parser = RequestParser(self.cfg, connection.socket, addr)
        parser.unreader.unread(data)
        request = None
        try:
            request = next(parser)
            # Time for the body, then for the nodes, then for the answer to be taken.
            connection.until = time.monotonic() + 2 * REQUEST_SEC + self.app.settings.network_timeout_sec
            self.handle_request(name, request, connection.socket, addr)
            # A request that was refused may have a body nobody wanted; a client that goes on sending it is cut off.
            if not parser.finish_body(time.monotonic() + 1.0, 2 * self.app.settings.max_value_bytes):
                _let_finish(connection.socket)
                return b"", False
        except (StopIteration, http_errors.NoMoreData):
            return b"", False
        except OSError:
            raise
        except Exception as problem:
            self.handle_error(request, connection.socket, addr, problem)
            return b"", False
        return parser.unreader.take_buffered(), True

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._draining:
            return
        self._draining = True
        if (
            self.app.runtime is None
        ):  # still starting: nothing to drain, and an error here would look like a failed start
            self.alive = False
            return
        self.app.runtime.drain()
        gevent.spawn_later(self.app.settings.drain_sec, setattr, self, "alive", False)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """What gunicorn refuses before Flask sees it gets the same JSON shape."""
        error = _as_service_error(exc)
        if error.status >= 500:
            logs.LOG.error("SERVER_ERROR", exc_info=exc)
        else:
            logs.event(logs.LOG, logging.INFO, "BAD_REQUEST", problem=type(exc).__name__)
        body = json.dumps(self.app.failure(error)).encode()
        head = (
            f"HTTP/1.1 {error.status} {type(error).__name__}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.sendall(head.encode() + body)
            _let_finish(client)
        except OSError:
            logs.event(logs.LOG, logging.DEBUG, "CLIENT_GONE")


def _let_finish(client: Any) -> None:
    """A client that is still sending would take the reset for the answer: let it finish, within bounds."""
    client.shutdown(socket.SHUT_WR)
    with gevent.Timeout(1.0, False):
        for _ in range(64):
            if not client.recv(65536):
                break


_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase.upper()}\r\n".encode() for s in HTTPStatus}


def _as_service_error(exc: Exception) -> ServiceError:
    if isinstance(exc, (http_errors.LimitRequestLine, http_errors.LimitRequestHeaders)):
        return TooLarge("the request line or the headers are too long; send long values in the body")
    if isinstance(exc, (http_errors.ParseException, UnicodeError, ValueError)):
        return BadRequest("not a request this server can read")
    return Internal("unexpected error")


class Server(BaseApplication):  # type: ignore[misc]
    """Built in the parent; ``load`` runs in each worker, patched, where threads (greenlets) may be started."""

    def __init__(self, settings: Settings, shared: Path) -> None:
        self.settings = settings
        self.shared = shared
        self.output = Output(sys.stdout.fileno())
        self.runtime: Any = None
        self.core: Any = None
        super().__init__()

    def load_config(self) -> None:
        s = self.settings
        for name, value in {
            "bind": str(s.listen),
            "workers": s.workers,
            "worker_class": "holdfast.server.Worker",
            "worker_connections": CONNECTIONS,
            "keepalive": KEEPALIVE_SEC,
            "graceful_timeout": int(s.drain_sec + s.network_timeout_sec + 5),
            "timeout": 30,
            "worker_tmp_dir": "/dev/shm",  # noqa: S108  a disk could block the heartbeat
            "control_socket_disable": True,
            "limit_request_line": MAX_REQUEST_LINE,
            "logger_class": "holdfast.master.Logger",
            "forwarded_allow_ips": "",
            "proc_name": "holdfast",
            "post_fork": heed_signals,
            "child_exit": self._worker_ended,
            "on_exit": self._ended,
        }.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        Master(self).run()

    def load(self) -> Any:
        from .api import create_app, short_way
        from .core import failure
        from .runtime import Runtime

        self.configure_logs()
        self.output.start(lambda report: logs.event(logs.AUDIT, logging.WARNING, "LOG_RESUMED", **report))
        self.runtime = Runtime(self.settings, self.shared)
        app = create_app(self.runtime)
        self.core = app.extensions["holdfast"]
        self.short = short_way(self.core, self.settings.trusted_proxy_count)
        self.failure = partial(failure, self.settings.mode)
        self.runtime.start()
        return app

    def configure_logs(self) -> None:
        logs.configure(self.settings.log_level, {"mode": self.settings.mode, "zone": self.settings.zone}, self.output)

    def _worker_ended(self, _arbiter: Any, worker: Any) -> None:
        """Its gauges go, its counts stay."""
        for path in (self.shared / "metrics").glob(f"gauge_live*_{worker.pid}.db"):
            path.unlink(missing_ok=True)

    def _ended(self, _arbiter: Any) -> None:
        shutil.rmtree(self.shared, ignore_errors=True)
        self.output.finish(FLUSH_SEC)


def run(settings: Settings, kind: type[Server] = Server) -> None:
    """Blocks until the server has ended; exits the process."""
    shared = board.shared_directory()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared / "metrics")
    server = kind(settings, shared)
    server.configure_logs()
    server.run()

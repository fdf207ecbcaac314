"""Runs `holdfast replicate`: the replicator, its /metrics and /health/live, and an orderly end on SIGTERM."""

from __future__ import annotations

import json
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import logs
from .audit import Audit
from .metrics import CONTENT_TYPE, Metrics
from .nodes import Nodes
from .region_watch import RegionWatch
from .replicate import Replicator
from .runtime import connection_counter, expose_nodes
from .settings import Settings
from .staleness import StalenessWatch


def handler(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "holdfast"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE, metrics.exposition())
            elif self.path == "/health/live":
                self._answer(200, "application/json", b'{"status":"LIVE"}')
            else:
                error = {"code": "not_found", "message": "no such path"}
                body = json.dumps({"status": "FAILURE", "mode": "ap", "error": error}).encode()
                self._answer(404, "application/json", body)

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            """Scrapes are not worth a line."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """A client that went away, such as a health check that has read enough, is not worth a trace in the log."""
        logs.event(logs.LOG, 10, "CLIENT_GONE")


def run(settings: Settings) -> int:
    """Blocks until SIGTERM or SIGINT. Returns the exit code."""
    logs.configure(settings.log_level, {"mode": "replicate", "zone": settings.zone})
    metrics = Metrics("ap", settings.node_names)
    audit = Audit(settings.secret_key, settings.audit_pseudonymise)
    nodes = Nodes(settings, lambda name, fields: audit.record(name, **fields), connection_counter(metrics))
    expose_nodes(metrics, nodes)
    watch = StalenessWatch(nodes, settings.local_node, settings.network_timeout_sec)
    watch.expose(metrics)
    replicator = Replicator(settings, nodes, metrics, audit)
    region = RegionWatch(settings, nodes, metrics, lambda name, fields: audit.record(name, **fields))
    # Blocked before any thread starts and waited for below: no handler runs, so none can meet a lock that is held.
    endings = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    _Server.address_family = socket.AF_INET6 if ":" in settings.listen.host else socket.AF_INET
    server = _Server((settings.listen.host, settings.listen.port), handler(metrics))
    nodes.start()
    watch.start()
    region.start()
    replicator.start()
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    logs.event(logs.LOG, 20, "REPLICATE_STARTED", local_node=settings.local_node)
    signal.sigwait(endings)
    logs.event(logs.LOG, 20, "REPLICATE_STOPPING")
    replicator.stop()
    region.stop()
    watch.stop()
    nodes.stop()
    server.shutdown()
    return 0

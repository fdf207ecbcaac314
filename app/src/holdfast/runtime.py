"""What one `serve` process is made of, put together. Must be built after the server has forked."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import logs
from .ap_service import ApService
from .audit import Audit, derive_key
from .board import Board, make_directory
from .breaker_admin import BreakerAdmin
from .clock_watch import ClockWatch
from .cp_service import CpService
from .limit_counts import LimitCounts
from .metrics import Metrics
from .nodes import Nodes
from .output import STREAMS, Output
from .region_watch import PeerWatch
from .settings import Settings
from .staleness import StalenessWatch
from .visits import Visits

#: How old another worker's view may be in a scrape of this one.
PUBLISH_SEC = 0.5


class Runtime:
    """Exactly one of ``cp`` and ``ap`` is set, by the mode.

    ``shared_directory`` is what the workers of one instance have in common: made anew at each start of the instance, on
    memory where there is some, gone when it ends; None where there is one process only. The subdirectory ``metrics`` is
    prometheus_client's; other names are free. A worker is known there by its process id, which is unique among the
    living.
    """

    def __init__(self, settings: Settings, shared_directory: Path | None = None) -> None:
        self.settings = settings
        self.shared_directory = shared_directory
        self._directory = shared_directory or make_directory()
        self._only_mine = shared_directory is None
        self._board = Board(self._directory)
        self.metrics = Metrics(settings.mode, settings.node_names)
        self.audit = Audit(settings.secret_key, settings.audit_pseudonymise)
        self.nodes = Nodes(
            settings,
            notify=lambda name, fields: self.audit.record(name, **fields),
            on_connect=connection_counter(self.metrics),
        )
        self.cp: CpService | None = None
        self.ap: ApService | None = None
        self.visits: Visits | None = None
        self._staleness: StalenessWatch | None = None
        self._clocks: ClockWatch | None = None
        self._draining = False
        self._ended = threading.Event()
        self._publisher = threading.Thread(target=self._publish, name="publisher", daemon=True)
        if settings.mode == "cp":
            self.cp = CpService(self.nodes, settings.network_timeout_sec)
        else:
            self._clocks = ClockWatch(
                self.nodes,
                settings.network_timeout_sec,
                settings.max_clock_drift_ms,
                lambda name, fields: self.audit.record(name, **fields),
            )
            self._clocks.expose(self.metrics)
            self.ap = ApService(
                self.nodes,
                settings.local_node,
                settings.network_timeout_sec,
                settings.max_staleness_ms,
                settings.max_clock_drift_ms,
                self._clocks.order,
                settings.session_ttl_sec,
                self._clocks.latest,
            )
            self.visits = Visits(self.ap, settings.secret_keys, settings.session_ttl_sec)
            self._staleness = StalenessWatch(self.nodes, settings.local_node, settings.network_timeout_sec)
            self._staleness.expose(self.metrics)
        expose_nodes(self.metrics, self.nodes)
        self._output = logs.output()
        expose_output(self.metrics, self._output)
        self.breakers = BreakerAdmin(self.nodes, self._board, self.audit.record)
        self.nodes.on_tick = self.breakers.tick
        self._peers = PeerWatch(settings, self.nodes)
        self._peers.expose(self.metrics)
        limit_key = derive_key(settings.secret_key, "holdfast limit counters 1")
        self.counts = LimitCounts(self.nodes, settings.mode, limit_key, settings.network_timeout_sec)
        self.metrics.computed(
            "rate_limiter_shared", "1 if rate limits are counted region-wide now.", lambda: float(self.counts.shared)
        )

    def need_ap(self) -> ApService:
        if self.ap is None:
            raise RuntimeError("this instance does not run in AP mode")
        return self.ap

    def need_visits(self) -> Visits:
        if self.visits is None:
            raise RuntimeError("this instance does not run in AP mode")
        return self.visits

    def start(self) -> None:
        self.breakers.tick(time.monotonic())  # what is forced holds from the first call on
        self.nodes.start()
        self._peers.start()
        self._publisher.start()
        self.counts.start()
        if self._staleness is not None:
            self._staleness.start()
        if self._clocks is not None:
            self._clocks.start()

    def stop(self) -> None:
        self._ended.set()
        self._peers.stop()
        if self._staleness is not None:
            self._staleness.stop()
        self.counts.stop()
        if self._clocks is not None:
            self._clocks.stop()
        self.nodes.stop()
        self._board.leave()
        if self._only_mine:
            shutil.rmtree(self._directory, ignore_errors=True)

    def drain(self) -> None:
        """From now on not ready; requests are still answered. Takes no lock: signal handlers call it."""
        self._draining = True

    def not_ready(self) -> str | None:
        """None if this instance can keep its mode's promise now, otherwise the reason's code. Does no I/O."""
        if self._draining:
            return "draining"
        if self._output is not None and self._output.blocked:
            return "log_blocked"
        return self.cp.not_ready() if self.cp is not None else self.need_ap().not_ready()

    def _publish(self) -> None:
        while not self._ended.wait(PUBLISH_SEC):
            self.metrics.publish()


def connection_counter(metrics: Metrics) -> Callable[[str, bool], None]:
    def count(node: str, ok: bool) -> None:
        metrics.connect_attempts.labels(node).inc()
        if not ok:
            metrics.connect_failures.labels(node).inc()

    return count


def expose_output(metrics: Metrics, output: Output | None) -> None:
    dropped = metrics.counter("log_lines_dropped_total", "Log lines nobody read in time.", {"stream": STREAMS})
    metrics.computed(
        "log_bytes_waiting", "Log lines held for the reader.", lambda: float(output.waiting if output else 0)
    )
    if output is not None:
        output.on_drop = lambda stream: dropped.labels(stream).inc()


def expose_nodes(metrics: Metrics, nodes: Nodes) -> None:
    metrics.worst_per_node(
        "circuit_breaker_state",
        "0 closed, 1 half open, 2 open.",
        lambda: {n: float(b.state) for n, b in nodes.breakers.items()},
    )
    metrics.per_node(
        "node_voting",
        "1 if the node's guard lets its answers count here.",
        lambda: {n: float(nodes.guards.usable(n) is not None) for n in nodes.names},
    )

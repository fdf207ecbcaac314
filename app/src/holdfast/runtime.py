"""What one `serve` process is made of, put together. Must be built after the server has forked."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .ap_service import ApService
from .audit import Audit
from .cp_service import CpService
from .metrics import Metrics
from .nodes import Nodes
from .settings import Settings
from .staleness import StalenessWatch


class Runtime:
    """Exactly one of ``cp`` and ``ap`` is set, by the mode."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.mode, settings.node_names)
        self.audit = Audit(settings.secret_key, settings.audit_pseudonymise)
        self.nodes = Nodes(
            settings,
            notify=lambda name, fields: self.audit.record(name, **fields),
            on_connect=connection_counter(self.metrics),
        )
        self.cp: CpService | None = None
        self.ap: ApService | None = None
        self._staleness: StalenessWatch | None = None
        self._draining = threading.Event()
        if settings.mode == "cp":
            self.cp = CpService(self.nodes, settings.network_timeout_sec)
        else:
            self.ap = ApService(
                self.nodes,
                settings.local_node,
                settings.network_timeout_sec,
                settings.max_staleness_ms,
                settings.max_clock_drift_ms,
            )
            self._staleness = StalenessWatch(self.nodes, settings.local_node, settings.network_timeout_sec)
            self._staleness.expose(self.metrics)
        expose_nodes(self.metrics, self.nodes)

    def need_ap(self) -> ApService:
        if self.ap is None:
            raise RuntimeError("this instance does not run in AP mode")
        return self.ap

    def start(self) -> None:
        self.nodes.start()
        if self._staleness is not None:
            self._staleness.start()

    def stop(self) -> None:
        if self._staleness is not None:
            self._staleness.stop()
        self.nodes.stop()

    def drain(self) -> None:
        """From now on not ready; requests are still answered."""
        self._draining.set()

    def not_ready(self) -> str | None:
        """None if this instance can keep its mode's promise now, otherwise the reason's code. Does no I/O."""
        if self._draining.is_set():
            return "draining"
        return self.cp.not_ready() if self.cp is not None else self.need_ap().not_ready()


def connection_counter(metrics: Metrics) -> Callable[[str, bool], None]:
    def count(node: str, ok: bool) -> None:
        metrics.connect_attempts.labels(node).inc()
        if not ok:
            metrics.connect_failures.labels(node).inc()

    return count


def expose_nodes(metrics: Metrics, nodes: Nodes) -> None:
    metrics.per_node(
        "circuit_breaker_state",
        "0 closed, 1 half open, 2 open.",
        lambda: {n: float(b.state) for n, b in nodes.breakers.items()},
    )
    metrics.per_node(
        "node_voting",
        "1 if the node's guard lets its answers count here.",
        lambda: {n: float(nodes.guards.usable(n) is not None) for n in nodes.names},
    )

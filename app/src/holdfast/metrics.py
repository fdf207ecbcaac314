"""All metrics, on one explicit registry, every series there from the start. Never a key or an address as a label."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from .errors import ALL_ERRORS

disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPERATIONS = ("read", "write", "delete")
STATUSES = ("success", *(e.code for e in ALL_ERRORS))
#: Seconds; dense around the objective of 500 ms, so that a quantile near it means something.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.5, 5.0)


class Metrics:
    def __init__(self, mode: str, nodes: tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        self._mode = mode
        self.requests = Counter(
            "app_requests_total", "Requests by outcome.", ["mode", "operation", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "app_request_latency_seconds",
            "Time to answer a request.",
            ["mode", "operation"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.connect_attempts = Counter(
            "db_connection_attempts_total", "Connections tried to a node.", ["node"], registry=self.registry
        )
        self.connect_failures = Counter(
            "db_connection_failures_total", "Connections to a node that failed.", ["node"], registry=self.registry
        )
        for operation in OPERATIONS:
            self.latency.labels(mode, operation)
            for status in STATUSES:
                self.requests.labels(mode, operation, status)
        for node in nodes:
            self.connect_attempts.labels(node)
            self.connect_failures.labels(node)

    def request(self, operation: str, status: str, seconds: float) -> None:
        self.requests.labels(self._mode, operation, status).inc()
        self.latency.labels(self._mode, operation).observe(seconds)

    def counter(self, name: str, text: str, labels: dict[str, tuple[str, ...]] | None = None) -> Counter:
        """A further counter; ``labels`` maps at most one label to all its values."""
        made = Counter(name, text, list(labels or {}), registry=self.registry)
        for values in (labels or {}).values():
            for value in values:
                made.labels(value)
        return made

    def gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def per_node(self, name: str, text: str, read: Callable[[], dict[str, float]]) -> None:
        """A gauge with the label ``node``, computed when it is scraped."""
        self.registry.register(_PerNode(name, text, read))

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class _PerNode:
    def __init__(self, name: str, text: str, read: Callable[[], dict[str, float]]) -> None:
        self._name, self._text, self._read = name, text, read

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=["node"])
        for node, value in self._read().items():
            family.add_metric([node], value)
        yield family

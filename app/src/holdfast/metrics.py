"""All metrics, every series there from the start. Never a key, an address or a process id as a label.

`serve` runs several workers: with ``PROMETHEUS_MULTIPROC_DIR`` set (before prometheus_client is imported) counters and
histograms live in that directory, one file a process, and whichever worker is scraped adds them all up; a dead
worker's counts stay. Gauges that are computed when they are scraped (``per_node``, ``computed``) are the scraped
worker's own view; ``worst_per_node`` shows the largest value of all living workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from .errors import ALL_ERRORS

disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPERATIONS = ("read", "write", "delete")
STATUSES = ("success", *(e.code for e in ALL_ERRORS))
#: Seconds; dense around the objective of 500 ms, so that a quantile near it means something.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.5, 5.0)
DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    def __init__(self, mode: str, nodes: tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        #: What is computed at the scrape; prometheus_client's files cannot hold it.
        self._computed = CollectorRegistry()
        self._worst: list[tuple[Gauge, Callable[[], dict[str, float]]]] = []
        self._directory = os.environ.get(DIRECTORY_VARIABLE)
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
        # Children are looked up once: labels() costs as much as counting.
        self._latency = {o: self.latency.labels(mode, o) for o in OPERATIONS}
        self._requests = {(o, s): self.requests.labels(mode, o, s) for o in OPERATIONS for s in STATUSES}
        for node in nodes:
            self.connect_attempts.labels(node)
            self.connect_failures.labels(node)

    def request(self, operation: str, status: str, seconds: float) -> None:
        self._requests[operation, status].inc()
        self._latency[operation].observe(seconds)

    def counter(self, name: str, text: str, labels: dict[str, tuple[str, ...]] | None = None) -> Counter:
        """A further counter; ``labels`` maps at most one label to all its values."""
        made = Counter(name, text, list(labels or {}), registry=self.registry)
        for values in (labels or {}).values():
            for value in values:
                made.labels(value)
        return made

    def gauge(self, name: str, text: str) -> Gauge:
        """A gauge that is set; of several workers the largest value shows."""
        return Gauge(name, text, registry=self.registry, multiprocess_mode="livemax")

    def computed(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge without labels, computed when it is scraped."""
        self._computed.register(_Computed(name, text, [], lambda: {(): read()}))

    def per_node(self, name: str, text: str, read: Callable[[], dict[str, float]]) -> None:
        """A gauge with the label ``node``, computed when it is scraped."""
        self._computed.register(_Computed(name, text, ["node"], lambda: {(n,): v for n, v in read().items()}))

    def per_label(self, label: str, name: str, text: str, read: Callable[[], dict[str, float]]) -> None:
        """A gauge with one label, computed when it is scraped."""
        self._computed.register(_Computed(name, text, [label], lambda: {(n,): v for n, v in read().items()}))

    def worst_per_node(self, name: str, text: str, read: Callable[[], dict[str, float]]) -> None:
        """A gauge with the label ``node``: the largest of all living workers, each as of its last ``publish``."""
        self._worst.append((Gauge(name, text, ["node"], registry=self.registry, multiprocess_mode="livemax"), read))
        self.publish()

    def publish(self) -> None:
        """Write this process's values where the other workers' scrapes see them; call it often."""
        for gauge, read in self._worst:
            for node, value in read().items():
                gauge.labels(node).set(value)

    def exposition(self) -> bytes:
        self.publish()
        if self._directory is None:
            return generate_latest(self.registry) + generate_latest(self._computed)
        shared = CollectorRegistry()
        MultiProcessCollector(shared, self._directory)  # type: ignore[no-untyped-call]
        return generate_latest(shared) + generate_latest(self._computed)


class _Computed:
    def __init__(
        self, name: str, text: str, labels: list[str], read: Callable[[], dict[tuple[str, ...], float]]
    ) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family

"""What `holdfast replicate` counts of its pulling, by origin."""

from __future__ import annotations

from .audit import Audit
from .metrics import Metrics
from .twins import Twins


class Counters:
    def __init__(self, metrics: Metrics, origins: tuple[str, ...], audit: Audit) -> None:
        label = {"node": origins}
        self.applied = metrics.counter("ap_replication_applied_total", "Entries applied, by origin.", label)
        self.lost = metrics.counter("ap_replication_superseded_total", "Entries older than what was there.", label)
        self.parked = metrics.counter("ap_replication_parked_total", "Entries parked, version too far ahead.", label)
        self.merges = metrics.counter("ap_full_merges_total", "Full merges finished, by origin.", label)
        self.errors = metrics.counter("ap_replication_errors_total", "Rounds that failed, by origin.", label)
        self.conflicts = metrics.counter("lww_conflicts_total", "Concurrent writes of which one was discarded.", label)
        self.twins = Twins(metrics, origins, audit)
        self.active = metrics.gauge("ap_replication_active", "1 if this process holds the zone's lease.")

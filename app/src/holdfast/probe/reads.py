"""What a read proves: stale, in violation of the mode's promise, or fine. Pure.

CP promises linearizability per key. Judged from one client without knowing the algorithm: a read that began after a
write was acknowledged to this probe must return that write or a later one. A write whose outcome is unknown may take
effect late, even after the acknowledgement of its successor, so seeing one is no violation, unless its version says
that it is older. AP promises an honest ``staleness_ms``, and read-your-writes or ``"read_your_writes": false``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .acks import WriterLog
from .records import ABSENT, FOREIGN, is_register

#: AP: by how much an answer may be staler than it says: clocks of nodes are compared, and the answer travels.
STALENESS_TOLERANCE_MS = 250.0
KEPT_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Miss:
    """A read that began ``at`` and did not show a write; ``seen_at``: when the last read before it began that showed it
    or a later one, -inf if none did. Monotonic seconds."""

    at: float
    seen_at: float


@dataclass(slots=True)
class ReadCheck:
    """Feed every answered read of one mode, after every write line before it.

    ``missed`` holds, per acknowledged write, the reads that should have shown it and did not, so that the report can
    say how many of them were of writes that turned out lost.
    """

    mode: str
    reads: int = 0
    stale: int = 0
    stale_admitted: int = 0
    understated: int = 0
    superseded: int = 0
    late_unknown: int = 0
    foreign: int = 0
    session_reads: int = 0
    session_declined: int = 0
    session_violations: int = 0
    violations: int = 0
    missed: dict[tuple[str, int], list[Miss]] = field(default_factory=dict)
    #: By register: when the last read began and ended that showed a write, for those not below what is acknowledged.
    sightings: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: dict[str, Any], log: WriterLog) -> None:
        self.reads += 1
        problem = self._judge(record, log)
        seen_at = self._sighted(record)
        if record["op"] == "session_read":
            self._session(record, problem)
        if problem is None:
            return
        if problem == "foreign":
            self.foreign += 1
            self._violation(record, "a value that this run never wrote to the key")
            return
        self.stale += 1
        named = (record["writer"], record["acked"])
        self.missed.setdefault(named, []).append(Miss(record["m0"], seen_at))
        if self.mode == "cp":
            self._violation(record, f"stale: {problem}")
            return
        lag = record.get("staleness_ms")
        if record.get("stale") or lag is None:
            self.stale_admitted += 1
        elif record["acked_age_ms"] > lag + record["latency_ms"] + STALENESS_TOLERANCE_MS:
            self.understated += 1
            self._violation(record, "staler than staleness_ms says")
        else:
            self.stale_admitted += 1

    def _sighted(self, record: dict[str, Any]) -> float:
        """When the last read before this one began that showed what is acknowledged now, or more; then notes its own.
        Of registers only, so that the memory does not grow with the reads."""
        if not is_register(record["acked"]):
            return -math.inf
        held = self.sightings.setdefault(record["key"], {})
        for below in [seq for seq in held if seq < record["acked"]]:
            del held[below]
        before = [began for began, ended in held.values() if ended <= record["m0"]]
        if record["seen"] not in (FOREIGN, ABSENT) and record["seen"] >= record["acked"]:
            held[record["seen"]] = record["m0"], record["m1"]
        return max(before, default=-math.inf)

    def _judge(self, record: dict[str, Any], log: WriterLog) -> str | None:
        """None: fine. Otherwise: foreign, absent, older, or version (newer by number, not newer by version)."""
        seen, acked = record["seen"], record["acked"]
        if seen == FOREIGN:
            return "foreign"
        if seen == ABSENT:
            return "absent"
        version, floor = record.get("version"), record.get("acked_version")
        known = isinstance(version, str) and isinstance(floor, str)
        if seen < acked:
            newer = known and str(version) > str(floor)
            if log.is_indefinite(seen) and (newer or not known):
                self.late_unknown += 1
                return None
            if self.mode == "ap" and newer:
                self.superseded += 1
                return None
            return "older"
        if seen > acked and known and str(version) <= str(floor) and self.mode == "cp":
            return "version"
        return None

    def _session(self, record: dict[str, Any], problem: str | None) -> None:
        self.session_reads += 1
        if record.get("read_your_writes") is False:
            self.session_declined += 1
        elif problem is not None:
            self.session_violations += 1
            self._violation(record, "read-your-writes was promised and not kept")

    def _violation(self, record: dict[str, Any], what: str) -> None:
        self.violations += 1
        if len(self.examples) < KEPT_EXAMPLES:
            shown = ("start", "zone", "op", "key", "acked", "seen")
            self.examples.append({"what": what, **{k: record.get(k) for k in shown}})

"""`holdfast probe report`: what a run measured, from its records. Pure; memory: some bytes a write, none a read.

Times. A run's clock is the probe's monotonic clock; wall-clock times (the fault) are placed on it by the first record,
so a step of the wall clock during the run moves nothing.

- *accepted*: a write answered ``ok``; a read answered ``ok`` or ``not_found``.
- *availability*: accepted / offered. Unsent requests were not offered; their number is reported.
- *RTO*: the longest time without a surviving acknowledged write, from the fault on; the first such gap begins at the
  fault itself. *Surviving*: ``verify`` found it present. Superseded writes prove nothing about themselves and are not
  counted, so the resolution is about two intervals of the writers. Without ``verify`` there is no RTO.
  *Recovered*: the last surviving write lies within a timeout and five intervals of the run's last write.
- *RPO*: the age, at the fault, of the oldest write that was acknowledged before the fault and is lost. 0 if none is.
  Writes acknowledged after the fault and lost are counted apart. Never-read writes make the RPO a lower bound.
- *gaps* end with the run's last write; ``open`` says that one was still going on then: it is a lower bound.
- *outcome unknown*: writes that may or may not have happened; they are neither accepted nor lost.
- *stalls*: times in which the probe itself did not run. Requests that failed while it stalled are counted, because
  their failure may be the probe's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from .acks import Acks, WriterLog, state_name
from .reads import Miss, ReadCheck
from .records import LOST, NEVER_READ, NOT_FOUND, OK, PRESENT, STATES, SUPERSEDED, UNSENT, parse_time, stamp
from .series import Covered, Gap, Latencies, PerSecond, longest_gap


class NoRun(Exception):
    """The file does not begin with a run, or the fault is not in it. The text names cause and cure."""


@dataclass(slots=True)
class _Operation:
    """One mode and operation."""

    seconds: PerSecond = field(default_factory=PerSecond)
    latency: Latencies = field(default_factory=Latencies)
    outcomes: dict[str, int] = field(default_factory=dict)
    failed: Covered = field(default_factory=Covered)


class Report:
    """Feed every record (None for a damaged line) in the file's order, then ask for ``result``."""

    def __init__(self) -> None:
        self._acks = Acks()
        self._run: dict[str, Any] | None = None
        self._end: dict[str, Any] | None = None
        self._verified: dict[str, Any] | None = None
        self._last = 0.0
        self._written_until = 0.0
        self._damaged = 0
        self._operations: dict[tuple[str, str], _Operation] = {}
        self._checks: dict[str, ReadCheck] = {}
        self._stalls = Covered()
        self._clock_jumps = 0
        self._clock_stepped = 0.0
        self._unsent: dict[str, int] = {}

    def add(self, record: dict[str, Any] | None) -> None:
        if record is None:
            self._damaged += 1
            return
        kind = record["type"]
        if kind == "run":
            if self._run is not None:
                raise NoRun("the file holds two runs: report on one file per run")
            self._run = record
            self._checks = {t["mode"]: ReadCheck(t["mode"]) for t in record["targets"]}
        elif self._run is None:
            raise NoRun("the file does not begin with a run: give the file that `holdfast probe run` wrote")
        elif kind == "request":
            self._request(record)
        elif kind == "stall":
            self._stalls.add(record["m0"], record["m1"])
            self._clock_jumps += "clock_jump" in record
            self._clock_stepped += abs(record.get("clock_jump", 0.0))
        elif kind == "end":
            self._end = record
        elif kind == "verify_end":
            self._verified = record
        self._acks.add(record)
        if kind == "request" and record["op"] == "write":
            until = record["m1"] if record["outcome"] == OK else record["m0"]
            self._written_until = max(self._written_until, until)
        self._last = max(self._last, record.get("m1", record.get("m0", 0.0)))

    def _request(self, record: dict[str, Any]) -> None:
        mode, op, outcome = record["mode"], record["op"], record["outcome"]
        of = self._operations.setdefault((mode, op), _Operation())
        good = outcome == OK or (op != "write" and outcome == NOT_FOUND)
        of.seconds.add(int(record["due"] - self.began), outcome, good)
        of.outcomes[outcome] = of.outcomes.get(outcome, 0) + 1
        if outcome == UNSENT:
            self._unsent[record["detail"]] = self._unsent.get(record["detail"], 0) + 1
            return
        if good:
            of.latency.add(record["latency_ms"])
        else:
            of.failed.add(record["m0"], record["m1"])
        if op != "write" and "seen" in record and record["writer"] in self._acks.writers:
            self._checks[mode].add(record, self._acks.writers[record["writer"]])

    @property
    def acks(self) -> Acks:
        return self._acks

    @property
    def ended(self) -> dict[str, Any] | None:
        """The line that ends a run; None: the probe was killed."""
        return self._end

    @property
    def requests(self) -> int:
        """Lines of requests."""
        return sum(
            sum(of.seconds.offered.values()) + sum(of.seconds.unsent.values()) for of in self._operations.values()
        )

    @property
    def clock_stepped(self) -> float:
        """Seconds by which the wall clock was stepped, forwards and backwards added up."""
        return self._clock_stepped

    @property
    def written_until(self) -> float:
        """Monotonic time of the last write's acknowledgement, or of its begin if it had none."""
        return self._written_until

    @property
    def _started_with(self) -> float:
        """CPU seconds the probe had used when the run began: starting is no part of the run."""
        return float(self._run.get("cpu_seconds", 0.0)) if self._run else 0.0

    @property
    def began(self) -> float:
        """Monotonic time of the begin."""
        return float(self._run["m0"]) if self._run else 0.0

    @property
    def patience(self) -> float:
        """How long the last surviving write may lie before the last write of the run in a service that works."""
        run = self._run or {}
        return float(run["timeout"]) + 5 / float(run["rate"])

    def result(self, fault_at: float | None = None) -> dict[str, Any]:
        """Everything as JSON. ``fault_at``: wall clock, seconds since 1970. Raises NoRun."""
        if self._run is None:
            raise NoRun("the file holds no run: give the file that `holdfast probe run` wrote")
        offset = parse_time(self._run["start"]) - self.began
        fault = None if fault_at is None else fault_at - offset
        if fault is not None and not self.began <= fault <= self._last:
            raise NoRun(
                f"the fault is not inside the run, which went from {stamp(self.began + offset)} "
                f"to {stamp(self._last + offset)}: give its time in UTC with --fault-at"
            )
        length = self._last - self.began
        return {
            "run": self._run["run"],
            "start": self._run["start"],
            "end": stamp(self._last + offset),
            "seconds": round(length, 3),
            "fault_at": None if fault_at is None else stamp(fault_at),
            "ended": self._end["reason"] if self._end else "killed",
            "damaged_lines": self._damaged,
            "verified": self._verified is not None,
            "modes": {mode: self._mode(mode, fault, offset) for mode in sorted(self._checks)},
            "probe": self._probe(length),
        }

    def _mode(self, mode: str, fault: float | None, offset: float) -> dict[str, Any]:
        logs = {w: log for w, log in self._acks.writers.items() if log.mode == mode}
        check = self._checks[mode]
        lost_reads = _of_lost_writes(check.missed, logs, 2 / float((self._run or {})["rate"]), self._written_until)
        start = self.began if fault is None else fault
        accepted = longest_gap(chain.from_iterable(_acks(log) for log in logs.values()), start, self._written_until)
        operations = {o: _operation(of, self._stalls) for (m, o), of in sorted(self._operations.items()) if m == mode}
        return {
            "operations": operations,
            "longest_gap_in_accepted_writes": self._gap(accepted, offset),
            "targets": {
                w: {
                    "longest_gap_in_accepted_writes": self._gap(
                        longest_gap(_acks(log), start, self._written_until), offset
                    )
                }
                for w, log in logs.items()
            },
            "recovery": self._recovery(logs, fault, offset),
            "reads": {
                "checked": check.reads,
                "stale": check.stale,
                "stale_of_lost_writes": lost_reads,
                "stale_admitted": check.stale_admitted,
                "staleness_understated": check.understated,
                "superseded": check.superseded,
                "late_unknown_writes_seen": check.late_unknown,
                "foreign": check.foreign,
                "session_reads": check.session_reads,
                "session_declined": check.session_declined,
                "session_violations": check.session_violations,
            },
            "violations": check.violations,
            "examples": check.examples,
        }

    def _recovery(self, logs: dict[str, WriterLog], fault: float | None, offset: float) -> dict[str, Any]:
        """Acknowledged writes by state, RTO, RPO."""
        states = dict.fromkeys(STATES, 0)
        surviving: list[float] = []
        lost: list[float] = []
        for log in logs.values():
            for seq in log.acked():
                state = _state(log, seq)
                states[state] += 1
                if state == PRESENT:
                    surviving.append(log.acked_at[seq])
                elif state == LOST:
                    lost.append(log.acked_at[seq])
        result: dict[str, Any] = {
            "acknowledged": sum(states.values()),
            "outcome_unknown": sum(log.unknown for log in logs.values()),
            "unrecorded": sum(log.unrecorded for log in logs.values()),
        }
        if self._verified is None:
            return result
        result |= states | {"complete": states[NEVER_READ] == 0}
        if fault is not None:
            before = [at for at in lost if at <= fault]
            gap = longest_gap(surviving, fault, self._written_until)
            tail = self._written_until - max([fault, *surviving])
            result |= {
                "lost_acked_writes": len(before),
                "lost_acked_after_fault": len(lost) - len(before),
                "rpo_seconds": round(fault - min(before), 3) if before else 0.0,
                "rto_seconds": round(gap.seconds, 3) if gap else 0.0,
                "rto_gap": self._gap(gap, offset),
                "recovered": max(surviving, default=0.0) > fault and tail <= self.patience,
            }
        return result

    def _gap(self, gap: Gap | None, offset: float) -> dict[str, Any] | None:
        if gap is None:
            return None
        return {
            "seconds": round(gap.seconds, 3),
            "start": stamp(gap.start + offset),
            "end": stamp(gap.end + offset),
            "open": gap.open,
            "own_stalls_seconds": round(self._stalls.seconds(gap.start, gap.end), 3),
        }

    def _probe(self, length: float) -> dict[str, Any]:
        covered = self._stalls.seconds(self.began, self._last)
        end = self._end or {}
        cpu = end.get("cpu_seconds")
        return {
            "stalls": len(self._stalls.starts),
            "stalled_seconds": round(covered, 3),
            "stalled_share": round(covered / length, 6) if length else 0.0,
            "clock_jumps": self._clock_jumps,
            "longest_stall_seconds": round(max((e - s for s, e in self._stalls.merged()), default=0.0), 3),
            "unsent": dict(sorted(self._unsent.items())),
            "cpu_share": round((cpu - self._started_with) / length, 4) if cpu is not None and length else None,
            "max_rss_kib": end.get("max_rss_kib"),
        }


def _of_lost_writes(
    missed: dict[tuple[str, int], list[Miss]], logs: dict[str, WriterLog], slack: float, until: float
) -> int:
    """How many stale reads a loss explains: those of writes that are gone; and those of registers that were written
    again since, if acknowledged among those gone (within ``slack`` seconds) and read after the last of them.

    None of a write that an earlier read still showed which began when the loss was over: after the longest time without
    a surviving write between the last lost one and ``until``, the run's end. The first surviving write after the last
    lost one proves less, as the old side may have acknowledged both."""
    acked = [(log.acked_at[seq], _state(log, seq)) for log in logs.values() for seq in log.acked()]
    lost = [at for at, state in acked if state == LOST]
    first, last = min(lost, default=0.0), max(lost, default=0.0)
    gap = longest_gap((at for at, state in acked if state == PRESENT), last, until)
    over = math.inf if gap is None or gap.open else gap.end
    explained = 0
    for (writer, seq), misses in missed.items():
        state = _state(logs[writer], seq)
        unseen = [miss.at for miss in misses if miss.seen_at < over]
        if state == LOST:
            explained += len(unseen)
        elif state == SUPERSEDED and lost and first - slack <= logs[writer].acked_at[seq] <= last + slack:
            explained += sum(at > last for at in unseen)
    return explained


def _state(log: WriterLog, seq: int) -> str:
    return state_name(log.state[seq]) if 0 < seq < len(log.state) else NEVER_READ


def _acks(log: WriterLog) -> list[float]:
    return [log.acked_at[seq] for seq in log.acked()]


def _operation(of: _Operation, stalls: Covered) -> dict[str, Any]:
    available = of.seconds.availability()
    return {
        "offered": sum(of.seconds.offered.values()),
        "accepted": sum(of.seconds.accepted.values()),
        "unsent": sum(of.seconds.unsent.values()),
        "availability": None if available is None else round(available, 6),
        "seconds_below_full": of.seconds.seconds_below_full(),
        "failed_while_the_probe_stalled": of.failed.overlapping(stalls),
        "outcomes": dict(sorted(of.outcomes.items())),
        "latency_ms": of.latency.as_json(),
        "per_second": of.seconds.rows(),
    }

"""What the probe of a drill shows, from its file alone. Definitions are those of `probe/report.py`; on top of them:

- *moment*: the fault; of a run without one the begin of the phase Switch, or else of the run.
- *RTO* of a face is that of its worst client: the last one to be served again, not the first. That of a drill is the
  worst face's.
- *refused*: the longest time between two acknowledged writes of one client in which a write of it was refused.
- What could not be measured for sure is a *problem*. A run with a problem has a picture but no numbers.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..probe.acks import WriterLog, state_name
from ..probe.records import LOST, NEVER_READ, OK, PRESENT, UNSENT, decode, parse_time
from ..probe.report import NoRun, Report
from ..probe.series import Gap, longest_gap
from .drill import Drill

#: A probe that itself did not run for so long, or for this share of the time, has not measured the service.
MAX_STALL_SEC = 5.0
MAX_STALLED_SHARE = 0.1
MAX_UNSENT_SHARE = 0.1
#: Wall-clock times (fault, phases) are placed on the probe's clock; a step larger than this puts them elsewhere.
MAX_CLOCK_STEP_SEC = 1.0


@dataclass(frozen=True, slots=True)
class Face:
    """Times are seconds since the probe's begin. ``seconds``: [second, offered, accepted, unsent] writes."""

    mode: str
    seconds: list[list[int]]
    availability: float | None
    latency: dict[str, Any]
    outcomes: dict[str, int]
    acknowledged: int
    outcome_unknown: int
    refused_seconds: float
    violations: int
    unexplained_violations: int
    rto: Gap | None = None
    rto_client: str = ""
    recovered: bool = False
    rpo_seconds: float = 0.0
    lost_before: int = 0
    lost_after: int = 0
    lost_at: dict[int, int] = field(default_factory=dict)
    oldest_lost_at: float | None = None

    @property
    def rto_seconds(self) -> float:
        return round(self.rto.seconds, 3) if self.rto else 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """``began`` is wall clock, ``moment`` seconds after it."""

    problems: list[str]
    faces: list[Face]
    began: float = 0.0
    length: float = 0.0
    moment: float | None = None
    moment_is: str = ""
    probe: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        return not self.problems and bool(self.faces)

    def numbers(self) -> dict[str, float | int | None]:
        """The worst face counts for times; losses of all faces add up. None: not measured."""
        if not self.measured:
            return dict.fromkeys(
                ("rto_seconds", "rpo_seconds", "lost_acked_writes", "lost_acked_after_fault", "refused_seconds")
            )
        return {
            "rto_seconds": max(f.rto_seconds for f in self.faces),
            "rpo_seconds": max(f.rpo_seconds for f in self.faces),
            "lost_acked_writes": sum(f.lost_before for f in self.faces),
            "lost_acked_after_fault": sum(f.lost_after for f in self.faces),
            "refused_seconds": max(f.refused_seconds for f in self.faces),
        }


def measure(path: Path, drill: Drill) -> Measurement:
    """Memory: some 30 bytes a write. Never raises for what is in the file."""
    failures: dict[str, array[float]] = {}
    report, number = Report(), 0
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, record in enumerate(decode(lines), start=1):  # noqa: B007
                report.add(record)
                if record is not None and record["type"] == "request" and record["op"] == "write":
                    _note(record, failures)
        if number == 0:
            return Measurement(["the probe's file is empty"], [])
        return _measure(report, failures, drill)
    except FileNotFoundError:
        return Measurement(["there is no probe.jsonl: no client measured this run"], [])
    except OSError as problem:
        return Measurement([f"probe.jsonl cannot be read ({problem.strerror})"], [])
    except NoRun as problem:
        return Measurement([str(problem)], [])
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, MemoryError):
        return Measurement([f"probe.jsonl is damaged (line {number}): it is not what the probe writes"], [])


def _note(record: dict[str, Any], failures: dict[str, array[float]]) -> None:
    if record["outcome"] not in (OK, UNSENT):
        failures.setdefault(record["writer"], array("d")).append(record["m0"])


def _measure(report: Report, failures: dict[str, array[float]], drill: Drill) -> Measurement:
    result = report.result()
    wall = parse_time(result["start"])
    at, kind = _moment(drill)
    moment = at - wall
    inside = 0 <= moment <= result["seconds"]
    mono = report.began + moment
    faces = [
        _face(mode, of, report, failures, mono if inside and result["verified"] else None)
        for mode, of in sorted(result["modes"].items(), reverse=True)  # CP first
    ]
    problems = _problems(result, report)
    if not inside:
        problems.append(
            f"the {kind} is not inside the probe's run, which went from {result['start']} to {result['end']}"
        )
    else:
        problems += _coverage(report, drill, mono, wall, kind)
    return Measurement(problems, faces, wall, result["seconds"], moment if inside else None, kind, result["probe"])


def _moment(drill: Drill) -> tuple[float, str]:
    if drill.fault_at is not None:
        return drill.fault_at, "fault"
    started, _ = drill.switch
    if started is not None:
        return started, "switch"
    return drill.started, "start of the run"


def _problems(result: dict[str, Any], report: Report) -> list[str]:
    """Why the file as a whole proves nothing."""
    problems, probe = [], result["probe"]
    if not result["modes"]:
        problems.append("the probe had no target")
    if report.ended is None:
        problems.append("the probe was killed: its file has no end line")
    elif report.ended.get("requests") not in (None, report.requests):
        problems.append(f"the probe made {report.ended['requests']} requests and {report.requests} are in its file")
    if not result["verified"]:
        problems.append("what was acknowledged was not read back: run `holdfast probe verify`, then this again")
    for mode, of in result["modes"].items():
        never, holes = of["recovery"].get(NEVER_READ, 0), of["recovery"]["unrecorded"]
        if never:
            problems.append(f"{mode.upper()}: {never} acknowledged writes were not read back: run verify again")
        if holes:
            problems.append(f"{mode.upper()}: the lines of {holes} writes are missing")
        write = of["operations"].get("write")
        if write is None or not write["offered"]:
            problems.append(f"{mode.upper()}: nothing was written")
        elif write["unsent"] > MAX_UNSENT_SHARE * (write["offered"] + write["unsent"]):
            problems.append(f"{mode.upper()}: the probe left out {write['unsent']} writes that were due")
    if report.clock_stepped > MAX_CLOCK_STEP_SEC:
        problems.append(
            f"the clock of the probe's machine was stepped by {report.clock_stepped:.1f} s in all: "
            "the fault cannot be placed"
        )
    if probe["longest_stall_seconds"] > MAX_STALL_SEC or probe["stalled_share"] > MAX_STALLED_SHARE:
        problems.append(
            f"the probe itself stalled for {probe['stalled_seconds']} s, {probe['longest_stall_seconds']} s at once"
        )
    return problems


def _coverage(report: Report, drill: Drill, moment: float, wall: float, kind: str) -> list[str]:
    """The probe must have been served right before the moment, and gone on until the switch was done."""
    problems = []
    for writer, log in report.acks.writers.items():
        if not any(moment - report.patience <= log.acked_at[seq] <= moment for seq in log.acked()):
            problems.append(f"{writer}: no write was acknowledged in the {report.patience:.1f} s before the {kind}")
    _, ended = drill.switch
    needed = moment + report.patience if ended is None else max(moment, ended - wall + report.began)
    if report.written_until < needed:
        problems.append(f"the probe ended {needed - report.written_until:.1f} s before it could have seen the outcome")
    return problems


def _face(
    mode: str, of: dict[str, Any], report: Report, failures: dict[str, array[float]], moment: float | None
) -> Face:
    """``moment``: on the probe's clock; None: there are no RTO and RPO."""
    logs = {w: log for w, log in report.acks.writers.items() if log.mode == mode}
    write = of["operations"].get("write", {})
    unexplained = of["violations"] - of["reads"]["stale_of_lost_writes"]
    if mode == "ap" and of["recovery"].get(LOST):
        unexplained = 0  # which of AP's promises a lost write broke cannot be told
    face: dict[str, Any] = {
        "mode": mode,
        "seconds": write.get("per_second", []),
        "availability": write.get("availability"),
        "latency": write.get("latency_ms", {}),
        "outcomes": write.get("outcomes", {}),
        "acknowledged": of["recovery"]["acknowledged"],
        "outcome_unknown": of["recovery"]["outcome_unknown"],
        "refused_seconds": max((_refused(log, failures.get(w), report) for w, log in logs.items()), default=0.0),
        "violations": of["violations"],
        "unexplained_violations": max(0, unexplained),
    }
    if moment is None:
        return Face(**face)
    lost = sorted(log.acked_at[seq] for log in logs.values() for seq in log.acked() if _state(log, seq) == LOST)
    before = bisect_right(lost, moment)
    seconds: dict[int, int] = {}
    for at in lost:
        second = int(at - report.began)
        seconds[second] = seconds.get(second, 0) + 1
    return Face(
        **face,
        **_rto(logs, report, moment),
        rpo_seconds=round(moment - lost[0], 3) if before else 0.0,
        lost_before=before,
        lost_after=len(lost) - before,
        lost_at=seconds,
        oldest_lost_at=lost[0] - report.began if before else None,
    )


def _rto(logs: dict[str, WriterLog], report: Report, moment: float) -> dict[str, Any]:
    """Of the client that was without a surviving write for longest."""
    worst, client, recovered = Gap(0.0, 0.0, False), "", True
    for writer, log in logs.items():
        surviving = [log.acked_at[seq] for seq in log.acked() if _state(log, seq) == PRESENT]
        last = max(surviving, default=0.0)
        recovered = recovered and last > moment and report.written_until - last <= report.patience
        gap = longest_gap(surviving, moment, report.written_until)
        if gap is not None and gap.seconds > worst.seconds:
            worst, client = Gap(gap.start - report.began, gap.end - report.began, gap.open), writer
    return {"rto": worst if client else None, "rto_client": client, "recovered": recovered}


def _refused(log: WriterLog, failures: array[float] | None, report: Report) -> float:
    if not failures:
        return 0.0
    acked = sorted(log.acked_at[seq] for seq in log.acked())
    longest = 0.0
    for at in failures:
        place = bisect_left(acked, at)
        start = acked[place - 1] if place else report.began
        end = acked[place] if place < len(acked) else max(report.written_until, at)
        longest = max(longest, end - start)
    return round(longest, 3)


def _state(log: WriterLog, seq: int) -> str:
    return state_name(log.state[seq]) if 0 < seq < len(log.state) else NEVER_READ

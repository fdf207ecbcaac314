"""One run of a runbook as its record.json tells it. Whatever is missing or odd in what only is shown is left out;
what verdict, times or numbers rest on must be right, or the record is broken."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..probe.records import parse_time

FORMAT = 1
RECORD, PROBE, PAGE = "record.json", "probe.jsonl", "report.html"
VERDICTS = ("passed", "failed", "interrupted")
DEFAULT_TARGETS = {"rto_seconds": 900.0, "rpo_seconds": 300.0}
#: What may have a target (missing it fails the drill) and an aim (shown only).
MEASURED = ("rto_seconds", "rpo_seconds", "lost_acked_writes", "lost_acked_after_fault", "refused_seconds")
MAX_BYTES = 8 << 20


class BrokenRecord(Exception):
    """The text says what is wrong with record.json."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Times are seconds since 1970, None where there was none."""

    number: int
    title: str
    started: float | None
    ended: float | None
    result: str
    tasks: int | None
    seconds: float | None
    ansible_seconds: float | None
    slowest: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Drill:
    """``run_verdict`` is the runbook's own; ``verdict`` counts the measurement in once ``judged``."""

    raw: dict[str, Any]
    name: str
    runbook: str
    drill: bool
    started: float
    ended: float | None
    phases: list[Phase]
    fault_kind: str | None
    fault_at: float | None
    run_verdict: str
    verdict: str
    targets: dict[str, float]
    aims: dict[str, float]
    measured: bool

    @property
    def judged(self) -> bool:
        """`holdfast evidence report` has looked at it."""
        return isinstance(self.raw.get("measured"), bool)

    @property
    def shown_verdict(self) -> str:
        """A drill counts as passed only if it was measured."""
        if self.drill and self.verdict == "passed" and not self.measured:
            return "failed"
        return self.verdict

    def text(self, key: str) -> str:
        value = self.raw.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> float | None:
        return number(self.raw.get(key))

    @property
    def switch(self) -> tuple[float | None, float | None]:
        """Begin and end of the phase Switch, which may be several plays."""
        parts = [p for p in self.phases if p.title.split(" ")[0].lower() == "switch" and p.result != "skipped"]
        starts = [p.started for p in parts if p.started is not None]
        ends = [p.ended for p in parts if p.ended is not None]
        return min(starts, default=None), max(ends, default=None)

    @property
    def last_at(self) -> float:
        return self.started if self.ended is None else self.ended


def load(directory: Path) -> Drill:
    """Raises BrokenRecord."""
    path = directory / RECORD
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenRecord(f"{RECORD} is larger than {MAX_BYTES >> 20} MiB")
        raw = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        raise BrokenRecord(f"there is no {RECORD}: the run did not get to write one, or is still running") from None
    except OSError as problem:
        raise BrokenRecord(f"{RECORD} cannot be read ({problem.strerror})") from None
    except (ValueError, RecursionError):
        raise BrokenRecord(f"{RECORD} is not whole JSON: it was written in part") from None
    return parse(raw, directory.resolve().name)


def parse(raw: Any, name: str) -> Drill:
    """Raises BrokenRecord."""
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BrokenRecord(f"{RECORD} is not of format {FORMAT}")
    runbook, verdict = raw.get("runbook"), raw.get("verdict")
    if not isinstance(runbook, str) or not runbook:
        raise BrokenRecord(f"{RECORD} names no runbook")
    if verdict not in VERDICTS:
        raise BrokenRecord(f"{RECORD} has no verdict: the run did not end, or is still running")
    if not isinstance(raw.get("drill"), bool):
        raise BrokenRecord(f"{RECORD} does not say whether it was a drill")
    started = _time(raw, "started")
    if started is None:
        raise BrokenRecord(f"{RECORD} does not say when the run started")
    given = raw.get("fault")
    fault: dict[str, Any] = given if isinstance(given, dict) else {}
    run_verdict = raw.get("run_verdict")
    return Drill(
        raw=raw,
        name=name,
        runbook=runbook,
        drill=raw["drill"],
        started=started,
        ended=_time(raw, "ended"),
        phases=[_phase(p) for p in _list(raw.get("phases")) if isinstance(p, dict)],
        fault_kind=fault.get("kind") if isinstance(fault.get("kind"), str) else None,
        fault_at=_time(fault, "at"),
        run_verdict=run_verdict if run_verdict in VERDICTS else verdict,
        verdict=verdict,
        targets=DEFAULT_TARGETS | _limits(raw, "targets"),
        aims=_limits(raw, "aims"),
        measured=raw.get("measured") is True,
    )


def number(value: Any) -> float | None:
    """A finite number that is not negative, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _limits(raw: dict[str, Any], key: str) -> dict[str, float]:
    given = raw.get(key)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BrokenRecord(f"{key} in {RECORD} is not an object")
    limits: dict[str, float] = {}
    for name in MEASURED:
        if given.get(name) is not None:
            limit = number(given[name])
            if limit is None:
                raise BrokenRecord(f"{key}.{name} in {RECORD} is not a number of 0 or more")
            limits[name] = limit
    return limits


def _time(raw: dict[str, Any], key: str) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    try:
        return parse_time(value) if isinstance(value, str) else _bad_time(key)
    except (ValueError, OverflowError):
        return _bad_time(key)


def _bad_time(key: str) -> float:
    raise BrokenRecord(f"{key!r} in {RECORD} is not a time with a zone")


def _phase(raw: dict[str, Any]) -> Phase:
    tasks, place = number(raw.get("tasks")), number(raw.get("number"))
    slowest = [s for s in _list(raw.get("slowest")) if isinstance(s, dict)]
    return Phase(
        number=0 if place is None else int(place),
        title=str(raw.get("title", "")),
        started=_time(raw, "started"),
        ended=_time(raw, "ended"),
        result=str(raw.get("result", "")),
        tasks=None if tasks is None else int(tasks),
        seconds=number(raw.get("seconds")),
        ansible_seconds=number(raw.get("ansible_seconds")),
        slowest=[(str(s.get("task", "")), number(s.get("seconds")) or 0.0) for s in slowest],
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""What the records of drills say: each beside the limits, then the middle and the worst of all. Pure."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

#: What each drill must stay under; none may be lost.
LIMITS: dict[str, dict[str, float]] = {
    "dr_failover": {"rto_seconds": 30.0, "rpo_seconds": 2.0},
    "dr_failback": {"lost": 0.0, "refused_seconds": 10.0},
}
WORDS = {
    "rto_seconds": "RTO, in seconds",
    "rpo_seconds": "RPO, in seconds",
    "lost": "acknowledged writes lost",
    "refused_seconds": "writes refused for, in seconds",
}


@dataclass(frozen=True)
class Drill:
    """One record. ``measured`` holds None for what the client could not see; ``phases``: (seconds, Ansible's own of them) by title."""

    runbook: str
    evidence: str
    verdict: str
    reasons: list[str]
    measured: dict[str, float | None]
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)


def read(record: Mapping[str, object], evidence: str) -> Drill:
    """Of a record.json. Raises ValueError when it is none."""
    phases = record.get("phases")
    if not isinstance(phases, list) or record.get("runbook") not in LIMITS:
        raise ValueError("it is no record of a drill")
    before, after = _number(record.get("lost_acked_writes")), _number(record.get("lost_acked_after_fault"))
    measured = {name: _number(record.get(name)) for name in WORDS}
    measured["lost"] = None if before is None or after is None else before + after
    return Drill(
        str(record["runbook"]),
        evidence,
        str(record.get("verdict")),
        [str(reason) for reason in record.get("reasons") or []],  # type: ignore[attr-defined]
        measured,
        {str(phase["title"]): (float(phase["seconds"]), float(phase["ansible_seconds"])) for phase in phases},
    )


def _number(held: object) -> float | None:
    return float(held) if isinstance(held, int | float) and not isinstance(held, bool) else None


def kept(value: float, limit: float) -> bool:
    return value < limit or value == limit == 0


def broken(drill: Drill) -> list[str]:
    """Why the drill does not hold; empty if it does."""
    said = []
    for name, limit in LIMITS[drill.runbook].items():
        value = drill.measured.get(name)
        if value is None:
            said.append(f"{WORDS[name]}: not measured")
        elif not kept(value, limit):
            said.append(f"{WORDS[name]}: {value:g}, limit {limit:g}")
    if drill.verdict != "passed":
        said.append("; ".join([drill.verdict, *drill.reasons]))
    return said


def line(drill: Drill) -> str:
    """One drill for people. Ansible's own part stands behind each phase's seconds."""
    numbers = [f"{short} {_shown(drill.measured.get(name))}" for short, name in zip(("RTO", "RPO", "lost", "refused"), WORDS, strict=True)]
    phases = ", ".join(f"{title} {seconds:.1f}/{own:.1f}" for title, (seconds, own) in drill.phases.items())
    own = sum(own for _, own in drill.phases.values())
    return f"{drill.runbook}: {', '.join(numbers)}; Ansible's own {own:.1f} s; phases (of it Ansible's own): {phases}"


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def middle_and_worst(values: list[float]) -> tuple[float, float] | None:
    return (statistics.median(values), max(values)) if values else None


def table(drills: list[Drill]) -> list[tuple[str, float | None, float | None, float | None]]:
    """(what, middle, worst, limit or None) of all drills, each measured number of them once; then the phases' seconds."""
    rows: list[tuple[str, float | None, float | None, float | None]] = []
    for runbook, limits in LIMITS.items():
        of = [drill for drill in drills if drill.runbook == runbook]
        for name, words in WORDS.items():
            held = middle_and_worst([value for drill in of if (value := drill.measured.get(name)) is not None])
            rows.append((f"{runbook}: {words}", *(held or (None, None)), limits.get(name)))
        for title in dict.fromkeys(title for drill in of for title in drill.phases):
            for part, words in enumerate(("seconds", "Ansible's own seconds")):
                found = middle_and_worst([drill.phases[title][part] for drill in of if title in drill.phases])
                rows.append((f"{runbook}: {title}, {words}", *(found or (None, None)), None))
    return rows


def text(drills: list[Drill]) -> str:
    """The table for people."""
    lines = [f"{'':<56} {'p50':>8} {'max':>8} {'limit':>8}"]
    for what, mid, worst, limit in table(drills):
        ends = ["-" if value is None else f"{value:.1f}" for value in (mid, worst)] + ["" if limit is None else f"{limit:g}"]
        lines.append(f"{what:<56} " + " ".join(f"{end:>8}" for end in ends).rstrip())
    return "\n".join(lines)


def as_json(drills: list[Drill], keys: int, writes_per_second: int) -> dict[str, object]:
    rows = [dict(zip(("what", "p50", "max", "limit"), row, strict=True)) for row in table(drills)]
    shown = [asdict(drill) | {"broken": broken(drill)} for drill in drills]
    return {"keys": keys, "writes_per_second": writes_per_second, "held": held(drills), "summary": rows, "drills": shown}


def held(drills: list[Drill]) -> bool:
    return bool(drills) and not any(broken(drill) for drill in drills)

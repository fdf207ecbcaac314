"""The tables of report.html: faces, phases, facts, the run itself. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from .drill import PROBE, Drill
from .markup import Child, Html, join, table, tag
from .measure import Face, Measurement
from .words import clock, count, duration, moment, percent

HEAD = ["Phase", "Began", "Took", "Ansible", "Tasks", "Result"]
MAX_FACTS = 500
MAX_TEXT = 4000


def faces(measurement: Measurement) -> Html | None:
    shown = [face for face in measurement.faces if face.seconds]
    if not shown:
        return None
    head = ["", *(face.mode.upper() for face in shown)]
    rows: list[list[Child]] = []
    if measurement.measured:
        rows += [
            ["RTO", *(_rto(f) for f in shown)],
            ["RPO", *(duration(f.rpo_seconds) for f in shown)],
            ["lost, acknowledged before", *(count(f.lost_before) for f in shown)],
            ["lost, acknowledged after", *(count(f.lost_after) for f in shown)],
        ]
    rows += [
        ["longest refusal", *(duration(f.refused_seconds) for f in shown)],
        ["acknowledged writes", *(count(f.acknowledged) for f in shown)],
        ["outcome unknown", *(count(f.outcome_unknown) for f in shown)],
        ["accepted of offered", *(percent(f.availability) for f in shown)],
        ["latency p50 / p99 / max", *(_latency(f) for f in shown)],
        ["answers against the promise", *(_violations(f) for f in shown)],
        ["refused with", *(_outcomes(f) for f in shown)],
    ]
    listed = table(head, rows, "facts" if len(shown) == 1 else "")
    return join(tag("h2", "By face"), tag("div", listed, class_="panel pad"))


def _rto(face: Face) -> str:
    words = duration(face.rto_seconds)
    if not face.recovered:
        words = f"at least {words}, not recovered"
    return f"{words} ({face.rto_client})" if face.rto_client else words


def _latency(face: Face) -> str:
    def shown(key: str) -> str:
        value = face.latency.get(key)
        return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

    return " / ".join(shown(key) for key in ("p50", "p99", "max")) + " ms"


def _violations(face: Face) -> str:
    if not face.violations:
        return "none"
    explained = face.violations - face.unexplained_violations
    return f"{face.violations}" + (f", {explained} of them of lost writes" if explained else "")


def _outcomes(face: Face) -> str:
    others = {k: v for k, v in face.outcomes.items() if k not in ("ok", "unsent")}
    return ", ".join(f"{name} {number}" for name, number in sorted(others.items(), key=lambda o: -o[1])) or "nothing"


def phases(drill: Drill) -> Html | None:
    if not drill.phases:
        return None
    rows: list[list[Child]] = [
        [
            f"{phase.number} {phase.title}",
            clock(phase.started),
            duration(phase.seconds),
            duration(phase.ansible_seconds),
            count(phase.tasks),
            phase.result,
        ]
        for phase in drill.phases
    ]
    took = [p.seconds for p in drill.phases if p.seconds is not None]
    own = [p.ansible_seconds for p in drill.phases if p.ansible_seconds is not None]
    whole = f"Together {duration(sum(took))}" + (f", {duration(sum(own))} of it Ansible's own work" if own else "")
    slow = [(s, f"{p.number} {p.title}", task) for p in drill.phases for task, s in p.slowest]
    slow = sorted(slow, key=lambda s: -s[0])[:12]
    return join(
        tag("h2", "Phases"),
        tag(
            "div",
            table(["Phase", "Began (UTC)", "Took", "Ansible's own", "Tasks", "Result"], rows, "phases"),
            class_="panel pad",
        ),
        tag("p", f"{whole}. Times are UTC.", class_="soft"),
        tag(
            "details",
            tag("summary", "The slowest tasks"),
            tag(
                "div",
                table(["Task", "Phase", "Took"], [[task, phase, duration(s)] for s, phase, task in slow]),
                class_="panel pad",
            ),
        )
        if slow
        else None,
    )


def facts(drill: Drill) -> Html | None:
    rows = [[name, value] for name, value in flat(drill.raw.get("facts"))]
    if not rows:
        return None
    left = len(rows) - MAX_FACTS
    shown: list[list[Child]] = [list(row) for row in rows[:MAX_FACTS]]
    if left > 0:
        shown.append(["…", f"{left} more in record.json"])
    return join(
        tag("h2", "What the runbook found"), tag("div", table(["Fact", "Value"], shown, "facts"), class_="panel pad")
    )


def about(drill: Drill) -> Html:
    raw = drill.raw
    rows: list[list[Child]] = [
        ["reason", drill.text("reason") or "–"],
        ["operator", drill.text("operator") or "–"],
        ["commit", drill.text("git_commit") or "–"],
        ["inventory", drill.text("inventory") or "–"],
        ["began", moment(drill.started)],
        ["ended", moment(drill.ended)],
        ["fault", f"{drill.fault_kind or 'none'}" + (f", {moment(drill.fault_at)}" if drill.fault_at else "")],
        ["the runbook itself", drill.run_verdict],
    ]
    if drill.text("failed_task"):
        rows.append(["failed task", drill.text("failed_task")])
    for name, value in list(flat(raw.get("arguments")))[:MAX_FACTS]:
        rows.append([f"argument {name}", value])
    return join(tag("h2", "The run"), tag("div", table(["", ""], rows, "facts"), class_="panel pad"))


def repeat(drill: Drill) -> Html:
    words = ["ansible-playbook", f"runbooks/{drill.runbook}.yml"]
    if drill.text("inventory"):
        words += ["-i", drill.text("inventory")]
    arguments = drill.raw.get("arguments")
    if isinstance(arguments, dict) and arguments:
        words += ["-e", json.dumps(arguments, ensure_ascii=False)]
    command = " ".join(shlex.quote(word) for word in words)
    commit = drill.text("git_commit")
    return join(
        tag("h2", "How to repeat it"),
        tag("p", f"At commit {commit}:" if commit else "From the repository:"),
        tag("pre", command),
        tag("p", "To compute the numbers and this page anew from the probe's file:"),
        tag("pre", f"holdfast evidence report {shlex.quote(drill.name)}"),
    )


def instrument(measurement: Measurement) -> Html | None:
    of = measurement.probe
    if not of:
        return None
    unsent = ", ".join(f"{name} {number}" for name, number in of["unsent"].items()) or "none"
    rows: list[list[Child]] = [
        ["ran", f"{moment(measurement.began)}, for {duration(measurement.length)}"],
        ["its own stalls", f"{of['stalls']}, {duration(of['stalled_seconds'])} in all, "
                           f"longest {duration(of['longest_stall_seconds'])}"],
        ["clock jumps", count(of["clock_jumps"])],
        ["requests left out", unsent],
    ]  # fmt: skip
    if of["cpu_share"] is not None:
        rows.append(["CPU", f"{of['cpu_share'] * 100:.1f} % of a core"])
    return join(
        tag("h2", "The measuring client"),
        tag("div", table(["", ""], rows, "facts"), class_="panel pad"),
        tag("p", "Every request is in ", tag("a", PROBE, href=PROBE), ".", class_="soft"),
    )


def flat(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Nested objects as lines: `lag.db_g1` -> `0.2`. Lists of plain values stand in one line."""
    if isinstance(value, dict) and depth < 6:
        for key, part in value.items():
            yield from flat(part, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, list) and depth < 6 and any(isinstance(part, (dict, list)) for part in value):
        for number, part in enumerate(value, start=1):
            yield from flat(part, f"{name}.{number}", depth + 1)
    elif isinstance(value, list):
        yield name, ", ".join(_plain(part) for part in value) or "none"
    elif value is not None or name:
        yield name, _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= MAX_TEXT else f"{shown[:MAX_TEXT]}… ({len(shown)} characters)"

"""The newest drills as metrics of node_exporter's textfile collector. Pure."""

from __future__ import annotations

from .drill import Drill
from .history import Run

_METRICS = {
    "holdfast_drill_last_success_timestamp_seconds": "When the newest drill that passed ended.",
    "holdfast_drill_rto_seconds": "RTO of the newest drill that passed, as its probe saw it.",
    "holdfast_drill_rpo_seconds": "RPO of the newest drill that passed, as its probe saw it.",
    "holdfast_drill_last_run_success": "1 if the newest drill passed, 0 if it failed, was interrupted or not measured.",
    "holdfast_drill_last_run_timestamp_seconds": "When the newest drill ended.",
}


def textfile(runs: list[Run]) -> str:
    """``runs`` newest first."""
    newest: dict[str, Drill] = {}
    passed: dict[str, Drill] = {}
    for run in runs:
        drill = run.drill
        if drill is None or not drill.drill:
            continue
        newest.setdefault(drill.runbook, drill)
        if drill.shown_verdict == "passed" and drill.number("rto_seconds") is not None:
            passed.setdefault(drill.runbook, drill)
    values: dict[str, dict[str, float | None]] = {
        "holdfast_drill_last_success_timestamp_seconds": {n: d.last_at for n, d in passed.items()},
        "holdfast_drill_rto_seconds": {n: d.number("rto_seconds") for n, d in passed.items()},
        "holdfast_drill_rpo_seconds": {n: d.number("rpo_seconds") for n, d in passed.items()},
        "holdfast_drill_last_run_success": {n: float(d.shown_verdict == "passed") for n, d in newest.items()},
        "holdfast_drill_last_run_timestamp_seconds": {n: d.last_at for n, d in newest.items()},
    }
    lines = []
    for metric, words in _METRICS.items():
        lines += [f"# HELP {metric} {words}", f"# TYPE {metric} gauge"]
        for name, value in sorted(values[metric].items()):
            if value is not None:
                lines.append(f'{metric}{{runbook="{_label(name)}"}} {_value(value)}')
    broken = "holdfast_drill_broken_records"
    lines += [f"# HELP {broken} Directories whose record cannot be read.", f"# TYPE {broken} gauge"]
    lines.append(f"{broken} {sum(run.drill is None for run in runs)}")
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    """A newline in a name must not begin a line of its own."""
    clean = text.encode("utf-8", "replace").decode()
    return clean.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _value(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")

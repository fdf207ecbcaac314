"""The verdict of a run: its own, and of a drill what was measured against the targets. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..probe.records import stamp
from .drill import Drill
from .measure import Face, Measurement
from .words import duration

PASSED, FAILED, NOT_MEASURED = 0, 3, 4
NAMES = {
    "rto_seconds": "RTO",
    "rpo_seconds": "RPO",
    "lost_acked_writes": "acknowledged writes lost",
    "lost_acked_after_fault": "writes acknowledged after the fault and lost",
    "refused_seconds": "writes refused for",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """``reasons``: why it did not pass, most important first. ``measured`` is False of a run without a probe."""

    verdict: str
    measured: bool
    reasons: list[str]
    exit_code: int


def judge(drill: Drill, measurement: Measurement | None) -> Judgement:
    """``measurement`` None: a run that is no drill and has no probe; its own verdict stands."""
    reasons = []
    if drill.run_verdict == "failed":
        task = drill.text("failed_task")
        reasons.append(f"the runbook failed in the task: {task}" if task else "the runbook failed")
    elif drill.run_verdict == "interrupted":
        reasons.append("the runbook was interrupted")
    if measurement is None:
        return Judgement(drill.run_verdict, False, reasons, FAILED if reasons else PASSED)
    if not measurement.measured:
        reasons += [f"not measured: {problem}" for problem in measurement.problems or ["the probe has no target"]]
        return Judgement(_not_passed(drill), False, reasons, NOT_MEASURED)
    reasons += _missed(drill, measurement)
    verdict = _not_passed(drill) if reasons else "passed"
    return Judgement(verdict, True, reasons, FAILED if reasons else PASSED)


def updated(drill: Drill, measurement: Measurement | None, judgement: Judgement) -> dict[str, Any]:
    """record.json with the numbers in it. The runbook's own verdict is kept as ``run_verdict``."""
    record = dict(drill.raw)
    record |= {
        "run_verdict": drill.run_verdict,
        "verdict": judgement.verdict,
        "measured": judgement.measured,
        "reasons": judgement.reasons,
        "targets": dict(drill.raw.get("targets") or {}) | drill.targets,
    }
    if measurement is None:
        return record
    record |= measurement.numbers()
    record["measurement"] = None
    if measurement.measured and measurement.moment is not None:
        record["measurement"] = {
            "moment": stamp(measurement.began + measurement.moment),
            "moment_is": measurement.moment_is,
            "faces": {face.mode: _face(face) for face in measurement.faces},
        }
    return record


def met(value: float, limit: float) -> bool:
    return value <= limit


def _face(face: Face) -> dict[str, Any]:
    return {
        "rto_seconds": face.rto_seconds,
        "rto_client": face.rto_client,
        "recovered": face.recovered,
        "rpo_seconds": face.rpo_seconds,
        "lost_acked_writes": face.lost_before,
        "lost_acked_after_fault": face.lost_after,
        "refused_seconds": face.refused_seconds,
        "acknowledged": face.acknowledged,
        "outcome_unknown": face.outcome_unknown,
        "availability": face.availability,
        "violations": face.violations,
    }


def _missed(drill: Drill, measurement: Measurement) -> list[str]:
    reasons = []
    for face in measurement.faces:
        name = face.mode.upper()
        if not face.recovered:
            reasons.append(f"{name}: not every client was served again before the probe ended")
        if face.unexplained_violations:
            reasons.append(f"{name}: {face.unexplained_violations} answers broke the face's promise")
    for key, value in measurement.numbers().items():
        limit = drill.targets.get(key)
        if limit is not None and value is not None and not met(value, limit):
            if key.endswith("_seconds"):
                reasons.append(f"{NAMES[key]} {duration(value)}, target {duration(limit)}")
            else:
                reasons.append(f"{NAMES[key]}: {value:g}, target {limit:g}")
    return reasons


def _not_passed(drill: Drill) -> str:
    return "interrupted" if drill.run_verdict == "interrupted" else "failed"

"""Builds the records of a run by hand, one second after another, so that every number of a report can be checked."""

from __future__ import annotations

import json
from typing import Any

from holdfast.probe.records import Layout, parse_time
from holdfast.probe.report import Report

WALL = parse_time("2026-03-01T10:00:00Z")
MONO = 1000.0
LAYOUT = Layout("__drill:", "abc", 16)


class Lines:
    """``at`` is seconds since the begin of the run, everywhere."""

    def __init__(self, *modes: str) -> None:
        targets = [{"zone": "a", "mode": m, "url": "http://x", "writer": f"a-{m}"} for m in modes or ("cp",)]
        self.records: list[dict[str, Any] | None] = [
            {
                "type": "run",
                "run": "abc",
                "prefix": "__drill:",
                "registers": 16,
                "start": "2026-03-01T10:00:00Z",
                "m0": MONO,
                "targets": targets,
                "rate": 1.0,
                "read_rate": 1.0,
                "timeout": 3.0,
            }
        ]

    def write(
        self, seq: int, at: float, outcome: str = "ok", seconds: float = 0.01, mode: str = "cp", **more: Any
    ) -> None:
        self._request("write", at, outcome, seconds, mode, {"seq": seq, "key": LAYOUT.key(f"a-{mode}", seq), **more})

    def read(
        self,
        acked: int,
        seen: int,
        at: float,
        outcome: str = "",
        seconds: float = 0.01,
        mode: str = "cp",
        op: str = "read",
        **more: Any,
    ) -> None:
        outcome = outcome or ("not_found" if seen == 0 else "ok")
        fields = {"acked": acked, "seen": seen, "acked_age_ms": 1000.0, **more}
        self._request(op, at, outcome, seconds, mode, {"key": LAYOUT.key(f"a-{mode}", acked), **fields})

    def stall(self, start: float, end: float) -> None:
        self.records.append({"type": "stall", "m0": MONO + start, "m1": MONO + end})

    def verified(self, mode: str = "cp", **states: list[int]) -> None:
        for state, seqs in states.items():
            for seq in seqs:
                self.records.append({"type": "final", "writer": f"a-{mode}", "seq": seq, "state": state})
        self.records.append({"type": "verify_end"})

    def report(self, fault: float | None = None) -> dict[str, Any]:
        report = Report()
        for record in self.records:
            report.add(record)
        result = report.result(None if fault is None else WALL + fault)
        json.dumps(result, allow_nan=False)
        return result

    def _request(self, op: str, at: float, outcome: str, seconds: float, mode: str, more: dict[str, Any]) -> None:
        line = {
            "type": "request",
            "op": op,
            "mode": mode,
            "zone": "a",
            "writer": f"a-{mode}",
            "due": MONO + at,
            "m0": MONO + at,
            "outcome": outcome,
            "start": "x",
            **more,
        }
        if outcome == "unsent":
            line.setdefault("detail", "late")
        else:
            line |= {"m1": MONO + at + seconds, "latency_ms": seconds * 1000}
        self.records.append(line)

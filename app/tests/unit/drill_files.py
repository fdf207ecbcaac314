"""Directories as a drill leaves them, made by hand, so that every number of a verdict can be checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from probe_lines import MONO, WALL, Lines

from holdfast.probe.records import stamp


def at(seconds: float) -> str:
    return stamp(WALL + seconds)


def phase(number: int, title: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    slow = [{"task": f"Wait for {title}", "seconds": round((end - start) / 2, 2)}]
    return {
        "number": number,
        "title": title,
        "started": at(start),
        "ended": at(end),
        "result": "ok",
        "tasks": 4,
        "seconds": end - start,
        "ansible_seconds": round((end - start) / 3, 3),
        "slowest": slow,
    } | more


def record(**more: Any) -> dict[str, Any]:
    """A drill whose fault is 10 s after the probe's begin, switched from 12 to 15 s."""
    return {
        "format": 1,
        "runbook": "dr_failover",
        "drill": True,
        "reason": "quarterly drill",
        "operator": "ops",
        "git_commit": "0123abc",
        "inventory": "inventories/lab",
        "started": at(1),
        "ended": at(25),
        "arguments": {"drill": True},
        "phases": [phase(1, "Open", 1, 2), phase(2, "Preflight", 2, 9), phase(5, "Switch", 12, 15)],
        "fault": {"kind": "power", "at": at(10)},
        "verdict": "passed",
        "failed_task": None,
        "facts": {"fencing": "edges closed", "lag": {"db_s1": 0.2, "db_s2": None}},
        "targets": {"rto_seconds": 900, "rpo_seconds": 300},
        "rto_seconds": None,
        "rpo_seconds": None,
        "lost_acked_writes": None,
    } | more


def probe(*modes: str, gap: tuple[float, float] = (10, 16), seconds: int = 30) -> Lines:
    """A write a second and face at 1, 2, ...; those due in ``gap`` were refused. Not verified, not ended."""
    lines = Lines(*modes)
    for number in range(1, seconds + 1):
        for mode in modes or ("cp",):
            refused = gap[0] <= number < gap[1]
            lines.write(number, float(number), "no_quorum" if refused else "ok", mode=mode)
    return lines


def verified(lines: Lines, lost: dict[str, list[int]] | None = None) -> Lines:
    """Every acknowledged write is there, but those in ``lost``."""
    lost = lost or {}
    for mode in [t["mode"] for t in lines.records[0]["targets"]]:  # type: ignore[index]
        acked = [
            r["seq"]
            for r in lines.records
            if r and r["type"] == "request" and r["op"] == "write" and r["mode"] == mode and r["outcome"] == "ok"
        ]
        gone = lost.get(mode, [])
        for seq in acked:
            state = "lost" if seq in gone else "present"
            lines.records.append({"type": "final", "writer": f"a-{mode}", "seq": seq, "state": state})
    lines.records.append({"type": "verify_end"})
    return lines


def ended(lines: Lines, at_second: float = 31.0) -> Lines:
    requests = sum(1 for r in lines.records if r and r["type"] == "request")
    lines.records.append(
        {"type": "end", "reason": "SIGTERM", "m1": MONO + at_second, "requests": requests, "cpu_seconds": 1.0}
    )
    return lines


def write(directory: Path, of: dict[str, Any] | str, lines: Lines | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "record.json").write_text(of if isinstance(of, str) else json.dumps(of))
    if lines is not None:
        text = "".join("half a li\n" if r is None else json.dumps(r) + "\n" for r in lines.records)
        (directory / "probe.jsonl").write_text(text)
    return directory

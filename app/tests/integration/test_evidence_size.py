"""The evidence of a long drill: a million lines of probe are judged in a minute and in little memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from drill_files import at, phase, record, write
from probe_lines import LAYOUT, MONO, WALL

from holdfast.probe.records import encode, stamp

LINES = 1_000_000
RATE = 50.0
FAULT, BACK = 1000.0, 1020.0  # seconds after the probe's begin


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two faces, each written and read 50 times a second; with every line as long as the probe makes it."""
    directory = tmp_path_factory.mktemp("huge")
    writers = ["a-cp", "a-ap"]
    targets = [{"zone": "a", "mode": w[2:], "url": "https://kv.example:5001", "writer": w} for w in writers]
    seconds = LINES / RATE / 6  # of 6 lines: two faces, each a write, a read, and what became of the write
    run = {"type": "run", "run": "abc", "prefix": "__drill:", "registers": 76, "start": at(0), "m0": MONO}
    run |= {"targets": targets, "rate": RATE, "read_rate": RATE, "timeout": 3.0, "format": 1}
    with (directory / "probe.jsonl").open("w") as out:
        out.write(encode(run))
        acked: dict[str, list[int]] = {w: [] for w in writers}
        requests = 0
        for number in range(1, int(seconds * RATE)):
            due = number / RATE
            good = not FAULT <= due < BACK
            for writer in writers:
                for op in ("write", "read"):
                    line = {"type": "request", "op": op, "mode": writer[2:], "zone": "a", "writer": writer}
                    line |= {"key": LAYOUT.key(writer, number), "due": MONO + due, "start": stamp(WALL + due)}
                    line |= {"m0": MONO + due, "end": stamp(WALL + due + 0.01), "m1": MONO + due + 0.01}
                    line |= {"latency_ms": 10.123, "status": 200 if good else 503}
                    line |= {"outcome": "ok" if good else "no_quorum", "version": f"1.{number}.{writer}"}
                    line |= {"seq": number} if op == "write" else {"acked": number - 1, "acked_age_ms": 1.0}
                    if op == "read" and good:
                        line |= {"seen": number, "acked": number}
                    out.write(encode(line))
                    requests += 1
                if good:
                    acked[writer].append(number)
        out.write(encode({"type": "end", "reason": "SIGTERM", "m1": MONO + seconds, "requests": requests}))
        for writer in writers:
            for seq in acked[writer]:
                lost = FAULT - 2 < seq / RATE < FAULT
                state = "lost" if lost else "present"
                final = {"type": "final", "writer": writer, "seq": seq, "key": LAYOUT.key(writer, seq), "state": state}
                out.write(encode(final | {"at": at(seconds)}))
        out.write(encode({"type": "verify_end", "end": at(seconds)}))
    switch = phase(5, "Switch", FAULT + 2, BACK)
    return write(directory, record(phases=[switch], fault={"kind": "power", "at": at(FAULT)}))


def test_a_million_lines(directory: Path) -> None:
    with (directory / "probe.jsonl").open() as lines:
        assert sum(1 for _ in lines) > 0.98 * LINES
    command = [sys.executable, "-m", "holdfast", "evidence", "report", str(directory)]
    child = os.posix_spawn(sys.executable, command, dict(os.environ))
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime  # of work, however much of the machine others have
    of = json.loads((directory / "record.json").read_text())
    page = (directory / "report.html").stat().st_size
    shown = f"{seconds:.1f} s, {used.ru_maxrss / 1024:.0f} MiB, page {page / 1024:.0f} KiB"
    print(shown)
    assert os.waitstatus_to_exitcode(status) == 0, of["reasons"]
    assert of["rto_seconds"] == pytest.approx(BACK + 0.01 - FAULT, abs=1e-3)
    assert of["rpo_seconds"] == pytest.approx(2 - 0.03, abs=1e-3)
    assert of["lost_acked_writes"] == 2 * 99
    assert seconds < 60, shown
    assert used.ru_maxrss < 200 * 1024, shown
    assert page < 1 << 20, shown

"""The benchmark runs: one command, a table with a line for each of the service's operations."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import SRC

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "run.py"


@pytest.mark.alone
def test_quick_run() -> None:
    if shutil.which("wrk") is None:
        pytest.fail("this test needs wrk (Debian: apt-get install wrk)")
    done = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--only", "cp,ap,empty", "--workers", "1"],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    found = re.finditer(r"^\| ([a-z ]+) \| (\d+) \|.*\| (\d+) \|$", done.stdout, re.M)
    rows = {m[1]: (int(m[2]), int(m[3])) for m in found}
    assert set(rows) == {"cp write", "cp read", "ap write", "ap read", "empty route"}, done.stdout + done.stderr
    for name, (rate, errors) in rows.items():
        assert rate > 0, name
        assert errors <= rate * 0.02, f"{name}: a stall of a busy machine may cost a few, not more"
    assert done.returncode == (1 if any(errors for _rate, errors in rows.values()) else 0)


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(SRC), "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(RUN)], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "wrk" in done.stderr

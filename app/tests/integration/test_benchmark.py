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
    assert done.returncode == 0, done.stdout + done.stderr
    rates = {m[1]: int(m[2]) for m in re.finditer(r"^\| ([a-z ]+) \| (\d+) \|.*\| 0 \|$", done.stdout, re.M)}
    assert set(rates) == {"cp write", "cp read", "ap write", "ap read", "empty route"}
    assert min(rates.values()) > 0


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(SRC), "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(RUN)], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "wrk" in done.stderr

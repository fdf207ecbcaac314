"""The backlog benchmark runs and measures a drain that is complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import SRC

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "backlog.py"


@pytest.mark.alone
def test_a_small_backlog_drains_and_is_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--entries", "20000", "--json", "--directory", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["intact"] is True
    assert result["drained_per_second"] > 1000
    assert min(result["hset_per_second"], result["hget_and_hset_per_second"]) > 0

"""The benchmarks of the backup print what happened: a slow restore and a service that stalls show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import SRC

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
#: A Python process with the package has more, and the unit allows no more.
LEAST_MIB, MOST_MIB = 12, 300


def run(name: str, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *arguments],
        env={**os.environ, "PYTHONPATH": str(SRC), **({"PATH": path} if path is not None else {})},
        capture_output=True,
        text=True,
        timeout=180,
    )


def measured(name: str, *arguments: str) -> Any:
    done = run(name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.alone
def test_a_small_restore_is_measured_and_a_slow_one_shows(tmp_path: Path) -> None:
    small = ("--sizes", "5", "--rounds", "1", "--directory", str(tmp_path))
    plain, slow = measured("restore.py", *small), measured("restore.py", *small, "--slower", "3")
    for one in (*plain, *slow):
        assert one["keys"] >= 5000
        assert one["bytes"] > 5_000_000
        assert min(one["load_restored"], one["copy"], one["load_copied"], one["collect"]) > 0
        assert LEAST_MIB < one["restore_mib"] < MOST_MIB
        assert LEAST_MIB < one["collect_mib"] < MOST_MIB
        reference = one["copy"] + one["load_copied"]
        assert one["ratio"] == pytest.approx((one["restore"] + one["load_restored"]) / reference)
    assert [one["shape"] for one in plain] == ["commands", "base"]
    for quick, late in zip(plain, slow, strict=True):
        assert 0 < quick["restore"] < 3 < late["restore"]
        assert late["ratio"] > quick["ratio"]
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_load_beside_backups_is_measured_and_stalls_show(tmp_path: Path) -> None:
    small = ("--pairs", "1", "--seconds", "4", "--keys", "2000")
    small += ("--directory", str(tmp_path), "--repository", str(tmp_path))
    plain, stalled = measured("backup_load.py", *small), measured("backup_load.py", *small, "--disturb")
    for result in (plain, stalled):
        assert result["errors"] == 0
        for window in result["pairs"][0].values():
            assert 150 < window["rate"] < 230
            assert 0 < window["p50"] < window["p99"]
    assert plain["backups"] >= 1
    wanted = {"collect --census", "watch", *(["restic backup"] if shutil.which("restic") else [])}
    assert set(plain["peak_mib"]) == wanted
    assert all(LEAST_MIB < mib < MOST_MIB for mib in plain["peak_mib"].values()), plain["peak_mib"]
    assert stalled["pairs"][0]["with"]["p99"] > 100
    assert stalled["ratio_p99"] > 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["restore.py", "backup_load.py"])
def test_what_is_missing_is_named_with_a_cure(name: str, tmp_path: Path) -> None:
    without = run(name, path=str(tmp_path))
    assert without.returncode == 2
    assert "redis-server" in without.stderr
    assert "install" in without.stderr
    large = ("--sizes", "1000000000") if name == "restore.py" else ("--keys", "1000000000000")
    full = run(name, *large, "--directory", str(tmp_path))
    assert full.returncode == 2
    assert "GB free" in full.stderr
    assert "make room" in full.stderr

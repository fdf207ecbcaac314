"""What a standby lacks is what its link could not carry, and the probe of a drill says so, from its records alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cluster import SRC, TOKENS, wait_for
from regions import NAMES, Regions

from holdfast.probe.records import stamp

HOLDFAST = [sys.executable, "-m", "holdfast"]
ENV = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(SRC)}
#: Bytes a second on each link; the probe's writes make more than four times as many.
SLOW = 2500.0


def drill(regions: Regions, place: Path, rate: float) -> tuple[dict[str, Any], float]:
    """West loses its power under writes, with links to east of this rate. What the probe saw, and east's own lag."""
    place.mkdir()
    (place / "token").write_text(TOKENS["boss"])
    west, east = regions.west.run("serve", "cp"), regions.east.run("serve", "cp")
    regions.west.run("replicate", "ap")  # makes the heartbeats by which a standby's lag is known
    wait_for("serves", west.ready)
    public = regions.proxies.path(west.port)
    probe = place / "probe.jsonl"
    access = ["--token-file", str(place / "token"), "--rate"]
    running = ["probe", "run", "--target", f"cp/cp=http://127.0.0.1:{public.port}", "--duration", "60"]
    running += [*access, "50", "--out", str(probe)]
    client = subprocess.Popen([*HOLDFAST, *running], env=ENV, stdout=subprocess.DEVNULL)
    try:
        for cable in regions.cables.values():
            cable.rate = rate
        time.sleep(6)
        _code, told, _words = regions.east.region("status")
        lag = max(float(told["nodes"][name]["lag_seconds"]) for name in NAMES)
        fault = time.time()
        for cable in regions.cables.values():
            cable.cut = True  # what is on its way is lost with its sender
        regions.west.kill_nodes()
        west.stop()
        regions.fail_over()
        public.target = east.port
        wait_for("serves", east.ready)
        time.sleep(2)
    finally:
        client.terminate()
        client.wait(timeout=20)
    reading = [*HOLDFAST, "probe", "verify", str(probe), *access, "1000"]
    subprocess.run(reading, env=ENV, check=True, stdout=subprocess.DEVNULL, timeout=60)
    judging = [*HOLDFAST, "probe", "report", str(probe), "--json", "--fault-at", stamp(fault)]
    done = subprocess.run(judging, env=ENV, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["modes"]["cp"]
    assert said["recovery"]["recovered"], said
    # The loss explains every answer that was older than it should have been.
    assert said["violations"] == said["reads"]["stale_of_lost_writes"], said["examples"]
    said = said["recovery"]
    return said, lag


@pytest.mark.alone
def test_a_link_that_carries_everything_loses_next_to_nothing(regions: Regions, tmp_path: Path) -> None:
    said, lag = drill(regions, tmp_path / "drill", 0.0)
    assert said["rpo_seconds"] < 0.5, said
    assert said["lost_acked_writes"] < 25, said
    assert lag < 4.0


@pytest.mark.alone
def test_a_slow_link_raises_the_rpo(regions: Regions, tmp_path: Path) -> None:
    said, lag = drill(regions, tmp_path / "drill", SLOW)
    assert said["rpo_seconds"] > 1.0, said
    assert said["lost_acked_writes"] > 25, said
    assert lag > 1.0, "on-call sees it before"

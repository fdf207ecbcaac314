"""The command that runs many drills, once and with few keys: its numbers, and that it says the truth about them."""

import json
import subprocess
from datetime import datetime

import pytest
from clients import ROOT, USERS_ENVIRONMENT, wait_until_ready
from regions import EVIDENCE, region_status, unexcused

KEYS = 3000


@pytest.fixture(scope="module")
def drills(lab, tmp_path_factory):
    """One round: what the command printed and ended with, and its numbers."""
    wait_until_ready(lab)
    place = tmp_path_factory.mktemp("drills") / "drills.json"
    command = [ROOT / "bin/drills", "--count", "1", "--keys", str(KEYS), "--writes-per-second", "100", "--json", place]
    done = subprocess.run(command, env=USERS_ENVIRONMENT, capture_output=True, text=True)
    print(done.stdout)
    assert place.exists(), done.stdout + done.stderr
    return done, json.loads(place.read_text())


def test_one_round_of_drills(lab, drills):
    done, said = drills
    assert [drill["runbook"] for drill in said["drills"]] == ["dr_failover", "dr_failback"], done.stdout + done.stderr
    assert done.returncode == (0 if said["held"] else 1)
    assert said["held"] == (not any(drill["broken"] for drill in said["drills"]))
    for drill in said["drills"]:
        assert not unexcused(drill["reasons"], held=not drill["broken"]), drill
        assert set(drill["phases"]) >= {"Open", "Preflight", "Confirm", "Prepare", "Switch", "Verify", "Close"}
        assert all(0 <= own <= seconds for seconds, own in drill["phases"].values())
    away, back = (drill["measured"] for drill in said["drills"])
    assert away["rto_seconds"] is None or 0 < away["rto_seconds"] < 120
    assert back["lost"] in (0, None)
    for of in ("nodes", "peers"):
        assert min(node["keys"] for node in region_status(lab, "lab-a1")[of].values()) >= KEYS, of
    assert lab.client("read").get(f"{lab.edges[0]['cp']}/read/__drill:key:00000007", timeout=5).json()["value"].endswith("00000007")


def test_the_numbers_of_these_drills_are_there_to_be_scraped(lab, drills):
    text = lab.host("lab-ops1").check_output("cat /var/lib/prometheus/node-exporter/holdfast_drills.prom")
    for drill in drills[1]["drills"]:
        name = f'holdfast_drill_last_run_timestamp_seconds{{runbook="{drill["runbook"]}"}} '
        [there] = [float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)]
        ended = json.loads((EVIDENCE / drill["evidence"] / "record.json").read_text())["ended"]
        assert abs(there - datetime.fromisoformat(ended).timestamp()) < 0.01, text

"""The command that runs many drills, once and with few keys: its numbers, and that it says the truth about them."""

import json
import subprocess

from clients import ROOT, USERS_ENVIRONMENT, wait_until_ready
from regions import KNOWN, region_status

KEYS = 3000


def test_one_round_of_drills(lab, tmp_path):
    wait_until_ready(lab)
    place = tmp_path / "drills.json"
    command = [ROOT / "bin/drills", "--count", "1", "--keys", str(KEYS), "--writes-per-second", "100", "--json", place]
    done = subprocess.run(command, env=USERS_ENVIRONMENT, capture_output=True, text=True)
    print(done.stdout)
    assert place.exists(), done.stdout + done.stderr
    said = json.loads(place.read_text())
    assert [drill["runbook"] for drill in said["drills"]] == ["dr_failover", "dr_failback"], done.stdout + done.stderr
    assert done.returncode == (0 if said["held"] else 1)
    assert said["held"] == (not any(drill["broken"] for drill in said["drills"]))
    for drill in said["drills"]:
        assert not [reason for reason in drill["reasons"] if not reason.startswith(KNOWN)], drill
        assert set(drill["phases"]) >= {"Open", "Preflight", "Confirm", "Prepare", "Switch", "Verify", "Close"}
        assert all(0 <= own <= seconds for seconds, own in drill["phases"].values())
    away, back = (drill["measured"] for drill in said["drills"])
    assert away["rto_seconds"] is None or 0 < away["rto_seconds"] < 120
    assert back["lost"] in (0, None)
    for of in ("nodes", "peers"):
        assert min(node["keys"] for node in region_status(lab, "lab-a1")[of].values()) >= KEYS, of
    assert lab.client("read").get(f"{lab.edges[0]['cp']}/read/__drill:key:00000007", timeout=5).json()["value"].endswith("00000007")


def test_the_numbers_are_there_to_be_scraped(lab):
    text = lab.host("lab-ops1").check_output("cat /var/lib/prometheus/node-exporter/holdfast_drills.prom")
    for runbook in ("dr_failover", "dr_failback"):
        assert f'holdfast_drill_last_run_timestamp_seconds{{runbook="{runbook}"}}' in text, text

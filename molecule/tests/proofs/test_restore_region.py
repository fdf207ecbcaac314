"""The lab's active region goes back to one moment by runbooks/restore_region.yml, and forth again; keys come back by restore_key.yml.

Clients are asked through every edge; what the standby region holds is read from its nodes.
"""

import json
import time
import uuid
from datetime import UTC, datetime

import pytest
from backed_up import deployed, nodes
from clients import wait_until_ready
from regions import region_status, runbook, until
from rotations import killed

DATA = "/srv/holdfast/redis"
EAST = ["lab-a1", "lab-b1", "lab-c1"]


def shown(moment: float) -> str:
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def back_up(lab) -> None:
    for name in EAST:
        for node in nodes(lab.host(name)):
            lab.host(name).check_output(f"systemctl start holdfast-backup@{node}")


def write(lab, key: str, value: str) -> dict[str, str]:
    """On both faces; the versions."""
    client, versions = lab.client(), {}
    for mode in ("cp", "ap"):
        said = client.post(f"{lab.edges[0][mode]}/write/{key}", data=value, timeout=10)
        assert said.status_code == 200, said.text
        versions[mode] = said.json()["version"]
    return versions


def read(lab, key: str) -> set[str]:
    """What every edge answers for it on both faces: one answer, if all are of one mind."""
    client = lab.client()
    told = set()
    for edge in lab.edges:
        for mode in ("cp", "ap"):
            said = client.get(f"{edge[mode]}/read/{key}", timeout=10).json()
            told.add(said.get("value") or said["error"]["code"])
    return told


@pytest.fixture(scope="module")
def moments(lab):
    """(first key's name, a moment between two writes of it). Every node was backed up before and after."""
    with deployed(lab):
        key = f"restored-{uuid.uuid4()}"
        write(lab, key, "first")
        until("every edge has it", 30, lambda: read(lab, key) == {"first"})
        time.sleep(2)
        between = int(time.time())
        time.sleep(2)
        write(lab, key, "second")
        write(lab, f"{key}-new", "second")
        until("every edge has it", 30, lambda: read(lab, key) == {"second"} and read(lab, f"{key}-new") == {"second"})
        back_up(lab)
        yield key, shown(between)
        for name in EAST:
            lab.host(name).check_output(f"rm -rf {DATA}/*.before-*")


def everything(lab) -> dict[str, str]:
    """What must not change when a run is refused: the data directories, the containers' starts and the guards."""
    since = "docker ps --quiet | xargs docker inspect --format '{{.Name}} {{.State.StartedAt}}' | sort"
    said = {name: lab.host(name).check_output(f"ls -A {DATA} /etc/holdfast/restored 2> /dev/null; {since}") for name in EAST}
    status = region_status(lab, "lab-a1")["nodes"]
    guards = {n: {k: node.get(k) for k in ("state", "region_epoch", "membership_epoch", "incarnation")} for n, node in status.items()}
    return said | {"guards": json.dumps(guards)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"to": "yesterday"}, "Write one moment for all nodes"),
        ({"to": "newest"}, "Write one moment for all nodes"),
        ({}, "give -e to="),
        ({"undo": "never"}, "no such restore is recorded"),
        ({"to": "2020-01-01T00:00:00Z"}, "is before the first in the backups"),
        ({"to": "2090-01-01T00:00:00Z"}, "is in the future"),
        ({"to": "2020-01-01T00:00:00Z", "restore_from": "repository"}, "is before the first in the backups"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_changed(lab, moments, arguments, said):
    before = everything(lab)
    done, record = runbook("restore_region", confirm="east", **arguments)
    assert done.returncode != 0 and said in " ".join(done.stdout.split()), done.stdout[-3000:]
    assert record["verdict"] == "failed" and everything(lab) == before


def test_the_preview_says_what_would_be_lost_and_another_name_stops_it(lab, moments):
    key, to = moments
    before = region_status(lab, "lab-a1")["nodes"]
    done, _ = runbook("restore_region", to=to, confirm="west")
    told = " ".join(done.stdout.split())
    assert done.returncode != 0 and "'west' is not 'east', so nothing was changed" in told, told[-3000:]
    assert "db_g1 CP: " in told and "db_g3 AP: " in told and "newest write undone" in told
    assert region_status(lab, "lab-a1")["nodes"]["db_g1"]["incarnation"] == before["db_g1"]["incarnation"]
    assert read(lab, key) == {"second"}


def test_check_mode_changes_nothing(lab, moments):
    before = everything(lab)
    done, _ = runbook("restore_region", "--check", to=moments[1])
    assert done.returncode == 0, done.stdout[-4000:]
    assert everything(lab) == before


def test_keys_are_shown_and_written_back_by_ordinary_writes(lab, moments):
    key, to = moments
    done, record = runbook("restore_key", face="cp", key=key, to=to)
    assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-4000:]
    assert '"value": "first"' in done.stdout and '"value": "second"' in done.stdout
    assert read(lab, key) == {"second"}
    done, _ = runbook("restore_key", face="cp", prefix=key, to=to, write="yes", confirm=key)
    assert done.returncode == 0, done.stdout[-4000:]
    client = lab.client()
    assert client.get(f"{lab.edges[1]['cp']}/read/{key}", timeout=10).json()["value"] == "first"
    assert client.get(f"{lab.edges[1]['ap']}/read/{key}", timeout=10).json()["value"] == "second", "the other face is left alone"
    assert read(lab, f"{key}-new") == {"second"}, "what came later stays"
    client.post(f"{lab.edges[0]['cp']}/write/{key}", data="second", timeout=10).raise_for_status()
    done, _ = runbook("restore_key", face="cp", prefix="", to=to)
    assert done.returncode != 0
    done, _ = runbook("restore_key", face="cp", prefix="backed-up-", to=to, max_keys="10")
    assert done.returncode != 0 and "more than 10 keys" in " ".join(done.stdout.split()), done.stdout[-3000:]


def test_a_region_goes_back_to_one_moment_also_when_the_run_is_killed_and_forth_again(lab, moments):
    key, to = moments
    newest = write(lab, key, "second")
    killed("restore_region", at="Switch to the new data", to=to, confirm="east")
    done, record = runbook("restore_region", to=to, confirm="east")
    assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-5000:]
    wait_until_ready(lab)
    until("every edge answers what was there", 60, lambda: read(lab, key) == {"first"})
    assert read(lab, f"{key}-new") == {"not_found"}
    later = write(lab, key, "third")
    assert all(later[mode] > newest[mode] for mode in later), "a version never goes back"
    plan = record["facts"]["plan"]
    status = region_status(lab, "lab-a1")
    assert all(node["region_epoch"] == plan["adopt"] for node in (status["nodes"] | status["peers"]).values())
    standby = lab.host("lab-dr1")
    for node in ("db_g1", "db_g2", "db_g3"):
        assert standby.check_output(f"docker exec {node} redis-cli --raw hget cp:{key}-new v") == "", "it has left the old history"
    before = [name for name in lab.host("lab-a1").check_output(f"ls -A {DATA}").split() if ".before-" in name]
    run = plan["run"]
    assert f"db_g1.before-{run}" in before

    done, record = runbook("restore_region", undo=run, confirm="east")
    assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-5000:]
    wait_until_ready(lab)
    until("what had been undone is there again", 60, lambda: read(lab, key) == {"second"} and read(lab, f"{key}-new") == {"second"})
    assert all(write(lab, key, "fourth")[mode] > later[mode] for mode in later)


def test_the_region_is_as_it_was(lab, moments):
    wait_until_ready(lab)
    until("settled", 120, lambda: {n["state"] for n in region_status(lab, "lab-a1")["nodes"].values()} == {"member"})
    assert {p["link"] for p in region_status(lab, "lab-a1")["peers"].values()} == {"up"}

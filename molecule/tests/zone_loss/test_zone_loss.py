"""Losing any one zone's host: what the clients of the other zones see, and what the operator's commands say."""

import re
import subprocess
import time
import uuid

import pytest
from clients import ROOT, USERS_ENVIRONMENT, Client, play, wait_until_ready

SECONDS_WITHOUT = 6
#: Requests of each client without the zone.
ENOUGH = 24


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


@pytest.fixture
def repaired(lab):
    """Whatever the test does to a host, `bin/lab create` brings it back, and the zones are ready before the next test."""
    yield
    subprocess.run([ROOT / "bin" / "lab", "create"], check=True, capture_output=True)
    wait_until_ready(lab)


def test_other_zones_go_on_without_any_one(lab, serving_name, repaired):
    wait_until_ready(lab)
    zone = lab.hosts[serving_name]["zone"]
    clients = [Client(lab, edge, mode) for edge in lab.edges if edge["zone"] != zone for mode in ("cp", "ap")]
    for client in clients:
        client.start()
    end = time.monotonic() + 30
    while time.monotonic() < end and any(client.done <= 5 for client in clients):
        time.sleep(0.5)
    before = [client.done for client in clients]
    docker("kill", serving_name)
    time.sleep(SECONDS_WITHOUT)
    end = time.monotonic() + 60  # a busy machine gets through fewer requests
    while time.monotonic() < end and any(client.done - count <= ENOUGH for client, count in zip(clients, before, strict=True)):
        time.sleep(0.5)
    for client in clients:
        client.over.set()
        client.join(timeout=30)
    for client, count in zip(clients, before, strict=True):
        assert count > 5 and client.done - count > ENOUGH, "the client did not get through enough requests"
        assert not client.failed, client.failed[:3]
        assert client.slowest < 3.0


def test_playbook_names_the_host_that_is_down_and_finishes_the_others(lab, repaired):
    down, *others = lab.serving
    docker("kill", down)
    done = play("playbooks/site.yml")
    assert done.returncode == 4, done.stdout[-3000:]
    recap = {m[1]: m for m in re.finditer(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", done.stdout, re.M)}
    assert recap[down][4] == "1"
    for name in [*others, "lab-dr1", "lab-ops1"]:
        assert (recap[name][3], recap[name][4], recap[name][5]) == ("0", "0", "0"), recap[name][0]
    assert int(recap[others[0]][2]) > 50, "the others ran to the end"


def test_lab_command_makes_a_lost_host_anew_and_heals_its_node(lab):
    """The host is gone with its disk: another takes its place, its empty node does not vote until it is filled from the others."""
    lost, key, value = lab.serving[-1], f"lost-{uuid.uuid4()}", str(uuid.uuid4())
    assert lab.client().post(f"{lab.edges[0]['cp']}/write/{key}", data=value, timeout=5).status_code == 200
    docker("rm", "--force", "--volumes", lost)
    started = time.monotonic()
    done = subprocess.run([ROOT / "bin" / "lab"], cwd=ROOT, env=USERS_ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "18 reads ok" in done.stdout
    assert re.search(r"Heal nodes that lost their data +db_g\d healed", done.stdout), done.stdout[-3000:]
    shown = subprocess.run([ROOT / "bin" / "lab", "status"], env=USERS_ENVIRONMENT, capture_output=True, text=True).stdout
    assert re.search(rf"^{lost} .* member$", shown, re.M), shown
    edge = next(edge for edge in lab.edges if edge["zone"] == lab.hosts[lost]["zone"])
    assert lab.client("read").get(f"{edge['cp']}/read/{key}", timeout=5).json()["value"] == value
    seconds = time.monotonic() - started
    print(f"bin/lab with one host to make anew: {seconds:.0f} s")
    assert seconds < 240

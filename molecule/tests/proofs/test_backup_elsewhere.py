"""Copies go to an SSH server and into a bucket outside the lab, are looked after there and come back."""

import json
import re
import sys

import pytest
from backed_up import WANTED, deployed, nodes, with_nodes
from clients import ROOT, play
from regions import runbook

sys.path.insert(0, str(ROOT / "tests" / "repositories"))

from servers import KINDS, served

KEEP = "/usr/local/lib/holdfast/holdfast-backup-keep"
METRICS = "/var/lib/prometheus/node-exporter"


@pytest.fixture(scope="module")
def backed_up(lab):
    with deployed(lab):
        yield


@pytest.fixture(scope="module", params=KINDS)
def elsewhere(request, lab, backed_up, tmp_path_factory):
    """The hosts copy to such a server, each with a key of its own, and have made a backup of every node there."""
    gateway = re.sub(r"\.\d+$", ".1", lab.hosts["lab-ops1"]["address"])
    with served(request.param, gateway) as server:
        access = {name: server.let_in(tmp_path_factory.mktemp(name)) for name in [*with_nodes(lab), "lab-ops1"]}
        variables = WANTED | {"backup_repository": server.url, "keys_of": access, "backup_access": "{{ keys_of[inventory_hostname] }}"}
        if server.ca:
            variables["backup_ca_file"] = server.ca
        made = play("playbooks/backup.yml", variables=variables)
        assert made.returncode == 0, made.stdout[-4000:]
        for name in with_nodes(lab):
            for node in nodes(lab.host(name)):
                lab.host(name).check_output(f"systemctl start holdfast-backup@{node}")
        yield server, variables


def test_every_node_is_in_the_repository_and_a_second_run_changes_nothing(lab, elsewhere):
    server, variables = elsewhere
    expected = {(name, node) for name in with_nodes(lab) for node in nodes(lab.host(name))}
    held = [json.loads(line) for line in lab.host("lab-ops1").check_output(f"{KEEP} list").splitlines()]
    assert {(one["host"], one["node"]) for one in held} == expected and len(expected) == 6
    assert sorted(path.name for path in server.repositories.iterdir()) == sorted(with_nodes(lab))
    again = play("playbooks/backup.yml", variables=variables)
    assert again.returncode == 0 and not re.search(r"changed=[1-9]", again.stdout), again.stdout[-4000:]


def test_the_operations_host_looks_after_it(lab, elsewhere):
    ops = lab.host("lab-ops1")
    ops.check_output("systemctl start holdfast-backup-keep")
    told = ops.check_output(f"cat {METRICS}/holdfast_backup_server.prom")
    for name in with_nodes(lab):
        assert f'holdfast_backup_check_last_success_timestamp_seconds{{host="{name}"}}' in told


def test_every_node_comes_back_from_it_in_a_drill(lab, elsewhere):
    done, record = runbook("restore_drill")
    assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-4000:]
    assert [one["event"] for one in record["facts"]["restores"]] == ["RESTORE_VERIFIED"] * 6


def test_a_node_is_restored_from_it(lab, elsewhere):
    host = lab.host("lab-a1")
    before = int(host.check_output("docker exec db_g1 redis-cli dbsize"))
    try:
        done, record = runbook("restore_node", host="lab-a1", node="db_g1", to="newest", restore_from="repository", confirm="db_g1")
        assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-4000:]
        assert record["facts"]["restored"]["source"] == "repository"
        assert host.check_output("docker exec db_g1 redis-cli --raw hget holdfast:guard state") == "member"
        assert int(host.check_output("docker exec db_g1 redis-cli dbsize")) > before * 0.9
    finally:
        host.check_output("rm -rf /srv/holdfast/redis/db_g1.before-*")


def test_a_server_that_is_gone_is_named(lab, elsewhere):
    """The control of the others: nothing came from anywhere else."""
    server, _variables = elsewhere
    server.stop()
    try:
        done, record = runbook("restore_drill", host="lab-a1", node="db_g1")
        assert done.returncode != 0 and record["verdict"] == "failed", done.stdout[-3000:]
        assert "connection refused" in done.stdout.lower()
    finally:
        server.start()

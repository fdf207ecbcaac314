"""Backups leave the hosts, hosts cannot take them back, damage is noticed, and what comes out of the repository is what was there.

The hosts' own credentials are used against them, on the hosts, with restic and with plain requests.
"""

import json
import re
import shlex
import time
import uuid

import pytest
from backed_up import ACCESS, WANTED, deployed, nodes, with_nodes
from clients import ROOT, play
from regions import runbook

KEEP = "/usr/local/lib/holdfast/holdfast-backup-keep"
REPOSITORIES = "/srv/holdfast/restic"
RESTIC = f"restic --repository-file {ACCESS}/repository --password-file {ACCESS}/password --cacert {ACCESS}/ca.pem --retry-lock 2m --quiet"
#: On the operations host, as the server's user, who owns the files.
LOCAL = f"runuser -u restic-rest-server -- restic --no-cache --retry-lock 2m --quiet -r {REPOSITORIES}"
METRICS = "/var/lib/prometheus/node-exporter"

# On a host with nodes: what its own credentials may do at the server. Prints method, path and status, one request each line.
ASK = """
import base64, re, ssl, sys, urllib.error, urllib.request
place = open("/etc/holdfast/backup/restic/repository").read()
user, password, server = re.match(r"rest:https://([^:]+):([^@]+)@([^/]+)/", place).groups()
trust = ssl.create_default_context(cafile="/etc/holdfast/backup/restic/ca.pem")
known = {} if "stranger" in sys.argv else {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
for line in sys.stdin:
    method, path = line.split()
    request = urllib.request.Request(f"https://{server}/{path}", data=b"x" if method == "POST" else None, method=method, headers=known)
    try:
        status = urllib.request.urlopen(request, timeout=10, context=trust).status
    except urllib.error.HTTPError as refused:
        status = refused.code
    print(method, path, status)
"""
FLIP = """
import sys
for place in sys.argv[1:]:
    held = bytearray(open(place, "rb").read())
    if held:
        held[len(held) // 2] ^= 1
        open(place, "wb").write(held)
"""


def asked(host, *requests: str, stranger: bool = False) -> dict[str, int]:
    lines = "\\n".join(requests)
    said = host.check_output(f"printf '{lines}\\n' | python3 -c {shlex.quote(ASK)} {'stranger' if stranger else ''}")
    return {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in said.splitlines()}


def as_server(ops, command: str) -> str:
    return f"cat /etc/holdfast/backup_server/repository_password | {LOCAL}/{command}"


def snapshots(ops, name: str) -> list[str]:
    return [s["id"] for s in json.loads(ops.check_output(as_server(ops, f"{name} snapshots --json")))]


@pytest.fixture(scope="module")
def ops(lab):
    return lab.host("lab-ops1")


@pytest.fixture(scope="module")
def backed_up(lab):
    with deployed(lab):
        yield


def test_a_second_run_changes_nothing_and_check_mode_works(backed_up):
    for arguments in ([], ["--check"]):
        again = play("playbooks/backup.yml", *arguments, variables=WANTED)
        assert again.returncode == 0, again.stdout[-4000:]
        assert not re.search(r"changed=[1-9]", again.stdout), again.stdout[-4000:]


def test_without_being_wanted_nothing_is_touched(lab):
    done = play("playbooks/backup.yml")
    assert done.returncode == 0 and not re.search(r"(ok|changed)=[1-9]", done.stdout), done.stdout[-2000:]


def test_every_node_is_in_the_repository_and_its_metrics_say_when(lab, ops, backed_up):
    expected = {(name, node) for name in with_nodes(lab) for node in nodes(lab.host(name))}
    held = [json.loads(line) for line in ops.check_output(f"{KEEP} list").splitlines()]
    assert {(one["host"], one["node"]) for one in held} == expected and len(expected) == 6
    for name, node in expected:
        told = lab.host(name).check_output(f"cat {METRICS}/holdfast_backup_{node}.prom")
        newest = re.search(rf'^holdfast_backup_last_success_timestamp_seconds{{node="{node}"}} (\d+)$', told, re.M)
        assert newest and time.time() - int(newest[1]) < 600, told
        assert f'holdfast_backup_last_run_success{{node="{node}"}} 1' in told


def test_the_timer_makes_backups_by_itself(lab, ops, backed_up):
    host, before = lab.host("lab-a1"), len(snapshots(ops, "lab-a1"))
    assert host.check_output("systemctl is-active holdfast-backup@db_g1.timer") == "active"
    end = time.monotonic() + 300
    while len(snapshots(ops, "lab-a1")) == before:
        assert time.monotonic() < end, "no backup within five minutes"
        time.sleep(5)


def test_a_host_can_neither_delete_nor_overwrite(lab, ops, backed_up):
    host, before = lab.host("lab-a1"), snapshots(ops, "lab-a1")
    pack = ops.check_output(f"cd {REPOSITORIES}/lab-a1/data && ls -d */* | head -1").split("/")[1]
    own = [f"lab-a1/data/{pack}", "lab-a1/config", f"lab-a1/snapshots/{before[0]}"]
    seen = asked(
        host, *[f"{method} {path}" for path in own for method in ("DELETE", "POST", "GET")], "GET lab-b1/config", "DELETE lab-b1/config"
    )
    assert {status for request, status in seen.items() if request.startswith(("DELETE", "POST"))} <= {401, 403}, seen
    assert all(seen[f"GET {path}"] == 200 for path in own), "the control: what it may, it can"
    assert seen["GET lab-b1/config"] == 401
    assert set(asked(host, f"GET {own[0]}", stranger=True).values()) == {401}
    host.run(f"{RESTIC} forget --keep-last 1 --prune")
    host.run(f"{RESTIC} forget {before[0]}")
    assert set(snapshots(ops, "lab-a1")) >= set(before)
    ops.check_output(as_server(ops, "lab-a1 check --read-data"))


def test_nobody_else_reaches_the_server(lab, ops, backed_up):
    """The firewall lets hosts with nodes in; this machine is none of them."""
    with pytest.raises(OSError, match=r"timed out|Timeout"):
        lab.client(None).get(f"https://{lab.hosts['lab-ops1']['address']}:8100/", timeout=3)


def test_a_flipped_bit_in_the_repository_is_noticed(ops, backed_up):
    copy = f"{REPOSITORIES}/.flipped"
    ops.check_output(f"rm -rf {copy} && cp -a {REPOSITORIES}/lab-a1 {copy}")
    try:
        ops.check_output(as_server(ops, ".flipped check --read-data"))
        pack = ops.check_output(f"ls -S {copy}/data/*/* | head -1")
        ops.check_output(f"python3 -c {shlex.quote(FLIP)} {pack}")
        found = ops.run(as_server(ops, ".flipped check --read-data"))
        assert found.rc != 0 and "repository contains errors" in found.stderr + found.stdout
    finally:
        ops.check_output(f"rm -rf {copy}")


def test_every_node_comes_back_from_the_repository(lab, ops, backed_up):
    done, record = runbook("restore_drill")
    assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-4000:]
    restored = {(one["host"], one["node"]): one for one in record["facts"]["restores"]}
    assert len(restored) == 6 and all(one["event"] == "RESTORE_VERIFIED" for one in restored.values())
    for node in (("lab-a1", "db_g1"), ("lab-b1", "db_g2"), ("lab-c1", "db_g3")):
        assert restored[node]["compared"] >= 100 and len(restored[node]["load_seconds"]) == 3, restored[node]
    told = ops.check_output(f"cat {METRICS}/holdfast_backup_server.prom")
    assert 'holdfast_backup_verified_restore_last_run_success{host="lab-a1",node="db_g1"} 1' in told
    assert ops.run("test -e /srv/holdfast/restore_drill").rc != 0, "nothing is left of it"


def test_the_checklist_sees_that_backups_are_recent_and_proven(backed_up):
    """As it sees that there are none in a lab without them: molecule/tests/serving/test_verify.py."""
    done = play("playbooks/verify.yml", variables=WANTED)
    verdicts = {item["item"]: item for item in json.loads((ROOT / ".lab/evidence/verify.json").read_text())["items"]}
    for item in ("Backups are made and recent", "A restore was proven within a week", "Open ports are the declared ones"):
        assert verdicts[item]["verdict"] == "PASS", (verdicts[item], done.stdout[-2000:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"host": "nobody"}, "There is no backup of node all of host nobody"),
        ({"to": "yesterday"}, "to is 'yesterday'"),
        ({"to": "2020-01-01T00:00:00Z", "host": "lab-a1"}, "is before the first in the backups"),
        ({"to": "2090-01-01T00:00:00Z", "host": "lab-a1"}, "is after the newest backup"),
    ],
)
def test_what_cannot_be_restored_is_refused(backed_up, arguments, said):
    done, record = runbook("restore_drill", **arguments)
    assert done.returncode != 0 and said in " ".join(done.stdout.split()), done.stdout[-3000:]
    assert record["verdict"] == "failed"


def test_a_copy_whose_files_are_not_what_was_backed_up_fails_the_drill(lab, ops, backed_up):
    """A host lays in a copy with a flipped bit in each file. The control is the drill without it, afterwards."""
    host, place, store = lab.host("lab-a1"), f"/srv/holdfast/doctored-{uuid.uuid4()}/db_g1", "/srv/holdfast/backup/db_g1"
    before = snapshots(ops, "lab-a1")
    host.check_output("systemctl stop holdfast-backup@db_g1.timer")
    try:
        host.check_output(f"mkdir -p {place} && cp -a {store}/sets {store}/files {place}")
        host.check_output(f"find {place}/files -type f -not -path '*/census/*' | xargs python3 -c {shlex.quote(FLIP)}")
        host.check_output(f"{RESTIC} backup --host lab-a1 --tag db_g1 {place}/sets {place}/files")
        done, record = runbook("restore_drill", host="lab-a1", node="db_g1")
        assert done.returncode != 0 and record["verdict"] == "failed", done.stdout[-3000:]
        assert "is not what was backed up: its checksum differs" in record["facts"]["restores"][0]["why"]
        assert 'last_run_success{host="lab-a1",node="db_g1"} 0' in ops.check_output(f"cat {METRICS}/holdfast_backup_server.prom")
    finally:
        for surplus in set(snapshots(ops, "lab-a1")) - set(before):
            ops.check_output(as_server(ops, f"lab-a1 forget {surplus}"))
        host.check_output(f"rm -rf {place} && systemctl start holdfast-backup@db_g1.timer && systemctl start holdfast-backup@db_g1")
    done, record = runbook("restore_drill", host="lab-a1", node="db_g1")
    assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-3000:]


def test_retention_on_the_server_leaves_what_is_young_and_the_hosts_can_go_on(lab, ops, backed_up):
    before = snapshots(ops, "lab-a1")
    ops.check_output("systemctl start holdfast-backup-keep")
    assert set(snapshots(ops, "lab-a1")) >= set(before)
    told = ops.check_output(f"cat {METRICS}/holdfast_backup_server.prom")
    assert 'holdfast_backup_check_last_success_timestamp_seconds{host="lab-a1"}' in told
    lab.host("lab-a1").check_output("systemctl start holdfast-backup@db_g1")
    assert len(snapshots(ops, "lab-a1")) > len(before)

"""One node of the lab loses its data and gets it back by runbooks/restore_node.yml, while clients write and read through every edge.

What an edge acknowledged is looked for afterwards, at the other edges; whether the node votes is read from its guard all the while.
"""

import contextlib
import json
import shlex
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from backed_up import ACCESS, deployed
from clients import play, wait_until_ready
from regions import EVIDENCE, region_status, runbook, until
from rotations import killed

NODE = {"host": "lab-a1", "node": "db_g1", "confirm": "db_g1"}
DATA = "/srv/holdfast/redis"
LOOK = (
    "while test -e /run/looking; do "
    'echo "$(docker exec db_g1 redis-cli --raw hget holdfast:guard state 2> /dev/null || echo away)"; sleep 0.2; done > /run/looked'
)


class Writer(threading.Thread):
    """Writes through one edge, twenty times a second, and notes when each write was acknowledged."""

    def __init__(self, lab, edge, mode) -> None:
        super().__init__(daemon=True)
        self.lab, self.edge, self.mode, self.over = lab, edge, mode, threading.Event()
        self.acknowledged: dict[str, float] = {}
        self.failed: list[str] = []

    def run(self) -> None:
        client = self.lab.client()
        while not self.over.wait(0.05):
            key = f"restore-{uuid.uuid4()}"
            try:
                said = client.post(f"{self.edge[self.mode]}/write/{key}", data="x", timeout=10)
            except OSError as problem:
                self.failed.append(repr(problem))
                continue
            if said.status_code == 200:
                self.acknowledged[key] = time.time()
            else:
                self.failed.append(said.text)


class Writers:
    def __init__(self, lab) -> None:
        self.lab, self.all = lab, [Writer(lab, edge, mode) for edge in lab.edges for mode in ("cp", "ap")]

    def lost(self, unreplicated: tuple[float, float] = (0, 0)) -> list[tuple[str, str]]:
        """Acknowledged writes that another edge does not have. But for AP writes of `unreplicated`, which zone a's node alone had."""
        missing, client = [], self.lab.client()
        for writer in self.all:
            [other, *_] = [edge for edge in self.lab.edges if edge["zone"] != writer.edge["zone"]]
            for key, at in writer.acknowledged.items():
                if writer.mode == "ap" and writer.edge["zone"] == "a" and unreplicated[0] <= at <= unreplicated[1]:
                    continue
                if client.get(f"{other[writer.mode]}/read/{key}", timeout=10).status_code != 200:
                    missing.append((writer.mode, key))
        return missing


@contextlib.contextmanager
def writing(lab) -> Iterator[Writers]:
    """Writers at every edge and face; each got through, and refused were at most those that were on their way to the node."""
    wait_until_ready(lab)
    writers = Writers(lab)
    for writer in writers.all:
        writer.start()
    time.sleep(2)
    try:
        yield writers
    finally:
        for writer in writers.all:
            writer.over.set()
        for writer in writers.all:
            writer.join(timeout=30)
    for writer in writers.all:
        print(writer.edge["zone"], writer.mode, len(writer.acknowledged), "acknowledged,", len(writer.failed), "failed", writer.failed[:2])
        assert len(writer.acknowledged) > 50 and len(writer.failed) <= len(writer.acknowledged) // 20


@contextlib.contextmanager
def looking(host) -> Iterator[list[str]]:
    """What the node's guard said meanwhile, one after the other; repetitions are left out."""
    said: list[str] = []
    host.check_output(f"touch /run/looking && (nohup setsid sh -c {shlex.quote(LOOK)} > /dev/null 2>&1 < /dev/null &)")
    try:
        time.sleep(1)
        yield said
    finally:
        host.check_output("rm /run/looking")
        time.sleep(1)
        for line in host.check_output("cat /run/looked").splitlines():
            said += [line] if said[-1:] != [line] else []


def place(host) -> str:
    """The names in the data directory of the host, and since when its containers run."""
    since = "docker ps --quiet | xargs docker inspect --format '{{.Name}} {{.State.StartedAt}}' | sort"
    return host.check_output(f"ls -A {DATA} {DATA}/.restore 2> /dev/null; {since}")


def kept(host) -> list[str]:
    return host.check_output(f"ls -A {DATA}").split()


def state(lab) -> str:
    return region_status(lab, "lab-b1")["nodes"]["db_g1"].get("state", "")


@pytest.fixture(scope="module")
def backed_up(lab):
    with deployed(lab):
        yield


@pytest.fixture
def host(lab, backed_up):
    """Of the node; what runs have kept there goes afterwards."""
    there = lab.host("lab-a1")
    yield there
    there.check_output(f"rm -rf {DATA}/db_g1.before-*")


def test_a_lost_node_comes_back_from_its_newest_backup_and_no_acknowledged_write_is_lost(lab, host):
    with writing(lab) as writers, looking(host) as said:
        host.check_output("systemctl start holdfast-backup@db_g1")
        time.sleep(1)
        lost_at = time.time()
        host.check_output(f"docker stop db_g1 && rm -rf {DATA}/db_g1 && docker start db_g1")
        stopped_at = time.time()
        done, record = runbook("restore_node", to="newest", **NODE)
        assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-5000:]
        time.sleep(2)
    assert record["facts"]["restored"]["source"] == "host" and record["facts"]["restored"]["bytes"] > 0
    print(said)
    assert said[0] == "member" and [one for one in said if one in ("recovering", "member")] == ["member", "recovering", "member"]
    assert writers.lost((lost_at - 1, stopped_at)) == []
    assert state(lab) == "member" and [name for name in kept(host) if ".before-" in name] == []


def test_a_node_that_is_emptied_is_filled_by_the_others_and_what_it_had_can_be_put_back(lab, host):
    with writing(lab) as writers, looking(host) as said:
        stopped_at = time.time()
        done, record = runbook("restore_node", to="nothing", **NODE)
        assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-5000:]
        refilled_at = time.time()
    assert said[0] == said[-1] == "member" and [one for one in said if one in ("recovering", "member")] == [
        "member",
        "recovering",
        "member",
    ], said
    assert writers.lost((stopped_at, refilled_at)) == []
    [before] = [name for name in kept(host) if ".before-" in name]
    run = before.removeprefix("db_g1.before-")
    assert (EVIDENCE / run / "record.json").exists()
    key = f"after-{uuid.uuid4()}"
    lab.client().post(f"{lab.edges[1]['cp']}/write/{key}", data="1", timeout=5).raise_for_status()
    with looking(host) as said:
        done, record = runbook("restore_node", undo=run, **NODE)
        assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-5000:]
    assert [one for one in said if one in ("recovering", "member")] == ["member", "recovering", "member"], said
    assert host.check_output(f"docker exec db_g1 redis-cli --raw hget cp:{key} v") == "1"
    [now] = [name for name in kept(host) if ".before-" in name]
    assert now != before
    listed = play("playbooks/leftovers.yml")
    name = f"lab-a1 directory {DATA}/{now}"
    assert listed.returncode == 0 and f"{name}: data of db_g1, kept by run" in listed.stdout, listed.stdout[-3000:]
    gone = play("playbooks/leftovers.yml", variables={"remove": [name]})
    assert gone.returncode == 0 and now not in kept(host), gone.stdout[-3000:]
    assert play("playbooks/leftovers.yml", variables={"remove": [f"lab-a1 directory {DATA}/db_g1"]}).returncode != 0
    assert state(lab) == "member"


def test_a_node_comes_back_from_the_repository(lab, host):
    done, record = runbook("restore_node", to="newest", restore_from="repository", **NODE)
    assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-5000:]
    assert record["facts"]["restored"]["source"] == "repository" and state(lab) == "member"
    assert host.check_output(f"ls -A {DATA}/.restore") == ""


def test_a_run_that_was_killed_is_started_again(lab, host):
    killed("restore_node", at="Switch to the new data", to="newest", **NODE)
    done, record = runbook("restore_node", to="newest", **NODE)
    assert done.returncode == 0 and record["verdict"] == "passed", done.stdout[-5000:]
    assert state(lab) == "member"


def test_check_mode_changes_nothing(host):
    before = place(host)
    done, _ = runbook("restore_node", "--check", to="newest", **NODE)
    assert done.returncode == 0, done.stdout[-5000:]
    assert place(host) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"to": "2020-01-01T00:00:00Z"}, "is before the first in the backups"),
        ({"to": "2090-01-01T00:00:00Z"}, "is in the future"),
        ({"to": "2090-01-01T00:00:00Z", "restore_from": "repository"}, "is after the newest backup"),
        ({"to": "yesterday"}, "to is 'yesterday'"),
        ({"to": "newest", "node": "db_g2"}, "node is db_g2; lab-a1 has db_g1"),
        ({"to": "newest", "host": "lab-z9"}, "host is 'lab-z9'"),
        ({"to": "nothing", "host": "lab-dr1"}, "db_g1 follows its namesake in the other region"),
        ({"undo": "never"}, "db_g1.before-never is not on lab-a1"),
        ({"to": "newest", "confirm": "db_g3"}, "'db_g3' is not 'db_g1'"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_changed(host, arguments, said):
    before = place(host)
    done, record = runbook("restore_node", **NODE | arguments)
    assert done.returncode != 0 and said in " ".join(done.stdout.split()), done.stdout[-3000:]
    assert record["verdict"] == "failed" and place(host) == before


def test_a_wrong_password_of_the_repository_is_refused(host):
    before = place(host)
    host.check_output(f"cp -a {ACCESS}/password /run/password && printf wrong > {ACCESS}/password")
    try:
        done, _ = runbook("restore_node", to="newest", restore_from="repository", **NODE)
    finally:
        host.check_output(f"mv /run/password {ACCESS}/password")
    assert done.returncode != 0 and "the repository's password on this host is wrong" in " ".join(done.stdout.split()), done.stdout[-3000:]
    assert place(host) == before


def test_a_restore_that_runs_keeps_a_second_one_out(host):
    host.check_output(f"mkdir -p {DATA}/.restore && touch {DATA}/.restore/.db_g1.restore.lock")
    before = place(host)
    host.check_output(
        f"(nohup flock --no-fork {DATA}/.restore/.db_g1.restore.lock sleep 300 > /dev/null 2>&1 < /dev/null & echo $! > /run/restoring)"
    )
    try:
        done, _ = runbook("restore_node", to="newest", **NODE)
    finally:
        host.check_output(f"kill $(cat /run/restoring) && rm {DATA}/.restore/.db_g1.restore.lock")
    assert done.returncode != 0 and "another restore of db_g1 is running" in " ".join(done.stdout.split()), done.stdout[-3000:]
    assert place(host) == before.replace("\n.db_g1.restore.lock", "")


def test_without_a_majority_of_the_others_it_is_refused(lab, host):
    before, other = place(host), lab.host("lab-b1")
    other.check_output("docker stop db_g2")
    try:
        done, _ = runbook("restore_node", to="newest", **NODE)
    finally:
        other.check_output("docker start db_g2")
    assert done.returncode != 0 and "Without db_g1 no majority of the region's nodes can vote" in " ".join(done.stdout.split())
    assert place(host) == before
    until("db_g2 votes again", 60, lambda: region_status(lab, "lab-c1")["nodes"]["db_g2"].get("state") == "member")


def test_the_region_is_as_it_was(lab, backed_up):
    """After all this: every node votes under one epoch, and both faces answer in every zone."""
    wait_until_ready(lab)
    nodes = region_status(lab, "lab-b1")["nodes"]
    assert {node["state"] for node in nodes.values()} == {"member"} and len({node["membership_epoch"] for node in nodes.values()}) == 1, (
        json.dumps(nodes)
    )

"""When a node counts as a follower that has caught up: role redis_node's own wait, beside real Redis nodes."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis
import yaml

ROOT = Path(__file__).resolve().parents[2]
KEYS = 20_000
#: Microseconds that Redis takes for each key of a rewrite: seconds for all of them, as for a node with a million keys.
SLOWLY = 250
#: Notes whose turn it is, and runs what is meant for a container on the one node that there is.
DOCKER = """#!/bin/sh
echo "$2" >> {asked}
shift 2
PATH={inside}:$PATH exec "$@"
"""


def node(place: Path, *options: str) -> tuple[subprocess.Popen[bytes], redis.Redis]:
    """A Redis that runs alone or follows; what it holds lies in `place`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place.mkdir(exist_ok=True)
    server = shutil.which("redis-server") or str(ROOT / ".venv/bin/redis-server")
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place), "--save", "", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    for _ in range(1200):
        try:
            client.ping()
            return process, client
        except redis.ConnectionError:  # BusyLoadingError is one too
            time.sleep(0.05)
    process.kill()
    raise AssertionError(f"no Redis at {port}")


@pytest.fixture
def follower(tmp_path):
    """(process, client, place) of a node with an append-only file, which has just copied all keys from another one."""
    first, primary = node(tmp_path / "primary")
    primary.eval(f"for i = 1, {KEYS} do redis.call('SET', 'key' .. i, i) end", 0)
    second, copy = node(tmp_path / "follower", "--appendonly", "yes", "--rdb-key-save-delay", str(SLOWLY))
    copy.replicaof("127.0.0.1", primary.get_connection_kwargs()["port"])
    try:
        while copy.info("replication")["master_link_status"] != "up":
            time.sleep(0.01)
        yield second, copy, tmp_path / "follower"
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def keys_after_a_power_cut(follower) -> int:
    process, _client, place = follower
    process.kill()
    process.wait()
    again, client = node(place, "--appendonly", "yes")
    try:
        return client.dbsize()
    finally:
        again.kill()
        again.wait()


def follow(follower, place: Path, master_port: int = 0) -> subprocess.CompletedProcess[str]:
    """The role's own task, on two hosts with a node each, both of which are this one."""
    _process, client, _place = follower
    tasks = yaml.safe_load((ROOT / "roles/redis_node/tasks/follow.yml").read_text())
    [task] = [task for task in tasks if task["name"].startswith("Switch the nodes to their namesakes")]
    master = {"address": "127.0.0.1", "port": master_port or client.info("replication")["master_port"]}
    given = yaml.safe_load((ROOT / "roles/redis_node/vars/main.yml").read_text()) | {
        "redis_node_sync_timeout_seconds": 2 if master_port else 60,
        "__redis_node_namesakes": {"follower": master, "other": master},
    }
    play = {"hosts": "all", "gather_facts": False, "any_errors_fatal": True, "vars": given, "tasks": [task]}
    (place / "play.yml").write_text(yaml.safe_dump([play]))
    nodes = {"one": [{"name": "follower"}], "two": [{"name": "other"}]}
    local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    hosts = {name: local | {"redis_node_nodes": held} for name, held in nodes.items()}
    (place / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    (place / "inside").mkdir()
    for path, text in (
        (place / "docker", DOCKER.format(inside=place / "inside", asked=place / "asked")),
        (place / "inside/redis-cli", f'#!/bin/sh\nexec {shutil.which("redis-cli")} -p {client.get_connection_kwargs()["port"]} "$@"\n'),
    ):
        path.write_text(text)
        path.chmod(0o755)
    environment = os.environ | {"PATH": f"{place}:{ROOT}/.venv/bin:{os.environ['PATH']}", "ANSIBLE_STRATEGY": "linear"}
    command = ["ansible-playbook", "-i", place / "hosts.json", place / "play.yml"]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)


def test_a_follower_has_caught_up_when_its_file_has_too(follower, tmp_path):
    _process, client, _place = follower
    assert client.info("persistence")["aof_rewrite_in_progress"] == 1, "it has hardly begun"
    done = follow(follower, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "asked").read_text().split() == ["follower", "other"]
    assert client.info("persistence")["aof_rewrite_in_progress"] == 0
    assert keys_after_a_power_cut(follower) == KEYS


def test_nodes_follow_one_after_the_other_and_the_first_that_does_not_catch_up_ends_it(follower, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = follow(follower, tmp_path, nobody.getsockname()[1])
    assert done.returncode != 0 and "after 2 s:" in done.stdout and "master_link_status:down" in done.stdout, done.stdout
    assert (tmp_path / "asked").read_text().split() == ["follower"]


def test_control_before_that_a_power_cut_takes_the_whole_copy(follower):
    assert follower[1].info("replication")["master_link_status"] == "up"
    assert keys_after_a_power_cut(follower) == 0

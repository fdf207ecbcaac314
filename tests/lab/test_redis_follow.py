"""When a node counts as a follower that has caught up: role redis_node's own wait, beside real Redis nodes."""

import socket
import subprocess
import time
from pathlib import Path

import pytest
from redis_tasks import node, port_of, run, task

KEYS = 20_000
#: Microseconds that Redis takes for each key of a rewrite: seconds for all of them, as for a node with a million keys.
SLOWLY = 250


@pytest.fixture
def follower(tmp_path):
    """(process, client, place) of a node with an append-only file, which has just copied all keys from another one."""
    first, primary = node(tmp_path / "primary")
    primary.eval(f"for i = 1, {KEYS} do redis.call('SET', 'key' .. i, i) end", 0)
    second, copy = node(tmp_path / "follower", "--appendonly", "yes", "--rdb-key-save-delay", str(SLOWLY))
    copy.replicaof("127.0.0.1", port_of(primary))
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
    """On two hosts with a node each, both of which are this one."""
    _process, client, _place = follower
    master = {"address": "127.0.0.1", "port": master_port or client.info("replication")["master_port"]}
    hosts = {"one": {"follower": port_of(client)}, "two": {"other": port_of(client)}}
    given = {"redis_node_sync_timeout_seconds": 2 if master_port else 60, "__redis_node_namesakes": {"follower": master, "other": master}}
    return run(place, [task("follow", "Switch the nodes to their namesakes")], hosts, **given)


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

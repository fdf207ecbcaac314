"""A planned change of region: the nodes that served follow those that serve, and copy nothing, beside real Redis nodes."""

import time
from pathlib import Path

import pytest
import redis
from redis_tasks import node, port_of, run, task

KEYS = 300
PROMOTE, SWAP = task("promote", "Switch the nodes to primaries"), task("swap", "Switch the closed namesakes")
#: As while the region's new guards are written; keys expire meanwhile.
BETWEEN = {"ansible.builtin.pause": {"seconds": 1}}


@pytest.fixture
def pair(tmp_path):
    """(the node that served, its copy), in step; on the first one keys expire all the time, as counters of rate limits do."""
    first, primary = node(tmp_path / "served", "--appendonly", "yes")
    second, copy = node(tmp_path / "copies", "--appendonly", "yes")
    try:
        for number in range(KEYS):
            primary.set(f"soon{number}", "x", px=1000 + number * 200)
        copy.replicaof("127.0.0.1", port_of(primary))
        while copy.info("replication")["master_link_status"] != "up":
            time.sleep(0.01)
        yield primary, copy
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def play(pair, place: Path, *tasks: dict, planned: bool = True, namesake_port: int = 0) -> str:
    served, serves = pair
    namesake = {"address": "127.0.0.1", "port": namesake_port or port_of(served)}
    given = {"__redis_node_namesakes": {"db": namesake}, "redis_node_planned": planned}
    done = run(place, list(tasks), {"one": {"db": port_of(serves)}}, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expired(client: redis.Redis) -> int:
    return int(client.info("stats")["expired_keys"])


def wait_for_an_expiry(client: redis.Redis) -> None:
    before, end = expired(client), time.monotonic() + 20
    while expired(client) == before:
        assert time.monotonic() < end, "all keys are gone already"
        time.sleep(0.05)


def in_step(follower: redis.Redis, primary: redis.Redis) -> bool:
    primary.set("written", "since")
    for _ in range(200):
        if follower.get("written") == b"since":
            return True
        time.sleep(0.05)
    return False


def test_a_node_that_served_follows_and_copies_nothing(pair, tmp_path):
    served, serves = pair
    wait_for_an_expiry(served)
    out = play(pair, tmp_path, PROMOTE, BETWEEN, SWAP)
    assert out.count("changed: [one]") == 2, out
    with pytest.raises(redis.ReadOnlyError):  # and is not held back any more
        redis.Redis(port=port_of(served), socket_timeout=5).incr("n")
    assert in_step(served, serves)
    told = serves.info("stats")
    assert (told["sync_full"], told["sync_partial_ok"]) == (0, 1)


def test_control_a_node_that_wrote_since_is_left_alone(pair, tmp_path):
    """It would copy everything, beside all others and while the region has just begun to serve."""
    served, serves = pair
    play(pair, tmp_path, PROMOTE, planned=False)
    wait_for_an_expiry(served)
    served.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    assert "ok: [one]" in play(pair, tmp_path, SWAP)
    assert served.role()[0] == b"master" and serves.info("stats")["sync_full"] == 0
    began = time.monotonic()
    served.set("may", "write")  # as when a region that could not hand over is opened again
    assert time.monotonic() - began < 20
    served.replicaof("127.0.0.1", port_of(serves))
    assert in_step(served, serves)
    assert serves.info("stats")["sync_full"] == 1, "the control: a follower that wrote more is copied anew"


def test_a_promotion_waits_for_no_namesake(pair, tmp_path):
    play(pair, tmp_path, PROMOTE, namesake_port=1)
    assert pair[1].role()[0] == b"master"

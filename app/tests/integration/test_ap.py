"""The AP face: local writes, replication between three zones, convergence, deletes, staleness, sessions."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster import App, Cluster, wait_for

ZONES = ("db_g1", "db_g2", "db_g3")


def start(cluster: Cluster, **extra: str) -> tuple[list[App], list[App]]:
    """The instances have more patience than as shipped: a stall of the machine makes none write to another zone."""
    apps = [cluster.run("serve", "ap", z, NETWORK_TIMEOUT_SEC="5") for z in ZONES]
    return apps, [cluster.run("replicate", "ap", z, **extra) for z in ZONES]


def contents(cluster: Cluster, node: str) -> dict[bytes, dict[bytes, bytes]]:
    client = cluster.nodes[node].client()
    return {key: client.hgetall(key) for key in client.scan_iter("ap:*", count=1000)}


def converged(cluster: Cluster) -> bool:
    first, *others = (contents(cluster, z) for z in ZONES)
    return all(o == first for o in others)


def test_replication_converges_with_concurrent_writers(cluster: Cluster) -> None:
    apps, replicators = start(cluster)

    def work(number: int) -> int:
        app = apps[number % 3]
        for i in range(40):
            if i % 10 == 9:
                assert app.delete(f"k{i % 7}").status == 200
            else:
                assert app.write(f"k{i % 7}", f"{number}-{i}").status == 200
        return 40

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) == 240
    wait_for("convergence", lambda: converged(cluster))
    for zone in ZONES:
        client = cluster.nodes[zone].client()
        assert int(client.hget("holdfast:ap", "seq")) == 80, "sequence numbers are dense"
        assert client.xlen("holdfast:outbox") <= 80, "nothing is emitted again"
    assert sum(r.metric('lww_conflicts_total{node="db_g1"}') for r in replicators[1:]) > 0


def test_reads_are_fresh_when_idle_and_unknown_is_not_zero(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    assert app.write("k", "1").status == 200
    alone = app.read("k").json
    assert alone["staleness_ms"] is None
    missing = app.read("never").json
    assert (missing["staleness_ms"], missing["stale"]) == (None, True), "nor may anybody take nothing for the last word"
    assert alone["stale"] is True
    assert app.metric('data_staleness_known{node="db_g2"}') == 0
    replicator = cluster.run("replicate", "ap")
    wait_for("known", lambda: app.read("k").json["staleness_ms"] is not None)
    time.sleep(1.5)
    # Longer ago than this nothing was written: an age of the value could only grow.
    idle = wait_for("fresh while idle", lambda: (seen := app.read("k").json)["staleness_ms"] < 1500 and seen)
    assert idle["stale"] is False
    wait_for("metric", lambda: 0 <= app.metric('data_staleness_ms{node="db_g2"}') < 3000)
    replicator.process.kill()
    replicator.process.wait()
    time.sleep(1.2)
    assert app.read("k").json["staleness_ms"] > 1000, "a dead replicator shows as growing lag"


def test_local_node_down_uses_another_zone_and_catches_up_afterwards(cluster: Cluster) -> None:
    apps, _ = start(cluster)
    wait_for("caught up", lambda: apps[0].read("x").status == 404)
    cluster.nodes["db_g1"].kill()
    reply = apps[0].write("k", "elsewhere")
    assert reply.status == 200
    assert reply.json["acks"] != ["db_g1"]
    assert apps[0].read("k").json["source"] != "db_g1"
    assert apps[0].ready()
    cluster.nodes["db_g1"].start()
    wait_for("local again", lambda: apps[0].read("k").json.get("source") == "db_g1")
    wait_for("convergence", lambda: converged(cluster))


def test_all_nodes_down(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    for node in cluster.nodes.values():
        node.kill()
    wait_for("unavailable", lambda: app.read("k").code == "unavailable")
    reply = app.write("k", "1")
    assert (reply.status, reply.code) == (503, "unavailable")
    assert reply.headers["Retry-After"]
    wait_for("not ready", lambda: not app.ready())


def test_a_delete_is_not_undone_by_an_older_write_elsewhere(cluster: Cluster) -> None:
    apps = [cluster.run("serve", "ap", z) for z in ZONES]
    apps[1].write("k", "old")
    time.sleep(0.01)
    apps[0].delete("k")
    for zone in ZONES:
        cluster.run("replicate", "ap", zone)
    wait_for("convergence", lambda: converged(cluster) and len(contents(cluster, "db_g3")) == 1)
    assert [a.read("k").status for a in apps] == [404, 404, 404]


def test_gap_and_new_incarnation_lead_to_a_full_merge(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    replicator = cluster.run("replicate", "ap", "db_g2")
    wait_for("first merge", lambda: replicator.metric('ap_full_merges_total{node="db_g1"}') == 1)
    replicator.stop()
    for i in range(20):
        app.write(f"k{i}", str(i))
    origin = cluster.nodes["db_g1"].client()
    origin.xtrim("holdfast:outbox", maxlen=5, approximate=False)
    second = cluster.run("replicate", "ap", "db_g2")
    wait_for("merge after the gap", lambda: second.metric('ap_full_merges_total{node="db_g1"}') == 1)
    assert len(contents(cluster, "db_g2")) == 20
    origin.hset("holdfast:guard", "incarnation", "restored")
    wait_for("merge after the restore", lambda: second.metric('ap_full_merges_total{node="db_g1"}') == 2)
    wait_for("app follows", lambda: app.write("k0", "new").status == 200)
    wait_for("goes on", lambda: contents(cluster, "db_g2")[b"ap:k0"][b"v"] == b"new")
    assert second.metric('ap_full_merges_total{node="db_g1"}') == 2


def test_resumes_from_its_cursor_without_a_merge(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    first = cluster.run("replicate", "ap", "db_g2")
    wait_for("first merge", lambda: first.metric('ap_full_merges_total{node="db_g1"}') == 1)
    first.stop()
    for i in range(30):
        app.write(f"k{i}", str(i))
    second = cluster.run("replicate", "ap", "db_g2")
    wait_for("all there", lambda: len(contents(cluster, "db_g2")) == 30)
    wait_for("counted", lambda: second.metric('ap_replication_applied_total{node="db_g1"}') == 30)
    assert second.metric('ap_full_merges_total{node="db_g1"}') == 0


def test_the_outbox_is_trimmed_behind_the_slowest_peer_and_capped(cluster: Cluster) -> None:
    apps, _ = start(cluster, OUTBOX_MAX_ENTRIES="150")
    for i in range(250):
        assert apps[0].write("k", str(i)).status == 200
    client = cluster.nodes["db_g1"].client()
    wait_for("trimmed", lambda: client.xlen("holdfast:outbox") <= 150)
    wait_for("convergence", lambda: converged(cluster))


def test_the_outbox_is_capped_in_bytes_and_the_peer_merges(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    cluster.run("replicate", "ap", OUTBOX_MAX_BYTES="200000", OUTBOX_MAX_ENTRIES="1000")
    client = cluster.nodes["db_g1"].client()
    for i in range(80):
        assert app.write(f"k{i}", "x" * 10_000).status == 200
    wait_for("capped", lambda: client.memory_usage("holdfast:outbox") <= 200_000)
    assert client.xlen("holdfast:outbox") > 0, "a cap, not a flush"
    behind = cluster.run("replicate", "ap", "db_g2")
    wait_for("the peer has it all", lambda: len(contents(cluster, "db_g2")) == 80)
    wait_for("by one merge", lambda: behind.metric('ap_full_merges_total{node="db_g1"}') == 1)


def test_a_version_from_the_future_is_parked_and_applied_when_its_time_has_come(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    replicator = cluster.run("replicate", "ap", "db_g2")
    wait_for("first merge", lambda: replicator.metric('ap_full_merges_total{node="db_g1"}') == 1)
    origin, reader = (cluster.nodes[n].client() for n in ("db_g1", "db_g2"))
    ahead = int(time.time() * 1000) + 6000  # so long it must stay parked for a busy machine to see it
    origin.hset("holdfast:ap", "hlc", f"{ahead:012x}0000")
    app.write("future", "1")
    wait_for("parked", lambda: reader.hlen("holdfast:parked") == 1)
    assert contents(cluster, "db_g2") == {}
    wait_for("applied", lambda: contents(cluster, "db_g2").get(b"ap:future", {}).get(b"v") == b"1")
    assert reader.hlen("holdfast:parked") == 0


def test_one_replicator_per_zone_is_active_and_another_takes_over(cluster: Cluster) -> None:
    first = cluster.run("replicate", "ap")
    wait_for("first is active", lambda: first.metric("ap_replication_active") == 1)
    second = cluster.run("replicate", "ap")
    time.sleep(0.3)
    assert second.metric("ap_replication_active") == 0
    first.stop()
    wait_for("second takes over", lambda: second.metric("ap_replication_active") == 1)


def test_session_token_across_zones(cluster: Cluster) -> None:
    here, there = cluster.run("serve", "ap", "db_g1"), cluster.run("serve", "ap", "db_g2")
    token = here.write("k", "mine").headers["X-Session-Token"]
    answer = there.read("k", headers={"X-Session-Token": token}).json
    assert answer["value"] == "mine", "without replication the origin is asked"
    assert answer["source"] == "db_g1"
    assert answer["read_your_writes"] is True
    there.write("k2", "x")
    cluster.nodes["db_g1"].kill()
    wait_for(
        "origin away",
        lambda: there.read("k2", headers={"X-Session-Token": token}).json.get("read_your_writes") is False,
    )


@pytest.mark.parametrize("state", ["recovering", "fenced"])
def test_a_node_that_is_no_member_is_not_used(cluster: Cluster, state: str) -> None:
    app = cluster.run("serve", "ap")
    assert app.write("k", "1").json["acks"] == ["db_g1"]
    cluster.nodes["db_g1"].client().hset("holdfast:guard", "state", state)
    reply = app.write("k", "2")
    assert reply.status == 200
    assert reply.json["acks"] != ["db_g1"]

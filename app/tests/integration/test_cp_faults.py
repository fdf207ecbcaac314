"""The CP face on real nodes that are killed, stopped, emptied and fenced."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from cluster import Cluster, wait_for
from test_node_faults import AT_ONCE, PATIENT, breaker


def test_one_node_killed_then_two(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT))
    assert app.write("k", "before").status == 200
    cluster.nodes["db_g1"].kill()
    for i in range(40):
        reply = app.write("k", f"v{i}")
        assert reply.status == 200, reply.body
        assert reply.seconds < AT_ONCE
        assert app.read("k").json["value"] == f"v{i}"
    assert app.ready()
    cluster.nodes["db_g2"].kill()
    refused = app.write("k", "must not appear")
    # The very first write may meet the dying connection after its store was sent.
    assert (refused.status, refused.code) in {(503, "no_quorum"), (504, "outcome_unknown")}
    wait_for("not ready", lambda: not app.ready())
    reply = app.write("k", "must not appear either")
    assert (reply.status, reply.code) == (503, "no_quorum")
    assert reply.headers["Retry-After"]
    assert (app.read("k").status, app.read("k").code) == (503, "no_quorum")
    cluster.nodes["db_g1"].start()
    cluster.nodes["db_g2"].start()
    wait_for("ready again", app.ready)
    wait_for("a read", lambda: app.read("k").status == 200)
    assert app.read("k").json["value"] == "v39" or refused.code == "outcome_unknown"
    wait_for("all breakers closed", lambda: app.metric('circuit_breaker_state{node="db_g1"}') == 0)


def test_a_paused_node_adds_no_latency_and_its_breaker_opens_and_recovers(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT))
    for i in range(20):
        app.write("k", str(i))
    cluster.nodes["db_g3"].signal(signal.SIGSTOP)
    slowest = 0.0
    for i in range(150):
        reply = app.write("k", f"v{i}")
        assert reply.status == 200, reply.body
        slowest = max(slowest, reply.seconds)
    assert slowest < AT_ONCE
    wait_for("breaker open", lambda: app.metric('circuit_breaker_state{node="db_g3"}') >= 1)
    cluster.nodes["db_g3"].signal(signal.SIGCONT)
    wait_for("breaker closed", lambda: app.metric('circuit_breaker_state{node="db_g3"}') == 0)
    assert [e for e in app.entries() if e["event"] == "BREAKER_CHANGE" and e["stream"] == "audit"]


def test_two_paused_nodes_are_refused_in_time(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT), CIRCUIT_BREAKER_THRESHOLD="2")
    app.write("k", "1")
    for name in ("db_g1", "db_g2"):
        cluster.nodes[name].signal(signal.SIGSTOP)
    reply = app.write("k", "2")
    assert (reply.status, reply.code) == (503, "no_quorum")
    assert reply.seconds < 1.5 * PATIENT
    wait_for("fails fast", lambda: app.write("k", "3").seconds < 0.1)
    for name in ("db_g1", "db_g2"):
        cluster.nodes[name].signal(signal.SIGCONT)
    wait_for("readable", lambda: app.read("k").code != "no_quorum")
    assert app.read("k").json["value"] == "1", "a write answered no_quorum never appears"


def test_a_node_that_came_back_empty_does_not_vote(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    app.write("k", "kept")
    cluster.nodes["db_g1"].kill()
    cluster.nodes["db_g1"].wipe()
    cluster.nodes["db_g1"].start()
    assert app.write("k", "kept 2").status == 200
    cluster.nodes["db_g2"].kill()
    wait_for("no quorum", lambda: app.read("k").code == "no_quorum")
    wait_for("it is seen to be empty", lambda: breaker(app, "db_g1")["guard"] == "none")
    code, report = cluster.bootstrap()
    assert code == 0
    assert report["nodes"]["db_g1"] == {"state": "recovering", "stamped": True}
    time.sleep(1.2)
    assert app.read("k").code == "no_quorum", "a recovering node does not vote"
    cluster.nodes["db_g2"].start()
    wait_for("two members", lambda: app.read("k").status == 200)
    assert app.read("k").json["value"] == "kept 2"


def test_flushall_on_an_open_connection_is_noticed_in_the_same_step(cluster: Cluster) -> None:
    """With two nodes up, an emptied one must make the read fail, not answer 'not found'."""
    app = cluster.run("serve", "cp")
    app.write("k", "kept")
    cluster.nodes["db_g3"].kill()
    wait_for("db_g3 gone", lambda: app.read("k").status == 200)
    cluster.nodes["db_g1"].client().flushall()
    reply = app.read("k")
    assert (reply.status, reply.code) == (503, "no_quorum")


def test_a_replica_does_not_vote(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    app.write("k", "kept")
    cluster.nodes["db_g3"].kill()
    wait_for("db_g3 gone", lambda: app.read("k").status == 200)
    cluster.nodes["db_g1"].client().execute_command("REPLICAOF", "127.0.0.1", "1")
    assert app.read("k").code == "no_quorum"
    cluster.nodes["db_g1"].client().execute_command("REPLICAOF", "NO", "ONE")
    wait_for("votes again", lambda: app.read("k").status == 200)


def test_a_higher_region_epoch_fences(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    app.write("k", "1")
    for node in cluster.nodes.values():
        node.client().hset("holdfast:guard", mapping={"region_epoch": 2, "state": "fenced"})
    reply = app.write("k", "2")
    assert (reply.status, reply.code) == (503, "fenced")
    health = app.request("GET", "/health", token=None)
    assert (health.status, health.json["reason"]) == (503, "fenced")
    for node in cluster.nodes.values():
        node.client().hset("holdfast:guard", mapping={"state": "member"})
    wait_for("serves at the new epoch", lambda: app.write("k", "3").status == 200)
    assert app.read("k").json["version"].startswith("00000002.")


def test_a_raised_membership_epoch_costs_no_failed_request(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    for epoch in (2, 3):
        for node in cluster.nodes.values():
            node.client().hset("holdfast:guard", "membership_epoch", epoch)
            assert app.write("k", str(epoch)).status == 200
            assert app.read("k").json["value"] == str(epoch)


def test_deletes_do_not_come_back_from_a_lagging_node(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    app.write("k", "1")
    cluster.nodes["db_g3"].kill()
    assert app.delete("k").status == 200
    cluster.nodes["db_g3"].start()
    cluster.nodes["db_g1"].kill()
    wait_for("readable", lambda: app.read("k").code != "no_quorum")
    assert app.read("k").status == 404


def test_concurrent_writers_end_in_one_value_and_every_acknowledged_write_is_counted(cluster: Cluster) -> None:
    apps = [cluster.run("serve", "cp", zone, NETWORK_TIMEOUT_SEC=str(PATIENT)) for zone in ("db_g1", "db_g2")]

    def work(writer: int) -> list[tuple[str, str]]:
        done = []
        for i in range(25):
            value = f"w{writer}-{i}"
            reply = apps[writer % 2].write("contended", value)
            assert reply.status == 200, reply.body
            done.append((reply.json["version"], value))
        return done

    with ThreadPoolExecutor(8) as pool:
        versions = [pair for part in pool.map(work, range(8)) for pair in part]
    assert len({v for v, _ in versions}) == 200, "every write has its own tag"
    final = max(versions)
    for app in apps:
        assert (app.read("contended").json["version"], app.read("contended").json["value"]) == final
        assert app.metric('app_requests_total{mode="cp",operation="write",status="success"}') == 100


def test_reads_never_go_back_while_a_node_lags(cluster: Cluster) -> None:
    """One writer, two readers on two instances, a node stopped and continued all the time."""
    apps = [cluster.run("serve", "cp"), cluster.run("serve", "cp", "db_g2")]
    apps[0].write("seq", "0")
    over = Event()

    def flap() -> None:
        while not over.is_set():
            for node in cluster.nodes.values():
                node.signal(signal.SIGSTOP)
                time.sleep(0.03)
                node.signal(signal.SIGCONT)
                time.sleep(0.01)

    def reads(app_number: int) -> int:
        last = count = 0
        while not over.is_set():
            reply = apps[app_number].read("seq")
            if reply.status == 200:
                value = int(reply.json["value"])
                assert value >= last
                last, count = value, count + 1
        return count

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(flap), pool.submit(reads, 0), pool.submit(reads, 1)]
        try:
            for i in range(1, 120):
                assert apps[i % 2].write("seq", str(i)).status in (200, 503, 504)
        finally:
            over.set()
        assert all(f.result() > 20 for f in futures[1:])

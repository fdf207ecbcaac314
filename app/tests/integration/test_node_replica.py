"""A node that becomes a replica by mistake in a region that serves: an answer that does not count, not a failure."""

from __future__ import annotations

from cluster import Cluster, Node, wait_for
from test_node_faults import AT_ONCE, PATIENT, Load, breaker, takes_part_again


def replica(node: Node) -> None:
    node.client().execute_command("REPLICAOF", "127.0.0.1", "1")


def no_replica(node: Node) -> None:
    node.client().execute_command("REPLICAOF", "NO", "ONE")


def test_one_costs_nothing_and_two_are_refused(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT))
    load = Load(app)
    wait_for("writes", lambda: load.codes["ok"] > 20)
    replica(cluster.nodes["db_g1"])
    wait_for("seen", lambda: breaker(app, "db_g1")["guard"] == "replica")
    wait_for("writes go on", lambda before=load.codes["ok"]: load.codes["ok"] > before + 20)
    assert set(load.codes) == {"ok"}, "one node wrong must cost no request"
    assert load.slowest < AT_ONCE, "nor wait for it"
    replica(cluster.nodes["db_g2"])
    wait_for("refusals", lambda: load.codes["no_quorum"] > 5)
    assert not app.ready()
    count = load.codes["ok"]
    assert app.write("false", "majority").code == "no_quorum"
    assert load.codes["ok"] == count, "no write is acknowledged without a majority"
    assert breaker(app, "db_g1")["state"] == "CLOSED"
    for name in ("db_g1", "db_g2"):
        no_replica(cluster.nodes[name])
    wait_for("writes again", lambda: load.codes["ok"] > count + 20)
    takes_part_again(cluster, app, "db_g1")
    takes_part_again(cluster, app, "db_g2")
    load.stop()
    assert set(load.codes) <= {"ok", "no_quorum", "outcome_unknown"}
    load.check()

"""AP divergence on real nodes: damage done behind replication's back is repaired and reported; health is quiet."""

from __future__ import annotations

import time

from cluster import App, Cluster, wait_for
from test_ap import ZONES, contents, converged, start

from holdfast import divergence

#: Two cycles must differ, and entries must have left the lag window.
PERIOD = "1"
BOUND = divergence.LAG_MS / 1000 + 45


def repaired(replicators: list[App]) -> float:
    names = [f'ap_divergence_repaired_total{{node="{z}"}}' for z in ZONES]
    return sum(r.metric(n) for r, z in zip(replicators, ZONES, strict=True) for n in names if z not in n)


def checks(replicators: list[App]) -> float:
    pairs = [(r, o) for r, z in zip(replicators, ZONES, strict=True) for o in ZONES if o != z]
    return min(r.metric(f'ap_divergence_checks_total{{node="{o}"}}') for r, o in pairs)


def test_damage_on_one_node_is_found_repaired_and_reported(cluster: Cluster) -> None:
    apps, replicators = start(cluster, DIVERGENCE_CHECK_SEC=PERIOD)
    for i in range(40):
        assert apps[i % 3].write(f"k{i}", "first").status == 200
    apps[0].write("changed", "old")
    wait_for("old everywhere", lambda: converged(cluster))
    old = cluster.nodes["db_g2"].client().hgetall("ap:changed")
    apps[0].write("changed", "new")
    apps[1].delete("k3")
    wait_for("convergence", lambda: converged(cluster))
    wanted = contents(cluster, "db_g1")
    client = cluster.nodes["db_g2"].client()
    client.delete("ap:k1", "ap:k2", "ap:k3")  # written by db_g2 and db_g3; a tombstone
    for name in ("db_g1", "db_g2"):  # db_g1 wrote it: only a third node holds what is left of a lost history
        assert cluster.nodes[name].client().delete("ap:k6") == 1
    client.hset("ap:changed", mapping=old)
    outdated = dict(old) | {b"v": b"outdated"}
    client.hset("ap:only-here", mapping=outdated)
    wait_for("damage is repaired", lambda: converged(cluster), BOUND, pause=0.2)
    assert contents(cluster, "db_g3") == wanted | {b"ap:only-here": outdated}
    wait_for("counted: five on db_g2, two on db_g1, one on db_g3", lambda: repaired(replicators) == 8)
    wait_for("reported", lambda: told(replicators) >= {"DIVERGENCE_FOUND", "DIVERGENCE_REPAIRED"})
    gauges = [(r, f'ap_divergent_buckets{{node="{o}"}}') for r in replicators for o in ZONES if o != zone_of(r)]
    wait_for("reported as over", lambda: sum(r.metric(g) for r, g in gauges) == 0)
    assert repaired(replicators) == 8


def told(replicators: list[App]) -> set[str]:
    return {e["event"] for r in replicators for e in r.entries() if e["event"].startswith("DIVERGENCE_")}


def zone_of(app: App) -> str:
    return next(e["local_node"] for e in app.entries() if e["event"] == "REPLICATE_STARTED")


def test_a_busy_healthy_system_reports_nothing(cluster: Cluster) -> None:
    apps, replicators = start(cluster, DIVERGENCE_CHECK_SEC=PERIOD)
    end = time.monotonic() + divergence.LAG_MS / 1000 + 8
    number = 0
    while time.monotonic() < end:
        number += 1
        assert apps[number % 3].write(f"k{number % 400}", str(number)).status == 200
        if number % 10 == 0:
            assert apps[number % 3].delete(f"k{(number * 7) % 400}").status == 200
    wait_for("several checks", lambda: checks(replicators) >= 5)
    assert repaired(replicators) == 0
    assert not [e for r in replicators for e in r.entries() if e["event"] == "DIVERGENCE_FOUND"]


def test_a_restart_in_between_does_not_end_the_checks(cluster: Cluster) -> None:
    apps, replicators = start(cluster, DIVERGENCE_CHECK_SEC=PERIOD)
    apps[0].write("k", "1")
    wait_for("checks", lambda: checks(replicators) >= 1)
    node = cluster.nodes["db_g3"]
    node.kill()
    node.start()
    before = checks(replicators)
    wait_for("checks go on", lambda: checks(replicators) >= before + 2)
    assert repaired(replicators) == 0

"""A write that its node comes to late wins over nothing acknowledged; nodes that are full get room by themselves."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

from cluster import Cluster, wait_for
from test_ap import ZONES, contents, converged, start

BROKEN = (str(Path(__file__).with_name("broken_ap_late.py")),)


def overtaken(cluster: Cluster, launch: tuple[str, ...] = ("-m", "holdfast")) -> str:
    """Write A and then B while the zone's own node hangs; let it go on, and return what every zone ends with."""
    app = cluster.run("serve", "ap", launch=launch)
    for zone in ZONES:
        cluster.run("replicate", "ap", zone)
    wait_for("ready", lambda: app.read("k").status == 404)
    assert app.write("k", "before").json["acks"] == ["db_g1"], "and the node knows the script now"
    offset = 'node_clock_offset_ms{node="db_g1"}'
    wait_for("the clocks have been read", lambda: not math.isnan(app.metric(offset)))
    node = cluster.nodes["db_g1"]
    node.signal(signal.SIGSTOP)
    try:
        first = app.write("k", "A")
        second = app.write("k", "B")
    finally:
        node.signal(signal.SIGCONT)
    assert (first.status, second.status) == (200, 200), "another zone's node took them"
    assert first.json["acks"] != ["db_g1"]
    time.sleep(1.0)
    wait_for("convergence", lambda: converged(cluster))
    return contents(cluster, "db_g2")[b"ap:k"][b"v"].decode()


def test_a_write_that_its_node_comes_to_late_is_refused(cluster: Cluster) -> None:
    assert overtaken(cluster) == "B"


def test_without_the_latest_time_it_would_win(cluster: Cluster) -> None:
    assert overtaken(cluster, BROKEN) == "A"


def test_while_the_clock_of_a_hanging_node_is_not_known_no_other_one_takes_its_write(cluster: Cluster) -> None:
    """Or it would be acknowledged there, overwritten, and come back when the node goes on."""
    app = cluster.run("serve", "ap", launch=BROKEN, LATEST="none")
    assert wait_for("the node knows the script", lambda: app.write("k", "before").status == 200)
    node = cluster.nodes["db_g1"]
    node.signal(signal.SIGSTOP)
    try:
        assert app.write("k", "A").code == "outcome_unknown"
        taken = wait_for("its breaker is open", lambda: app.write("k", "B").json.get("acks"), 15)
    finally:
        node.signal(signal.SIGCONT)
    assert taken != ["db_g1"], "what is not sent at all goes on"


def test_full_nodes_take_writes_again_once_the_missing_zone_is_back(cluster: Cluster) -> None:
    """The outbox of a zone that is away fills the others; when it has pulled, they trim although they are full."""
    apps, _replicators = start(cluster, OUTBOX_MAX_BYTES="1073741824")
    wait_for("caught up", lambda: apps[0].read("k").status == 404)
    away = cluster.nodes["db_g3"]
    away.signal(signal.SIGSTOP)
    try:
        for name in ("db_g1", "db_g2"):
            client = cluster.nodes[name].client()
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 3_000_000)
        deadline = time.monotonic() + 180
        number = 0
        while apps[0].write(f"full-{number % 20}", "x" * 20_000).status == 200:
            number += 1
            assert time.monotonic() < deadline, "the nodes never became full"
        assert number > 20
        assert apps[0].read("full-0").status == 200, "reads go on"
    finally:
        away.signal(signal.SIGCONT)
    wait_for("room again", lambda: apps[0].write("after", "y").status == 200, pause=0.2)
    for zone in ZONES[:2]:
        wait_for("trimmed", lambda zone=zone: cluster.nodes[zone].client().xlen("holdfast:outbox") < number)

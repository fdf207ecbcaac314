"""AP tombstones are collected from real nodes, when all of them are there; and nothing deleted comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from cluster import App, Cluster, wait_for
from test_ap import ZONES, contents, converged, start
from test_ap_divergence import checks, repaired
from test_tombstones import guard, up

from holdfast import scripts

GRACE = "1.5"


def entries(cluster: Cluster) -> dict[str, int]:
    return {n: len(contents(cluster, n)) for n, node in cluster.nodes.items() if up(node)}


def collected(replicators: list[App]) -> float:
    return sum(r.metric('tombstones_collected_total{mode="ap"}') for r in replicators)


def blocked(replicators: list[App], reason: str) -> bool:
    return any(r.metric(f'ap_tombstones_blocked{{reason="{reason}"}}') for r in replicators)


def run(cluster: Cluster, node: str, script: scripts.Script, keys: list[Any], args: list[Any]) -> list[Any]:
    reply: list[Any] = cluster.nodes[node].client().eval(script.source.decode(), len(keys), *keys, *args)
    return reply


def page(cluster: Cluster, node: str, key: bytes, entry: dict[bytes, bytes], mark: bytes) -> list[Any]:
    """A page of a copy with one entry, asked for when the node's mark was ``mark``."""
    keys = ["holdfast:guard", "holdfast:peers", "holdfast:ap", "holdfast:parked", b"ap:" + key]
    args = [*guard(cluster, node).expectation(), "db_g1", "*", mark, 500, 1, key]
    return run(cluster, node, scripts.AP_APPLY, keys, [*args, entry[b"ver"], entry[b"k"], entry[b"v"], b""])


def mark(cluster: Cluster, node: str) -> bytes:
    return cluster.nodes[node].client().hget("holdfast:ap", "mark") or b"0"


def test_deletes_leave_all_nodes_and_nothing_of_before_brings_a_value_back(cluster: Cluster) -> None:
    apps, replicators = start(cluster, TOMBSTONE_GRACE_SEC=GRACE, DIVERGENCE_CHECK_SEC="0.5")
    apps[1].write("keep", "this")
    for i in range(40):
        assert apps[i % 3].write(f"gone{i}", "value").status == 200
    wait_for("values everywhere", lambda: converged(cluster) and entries(cluster)["db_g3"] == 41)
    values = contents(cluster, "db_g3")
    marks = {n: mark(cluster, n) for n in ZONES}
    records = {n: cluster.nodes[n].client().hgetall("holdfast:peers") for n in ZONES}
    for i in range(40):
        assert apps[(i + 1) % 3].delete(f"gone{i}").status == 200
    wait_for("only one entry is left on each node", lambda: set(entries(cluster).values()) == {1})
    wait_for("counted", lambda: collected(replicators) >= 40)
    old = values[b"ap:gone0"]
    for node in ZONES:
        assert page(cluster, node, b"gone0", old, marks[node])[0] == b"MARK", "a page that was read before"
        origin = next(o for o in records[node])
        keys = ["holdfast:guard", "holdfast:peers", "holdfast:ap", "holdfast:parked"]
        args = [*guard(cluster, node).expectation(), origin, records[node][origin], records[node][origin], 500, b"\x90"]
        assert run(cluster, node, scripts.AP_REPLAY, keys, args)[0] == b"CURSOR", "a batch that was pulled before"
        assert (
            run(cluster, node, scripts.AP_COLLECT_MARK, keys[:1] + keys[2:3], [*args[:6], 1, old[b"ver"]])[0] == b"LATE"
        )
    assert [a.read("gone0").status for a in apps] == [404] * 3
    written = apps[2].write("gone0", "again")
    assert written.status == 200
    assert written.json["version"].encode() > old[b"ver"]
    wait_for("the new value is everywhere", lambda: all(a.read("gone0").json.get("value") == "again" for a in apps))
    before = checks(replicators)
    wait_for("the comparison went on", lambda: checks(replicators) >= before + 3)
    assert repaired(replicators) == 0, "zones that remove at different moments are no divergence"
    # The control of the mark: under the present one the page is taken.
    assert page(cluster, "db_g1", b"gone1", old, mark(cluster, "db_g1"))[0] == b"OK"
    assert apps[0].read("gone1").json["value"] == "value"


def test_nothing_is_collected_while_a_node_is_away_and_it_goes_on_afterwards(cluster: Cluster) -> None:
    apps, replicators = start(cluster, TOMBSTONE_GRACE_SEC=GRACE)
    apps[0].write("first", "x")
    apps[0].delete("first")
    wait_for("the first delete is collected", lambda: set(entries(cluster).values()) == {0})
    apps[0].write("second", "x")
    wait_for("everywhere", lambda: set(entries(cluster).values()) == {1})
    wait_for("counted", lambda: collected(replicators) >= 1)
    was = collected(replicators)
    cluster.nodes["db_g3"].kill()
    assert apps[0].delete("second").status == 200
    wait_for("an operator sees why", lambda: blocked(replicators, "member_away"))
    time.sleep(2 * float(GRACE))
    assert entries(cluster) == {"db_g1": 1, "db_g2": 1}
    assert collected(replicators) == was
    cluster.nodes["db_g3"].start()  # it still has the value: it missed the delete
    wait_for("collected from all nodes", lambda: entries(cluster) == dict.fromkeys(ZONES, 0))
    assert [a.read("second").status for a in apps] == [404] * 3
    wait_for("the reason is gone", lambda: not blocked(replicators, "member_away"))
    waits = [e for r in replicators for e in r.entries() if e["event"] == "TOMBSTONES_WAIT" and e.get("mode") == "ap"]
    assert any("all nodes are needed" in e["why"] for e in waits)


def test_a_tombstone_that_a_node_lost_is_sent_again_and_then_goes(cluster: Cluster) -> None:
    apps, _ = start(cluster, TOMBSTONE_GRACE_SEC="4", DIVERGENCE_CHECK_SEC="600")  # time to do the damage in
    apps[0].write("k", "x")
    apps[0].delete("k")
    wait_for("everywhere", lambda: converged(cluster) and entries(cluster)["db_g2"] == 1, pause=0.005)
    for node in ("db_g1", "db_g2"):  # as if a removal had not reached db_g3
        cluster.nodes[node].client().delete("ap:k")
    wait_for("collected", lambda: set(entries(cluster).values()) == {0})


def test_a_restored_disk_brings_nothing_back(cluster: Cluster) -> None:
    apps, replicators = start(cluster, TOMBSTONE_GRACE_SEC=GRACE)
    apps[0].write("gone", "x")
    apps[0].write("keep", "y")
    wait_for("everywhere", lambda: set(entries(cluster).values()) == {2})
    client = cluster.nodes["db_g3"].client()
    kept, gone, state = client.hgetall("ap:keep"), client.hgetall("ap:gone"), client.hgetall("holdfast:ap")
    apps[0].delete("gone")
    wait_for("collected", lambda: set(entries(cluster).values()) == {1})
    replicators.pop().stop()
    client.hset("ap:gone", mapping=gone)  # as a restored disk would
    client.hset("ap:only-here", mapping={**kept, b"ver": state[b"hlc"].join([b"00000001.", b".db_g3"])})
    client.delete("holdfast:ap")
    client.hset("holdfast:ap", mapping=state)
    arguments = [sys.executable, "-m", "holdfast", "repair", "db_g3", "--suspect"]
    done = subprocess.run(arguments, env=cluster.env("ap"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e for e in said if e["event"] == "REPAIR_AP_PURGED"], "the restored entries were below the floor"
    replicators.append(cluster.run("replicate", "ap", "db_g3", TOMBSTONE_GRACE_SEC=GRACE))
    merged = 'ap_full_merges_total{node="db_g3"}'
    wait_for("its peers have merged it", lambda: all(r.metric(merged) >= 2 for r in replicators[:2]))
    wait_for("only what is alive is left", lambda: set(entries(cluster).values()) == {1})
    assert [a.read("gone").status for a in apps] == [404] * 3
    assert [a.read("keep").json["value"] for a in apps] == ["y"] * 3
    wait_for("all know what was collected", lambda: marks_agree(cluster))


def marks_agree(cluster: Cluster) -> bool:
    """Nodes are marked one after the other."""
    return len({tuple(cluster.nodes[n].client().hmget("holdfast:ap", "done", "floor")) for n in ZONES}) == 1

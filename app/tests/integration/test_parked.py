"""`holdfast parked`: entries from a node whose clock ran ahead are listed, and written anew at their origin."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from cluster import Cluster, wait_for
from test_ap import ZONES, contents, converged, start

HOUR_MS = 3_600_000


def parked(cluster: Cluster, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "parked", *arguments],
        env=cluster.env("cp"),
        capture_output=True,
        text=True,
        timeout=90,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()] or [{"error": done.stderr}]


def far_ahead(cluster: Cluster) -> str:
    return f"{int(time.time() * 1000) + HOUR_MS:012x}0000"


def test_entries_of_the_future_are_written_anew_at_their_origin(cluster: Cluster) -> None:
    apps, _replicators = start(cluster)
    apps[1].write("both", "before")
    wait_for("convergence", lambda: converged(cluster) and contents(cluster, "db_g1"))
    origin, reader = cluster.nodes["db_g1"].client(), cluster.nodes["db_g2"].client()
    origin.hset("holdfast:ap", "hlc", far_ahead(cluster))
    for key, value in (("once", "1"), ("twice", "old"), ("twice", "new"), ("both", "future"), ("gone", "x")):
        assert apps[0].write(key, value).status == 200
    assert apps[0].delete("gone").status == 200
    wait_for("parked", lambda: all(cluster.nodes[z].client().hlen("holdfast:parked") == 6 for z in ZONES[1:]))
    assert apps[1].write("both", "meanwhile").status == 200
    code, lines = parked(cluster, "list")
    assert code == 0
    assert {(x["node"], x["state"]) for x in lines} == {
        ("db_g1", "held"),
        ("db_g2", "parked"),
        ("db_g3", "parked"),
    }
    assert all(x["origin"] == "db_g1" and HOUR_MS - 60_000 < x["ahead_ms"] < HOUR_MS + 60_000 for x in lines)
    code, lines = parked(cluster, "restamp", "db_g1")
    assert (code, lines[-1]["code"]) == (5, "not_confirmed")
    assert reader.hlen("holdfast:parked") == 6, "nothing was changed"
    code, lines = parked(cluster, "restamp", "db_g1", "--confirm", "db_g1")
    assert code == 0, lines
    assert sum(x["event"] == "ENTRY_RESTAMPED" for x in lines) >= 6
    wait_for("convergence", lambda: converged(cluster))
    held = {k.decode(): v[b"v"].decode() for k, v in contents(cluster, "db_g3").items() if v[b"k"] == b"v"}
    assert held == {"ap:once": "1", "ap:twice": "new", "ap:both": "future"}
    assert all(cluster.nodes[z].client().hlen("holdfast:parked") == 0 for z in ZONES)
    wait_for("the metric", lambda: all(a.metric("ap_parked_entries") == 0 for a in apps))
    wait_for("the origin's clock is of now", lambda: apps[0].write("k", "1").status == 200)
    assert int(origin.hget("holdfast:ap", "hlc")[:12], 16) < time.time() * 1000 + 5000
    assert apps[2].delete("once").status == 200
    wait_for("deletes work", lambda: [a.read("once").status for a in apps] == [404, 404, 404])
    assert parked(cluster, "list") == (0, [{"error": ""}])
    code, lines = parked(cluster, "restamp", "db_g1", "--confirm", "db_g1")
    assert (code, lines[-1]["written_anew"]) == (0, 0), "safe to run again"


def test_an_entry_parked_elsewhere_that_its_origin_lost_is_written_from_there(cluster: Cluster) -> None:
    apps, _replicators = start(cluster)
    wait_for("merged", lambda: converged(cluster))
    origin, reader = cluster.nodes["db_g1"].client(), cluster.nodes["db_g2"].client()
    origin.hset("holdfast:ap", "hlc", far_ahead(cluster))
    apps[0].write("lost", "only elsewhere")
    wait_for("parked", lambda: all(cluster.nodes[z].client().hlen("holdfast:parked") == 1 for z in ZONES[1:]))
    origin.delete("ap:lost")
    code, lines = parked(cluster, "restamp", "db_g1", "--confirm", "db_g1")
    assert code == 0, lines
    wait_for("back", lambda: [a.read("lost").json.get("value") for a in apps] == ["only elsewhere"] * 3)
    assert reader.hlen("holdfast:parked") == 0


def test_a_node_that_cannot_be_judged_or_does_not_answer_is_refused(cluster: Cluster) -> None:
    cluster.nodes["db_g3"].kill()
    code, lines = parked(cluster, "restamp", "db_g1", "--confirm", "db_g1")
    assert (code, lines[-1]["code"]) == (4, "clock"), lines
    code, lines = parked(cluster, "restamp", "db_g3", "--confirm", "db_g3")
    assert (code, lines[-1]["code"]) == (3, "no_answer"), lines
    code, lines = parked(cluster, "restamp", "nobody")
    assert code == 2
    assert "NODES" in lines[0]["error"]

"""CP tombstones are collected from real nodes, when all of them are there; and nothing deleted comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from cluster import App, Cluster, wait_for

from holdfast import scripts
from holdfast.guard import Guard


def start(cluster: Cluster, grace: str = "1") -> tuple[App, list[App]]:
    app = cluster.run("serve", "cp")
    return app, [cluster.run("replicate", "ap", local, TOMBSTONE_GRACE_SEC=grace) for local in cluster.nodes]


def registers(cluster: Cluster) -> dict[str, int]:
    return {n: sum(1 for _ in node.client().scan_iter("cp:*")) for n, node in cluster.nodes.items() if up(node)}


def up(node: Any) -> bool:
    return node.process is not None and node.process.poll() is None


def guard(cluster: Cluster, name: str) -> Guard:
    fields = ("state", "region", "node", "region_epoch", "membership_epoch", "incarnation")
    found = Guard.from_fields(cluster.nodes[name].client().hmget("holdfast:guard", *fields))
    assert found is not None
    return found


def store(cluster: Cluster, name: str, key: str, tag: str, vouched: str = "") -> list[bytes]:
    """A store as a process would send it that began long ago."""
    source = scripts.CP_STORE.source.decode()
    keys = ["holdfast:guard", f"cp:{key}", "holdfast:cp"]
    args = [*guard(cluster, name).expectation(), tag, "v", "from the past", vouched]
    reply: list[bytes] = cluster.nodes[name].client().eval(source, len(keys), *keys, *args)
    return reply


def collected(replicas: list[App]) -> float:
    return sum(r.metric('tombstones_collected_total{mode="cp"}') for r in replicas)


def test_deleted_keys_leave_all_nodes_and_an_old_store_does_not_bring_them_back(cluster: Cluster) -> None:
    app, replicas = start(cluster)
    app.write("keep", "this")
    before = [app.write(f"gone{i}", "value").json["version"] for i in range(40)]
    for i in range(40):
        assert app.delete(f"gone{i}").status == 200
    wait_for("only one register is left on each node", lambda: set(registers(cluster).values()) == {1})
    wait_for("counted", lambda: collected(replicas) >= 40)
    for name in cluster.nodes:
        assert store(cluster, name, "gone0", before[0])[0] == b"FLOOR"
        assert store(cluster, name, "gone0", before[0], "no such batch")[0] == b"FLOOR"
    assert app.read("gone0").code == "not_found"
    assert app.read("keep").json["value"] == "this"
    written = app.write("gone0", "again")
    assert written.status == 200
    assert written.json["version"] > before[0]
    assert app.read("gone0").json["value"] == "again"
    wait_for(
        "no lock is left", lambda: not any(n.client().hget("holdfast:cp", "locked") for n in cluster.nodes.values())
    )


def test_nothing_is_collected_while_a_node_is_away_and_it_goes_on_afterwards(cluster: Cluster) -> None:
    app, replicas = start(cluster)
    app.write("first", "x")
    app.delete("first")
    wait_for("the first delete is collected", lambda: set(registers(cluster).values()) == {0})
    wait_for("counted", lambda: collected(replicas) >= 1)
    app.write("second", "x")
    cluster.nodes["db_g3"].kill()
    assert app.delete("second").status == 200
    was = collected(replicas)
    time.sleep(4)
    assert registers(cluster) == {"db_g1": 1, "db_g2": 1}
    assert collected(replicas) == was
    cluster.nodes["db_g3"].start()  # it still has the value: it missed the delete
    wait_for("collected from all nodes", lambda: registers(cluster) == dict.fromkeys(cluster.nodes, 0))
    assert app.read("second").code == "not_found"


def test_a_value_below_the_floor_is_read_though_a_node_that_has_it_is_away(cluster: Cluster) -> None:
    app, _ = start(cluster)
    cluster.nodes["db_g3"].kill()
    assert app.write("old", "value").status == 200  # db_g3 never hears of it
    cluster.nodes["db_g3"].start()
    wait_for("db_g3 votes", lambda: app.write("later", "x").json.get("acks") and len(registers(cluster)) == 3)
    app.delete("later")
    wait_for("the floor has passed the value", lambda: cluster.nodes["db_g3"].client().hget("holdfast:cp", "floor"))
    wait_for("no lock", lambda: not cluster.nodes["db_g3"].client().hget("holdfast:cp", "locked"))
    tag = cluster.nodes["db_g2"].client().hget("cp:old", "t").decode()
    assert store(cluster, "db_g3", "old", tag)[0] == b"FLOOR"
    cluster.nodes["db_g1"].kill()
    wait_for("read from db_g2, which vouches, and db_g3", lambda: app.read("old").status == 200)
    assert app.read("old").json["value"] == "value"
    assert cluster.nodes["db_g3"].client().hget("cp:old", "v") == b"value"


def test_a_lock_that_was_left_behind_is_taken_over(cluster: Cluster) -> None:
    app, _ = start(cluster)
    app.write("key", "x")
    for node in cluster.nodes.values():
        node.client().hset("holdfast:cp", mapping={"batch": "dead", "locked": "1", "floor": ""})
    app.delete("key")
    wait_for("collected all the same", lambda: set(registers(cluster).values()) == {0})


def test_a_healed_node_gets_the_floor_and_an_old_disk_brings_nothing_back(cluster: Cluster) -> None:
    app, replicas = start(cluster)
    version = app.write("key", "x").json["version"]
    app.delete("key")
    wait_for("collected", lambda: set(registers(cluster).values()) == {0})
    for replica in replicas:
        replica.stop()
    client = cluster.nodes["db_g3"].client()
    client.hset("cp:key", mapping={"t": version, "k": "v", "v": "x"})  # as a restored disk would
    client.hdel("holdfast:cp", "floor")
    arguments = [sys.executable, "-m", "holdfast", "repair", "db_g3", "--suspect"]
    done = subprocess.run(arguments, env=cluster.env("cp"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "REPAIR_FINISHED"
    assert client.exists("cp:key") == 0
    floors = {n: node.client().hget("holdfast:cp", "floor") for n, node in cluster.nodes.items()}
    assert len(set(floors.values())) == 1, floors
    assert store(cluster, "db_g3", "key", version)[0] == b"FLOOR"
    assert app.read("key").code == "not_found"

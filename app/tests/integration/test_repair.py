"""`holdfast repair` on real nodes, under load, killed and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster import App, Cluster, wait_for

ARGUMENTS = [sys.executable, "-m", "holdfast", "repair"]


def repair(cluster: Cluster, *arguments: str, **extra: str) -> tuple[int, list[dict[str, Any]]]:
    env = cluster.env("cp", **extra)
    done = subprocess.run([*ARGUMENTS, *arguments], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 1, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def empty(cluster: Cluster, name: str) -> None:
    node = cluster.nodes[name]
    node.kill()
    node.wipe()
    node.start()


def guard(cluster: Cluster, name: str) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in cluster.nodes[name].client().hgetall("holdfast:guard").items()}


def registers(cluster: Cluster, name: str) -> dict[str, tuple[bytes, ...]]:
    client = cluster.nodes[name].client()
    return {key.decode(): tuple(client.hmget(key, "t", "k", "v")) for key in client.scan_iter("cp:*", count=1000)}


@contextmanager
def load(app: App, keys: int = 20) -> Iterator[dict[str, Any]]:
    """Two writers on distinct keys; what was acknowledged last for each, and every answer's code."""
    seen: dict[str, Any] = {"acknowledged": {}, "codes": []}
    over = threading.Event()

    def work(writer: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            key = f"load{writer}-{count % keys}"
            reply = app.write(key, str(count))
            seen["codes"].append(reply.code or "success")
            if reply.status == 200:
                seen["acknowledged"][key] = count
            over.wait(0.004)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def fill(cluster: Cluster, count: int) -> None:
    """Registers written straight to all three nodes, as a majority write would leave them on two of them."""
    names = list(cluster.nodes)
    for absent in range(3):
        for name in names[:absent] + names[absent + 1 :]:
            pipe = cluster.nodes[name].client().pipeline(transaction=False)
            for i in range(absent, count, 3):
                pipe.hset(f"cp:old{i}", mapping={"t": f"00000001.{1:016x}.{i:028x}", "k": "v", "v": f"value {i}"})
            pipe.execute()


def test_a_blank_node_is_healed_under_load_and_votes_again(cluster: Cluster) -> None:
    # A deadline that a busy machine does not break: not one write may fail.
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC="5")
    fill(cluster, 3000)
    app.write("gone", "x")
    app.delete("gone")
    empty(cluster, "db_g1")
    before = guard(cluster, "db_g2")
    with load(app) as seen:
        time.sleep(0.3)
        code, lines = repair(cluster, "--all")
        time.sleep(0.3)
    assert code == 0, lines
    assert [line["event"] for line in lines][-2:] == ["REPAIR_MEMBER", "REPAIR_FINISHED"]
    assert {line.get("source") for line in lines} >= {"db_g2", "db_g3"}
    assert set(seen["codes"]) == {"success"}, "the service went on, without one failed write"
    after = guard(cluster, "db_g1")
    assert after["state"] == "member"
    assert int(after["membership_epoch"]) == int(before["membership_epoch"]) + 1
    assert after["membership_epoch"] == guard(cluster, "db_g2")["membership_epoch"]
    # Only with the healed node and one other: nothing that was acknowledged is missing.
    held = registers(cluster, "db_g1")
    assert len([k for k in held if k.startswith("cp:old")]) == 3000
    for away in ("db_g2", "db_g3"):
        cluster.nodes[away].kill()
        wait_for("reads go on", lambda: app.read("old1").status == 200)
        for key, count in seen["acknowledged"].items():
            assert int(app.read(key).json["value"]) >= count
        assert app.read("gone").status == 404
        assert app.read("old2999").json["value"] == "value 2999"
        cluster.nodes[away].start()
        wait_for("its breaker is closed", lambda n=away: app.metric(f'circuit_breaker_state{{node="{n}"}}') == 0)
    code, lines = repair(cluster, "--all")
    assert (code, lines[0]["heal"], lines[-1]["healed"]) == (0, [], [])
    assert guard(cluster, "db_g1") == after, "nothing to do: nothing was changed"


def test_a_killed_repair_is_started_again(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    fill(cluster, 6000)
    empty(cluster, "db_g2")
    with load(app) as seen:
        for seconds in (0.35, 0.6, 0.9):
            process = subprocess.Popen([*ARGUMENTS, "--all"], env=cluster.env("cp"), stdout=subprocess.DEVNULL)
            time.sleep(seconds)
            process.kill()
            process.wait()
        code, lines = repair(cluster, "--all")
    assert code == 0, lines
    assert guard(cluster, "db_g2")["state"] == "member"
    assert len([k for k in registers(cluster, "db_g2") if k.startswith("cp:old")]) == 6000
    cluster.nodes["db_g3"].kill()
    wait_for("reads go on", lambda: app.read("old1").status == 200)
    assert all(int(app.read(k).json["value"]) >= n for k, n in seen["acknowledged"].items())


def test_an_interrupted_raise_is_ended(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    empty(cluster, "db_g3")
    cluster.nodes["db_g1"].client().hset("holdfast:guard", "membership_epoch", 2)
    wait_for("two epochs", lambda: app.write("k", "1").code == "no_quorum")
    code, lines = repair(cluster, "--all")
    assert (code, lines[0]["interrupted_raise"]) == (0, True)
    assert len({guard(cluster, n)["membership_epoch"] for n in cluster.nodes}) == 1
    wait_for("serves", lambda: app.write("k", "2").status == 200)


def test_a_source_that_lags_and_a_source_that_is_restarted(cluster: Cluster) -> None:
    fill(cluster, 3000)
    empty(cluster, "db_g1")
    over = threading.Event()

    def lag() -> None:
        node = cluster.nodes["db_g2"]
        while not over.is_set():
            node.signal(signal.SIGSTOP)
            over.wait(0.1)
            node.signal(signal.SIGCONT)
            over.wait(0.02)

    slow = threading.Thread(target=lag)
    slow.start()
    try:
        process = subprocess.Popen([*ARGUMENTS, "--all"], env=cluster.env("cp"), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while '"db_g3"' not in (line := process.stdout.readline()) or "PROGRESS" not in line:
            assert line, "ended before the second source"
        cluster.nodes["db_g3"].kill()
        cluster.nodes["db_g3"].start()
        process.communicate(timeout=60)
    finally:
        over.set()
        slow.join()
    assert process.returncode == 0
    assert len(registers(cluster, "db_g1")) == 3000


def test_ap_data_and_a_new_outbox(cluster: Cluster) -> None:
    serving = {n: cluster.run("serve", "ap", n) for n in ("db_g1", "db_g2")}
    replicators = [cluster.run("replicate", "ap", n) for n in cluster.nodes]
    for i in range(50):
        serving["db_g1"].write(f"a{i}", "from the node that is lost")
        serving["db_g2"].write(f"b{i}", "from another")
    wait_for("replicated", lambda: cluster.nodes["db_g3"].client().keys("ap:*").__len__() == 100)
    for process in replicators:
        process.stop()
    incarnation = guard(cluster, "db_g1")["incarnation"]
    empty(cluster, "db_g1")
    code, lines = repair(cluster, "db_g1")
    assert code == 0, lines
    assert [line["origin"] for line in lines if line["event"] == "REPAIR_AP_MERGED"] == ["db_g2", "db_g3"]
    assert len(cluster.nodes["db_g1"].client().keys("ap:*")) == 100
    assert guard(cluster, "db_g1")["incarnation"] != incarnation
    wait_for("serves", lambda: serving["db_g1"].read("a7").status == 200)
    cluster.run("replicate", "ap", "db_g3")
    serving["db_g1"].write("new", "after the repair")
    wait_for("a peer follows the new outbox", lambda: cluster.nodes["db_g3"].client().exists("ap:new"))


def test_without_a_majority_only_after_typed_confirmation(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    app.write("k", "kept")
    wait_for("on all nodes", lambda: all(registers(cluster, n) for n in cluster.nodes))
    empty(cluster, "db_g1")
    empty(cluster, "db_g2")
    held = registers(cluster, "db_g3")
    code, lines = repair(cluster, "--all")
    assert (code, lines[-1]["code"]) == (6, "no_majority")
    code, lines = repair(cluster, "--all", "--confirm", "elsewhere")
    assert (code, registers(cluster, "db_g3")) == (6, held)
    assert guard(cluster, "db_g1") == {}
    code, lines = repair(cluster, "--all", "--confirm", "lab")
    assert code == 0, lines
    wait_for("serves", lambda: app.read("k").status == 200)
    assert app.read("k").json["value"] == "kept"
    assert app.write("k", "new").json["version"].startswith("00000002.")
    assert {guard(cluster, n)["region_epoch"] for n in cluster.nodes} == {"2"}


def test_old_values_that_may_have_been_collected_are_named_and_kept(cluster: Cluster) -> None:
    def old_disks(floor: str) -> dict[str, Any]:
        """Two nodes that vote no more; one has a value that the other has not. Returns the line that names it."""
        for name in ("db_g2", "db_g3"):
            client = cluster.nodes[name].client()
            client.hset("holdfast:guard", "state", "recovering")
            client.delete("cp:doubt")
        cluster.nodes["db_g1"].client().delete("cp:doubt")
        cluster.nodes["db_g3"].client().hset("cp:doubt", mapping={"t": version, "k": "v", "v": "perhaps the last"})
        if floor:
            cluster.nodes["db_g2"].client().hset("holdfast:cp", "floor", floor)
        code, lines = repair(cluster, "--all", "--confirm", "lab", AUDIT_PSEUDONYMISE="on" if hidden else "off")
        assert code == 0, lines
        assert all(registers(cluster, n)["cp:doubt"] for n in cluster.nodes), "it stays"
        return next((x for x in lines if x["event"] == "REPAIR_IN_DOUBT"), {})

    app, hidden = cluster.run("serve", "cp"), False
    version = app.write("doubt", "x").json["version"]
    assert app.write("everywhere", "y").status == 200
    wait_for("on all nodes", lambda: all(len(registers(cluster, n)) == 2 for n in cluster.nodes))
    assert old_disks("") == {}, "nothing was ever collected: nothing is in doubt"
    floor = version[:9] + "f" * 16 + version[25:]
    named = old_disks(floor)
    assert (named["count"], named["first"]) == (1, ["doubt"])
    hidden = True
    named = old_disks(floor)
    assert named["count"] == 1
    assert named["first"][0].startswith("p:")


def test_a_node_that_was_away_is_not_merged(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    app.write("k", "old")
    wait_for("on all nodes", lambda: all(registers(cluster, n) for n in cluster.nodes))
    cluster.nodes["db_g3"].kill()
    empty(cluster, "db_g1")
    code, lines = repair(cluster, "--all")
    assert (code, lines[0]["absent"]) == (6, ["db_g3"])
    code, lines = repair(cluster, "--all", "--confirm", "lab")
    assert (code, lines[-1]["empty_before_return"]) == (0, ["db_g3"])
    cluster.nodes["db_g3"].start()
    code, lines = repair(cluster, "--all")
    assert (code, lines[-1]["code"]) == (7, "must_empty")
    empty(cluster, "db_g3")
    assert repair(cluster, "--all")[0] == 0
    assert registers(cluster, "db_g3") == registers(cluster, "db_g1")


def test_a_member_whose_data_may_be_cut_is_healed_when_told_so(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    app.write("k", "kept")
    wait_for("on all nodes", lambda: all(registers(cluster, n) for n in cluster.nodes))
    cluster.nodes["db_g2"].client().delete("cp:k")
    assert repair(cluster, "db_g2")[1][0]["heal"] == []
    assert registers(cluster, "db_g2") == {}
    code, lines = repair(cluster, "db_g2", "--suspect")
    assert (code, lines[0]["heal"]) == (0, ["db_g2"])
    assert registers(cluster, "db_g2") == registers(cluster, "db_g1")


def test_usage(cluster: Cluster) -> None:
    for arguments in ((), ("nowhere",), ("db_g1", "--all"), ("--all", "--suspect")):
        assert repair(cluster, *arguments)[0] == 2
    empty(cluster, "db_g1")
    cluster.nodes["db_g1"].client().set("stray", "data")
    assert repair(cluster, "db_g1")[0] == 4
    cluster.nodes["db_g1"].kill()
    assert repair(cluster, "db_g1")[0] == 3


def test_a_truncated_aof_does_not_start_and_is_healed_once_it_is_cut(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    for i in range(50):
        app.write(f"k{i}", "kept")
    wait_for("on all nodes", lambda: all(len(registers(cluster, n)) == 50 for n in cluster.nodes))
    node = cluster.nodes["db_g1"]
    node.kill()
    (aof,) = (node.directory / "data" / "appendonlydir").glob("*.incr.aof")
    manifest = next((node.directory / "data" / "appendonlydir").glob("*.manifest"))
    aof.write_bytes(aof.read_bytes()[:-700])
    node.start(wait=False)
    assert node.process is not None
    assert node.process.wait(timeout=60) != 0, "a node with a cut history does not come up by itself"
    assert app.write("k0", "without it").status == 200
    subprocess.run(["redis-check-aof", "--fix", str(manifest)], input=b"y\n", check=True, capture_output=True)
    node.start()
    assert len(registers(cluster, "db_g1")) < 50
    code, lines = repair(cluster, "db_g1", "--suspect")
    assert (code, lines[0]["heal"]) == (0, ["db_g1"])
    cluster.nodes["db_g3"].kill()
    wait_for("reads go on", lambda: app.read("k49").status == 200)
    assert app.read("k0").json["value"] == "without it"
    assert len(registers(cluster, "db_g1")) == 50

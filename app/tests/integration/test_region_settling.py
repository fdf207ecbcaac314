"""What follows a promotion: CP copies are settled under load, AP data merges, the next ends a killed settling."""

from __future__ import annotations

import signal
import subprocess
import sys

from cluster import wait_for
from regions import NAMES, Regions
from test_repair import load


def registers(regions: Regions, name: str, pattern: str = "cp:*") -> dict[bytes, dict[bytes, bytes]]:
    client = regions.east.nodes[name].client()
    return {key: client.hgetall(key) for key in client.scan_iter(pattern, count=1000)}


def uneven(regions: Regions, count: int) -> None:
    """Registers of west of which each copy has another part, and all copies together have all."""
    for number, name in enumerate(NAMES):
        pipe = regions.west.nodes[name].client().pipeline(transaction=False)
        for i in range(number, count, 3):
            pipe.hset(f"cp:old{i}", mapping={"t": f"00000001.{1:016x}.{i:028x}", "k": "v", "v": f"value {i}"})
        pipe.execute()
    regions.in_step()


def test_settling_under_load(regions: Regions) -> None:
    count = 3000
    uneven(regions, count)
    regions.west.kill_nodes()
    # A deadline that a busy machine does not break: reads hear all nodes until these are settled.
    app = regions.east.run("serve", "cp", NETWORK_TIMEOUT_SEC="5")
    pulls = regions.east.run("replicate", "ap")
    regions.fail_over()
    wait_for("serves", app.ready)
    with load(app) as seen:
        wait_for("settled", lambda: regions.east.states() == ["member"] * 3)
        wait_for("enough writes", lambda: len(seen["codes"]) > 50)
    assert set(seen["codes"]) == {"success"}, "settling costs no request"
    held = [{k: v for k, v in registers(regions, n).items() if k.startswith(b"cp:old")} for n in NAMES]
    assert len(held[0]) == count
    assert held[0] == held[1] == held[2]
    assert any(e["event"] == "SETTLE_PROGRESS" for e in pulls.entries())
    assert {regions.east.guard(n)["membership_epoch"] for n in NAMES} == {"2"}
    regions.east.nodes["db_g1"].signal(signal.SIGSTOP)
    try:
        for key, value in seen["acknowledged"].items():
            assert app.read(key).json["value"] == str(value)
    finally:
        regions.east.nodes["db_g1"].signal(signal.SIGCONT)


def test_a_killed_settling_is_ended_by_the_next(regions: Regions) -> None:
    uneven(regions, 6000)
    regions.west.kill_nodes()
    regions.fail_over()
    arguments = [sys.executable, "-m", "holdfast", "region", "settle"]
    first = subprocess.Popen(
        arguments, env=regions.east.env("cp"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for("it copies", lambda: regions.east.nodes["db_g1"].client().dbsize() > 2300, pause=0.002)
    first.kill()
    first.wait()
    assert regions.east.states() == ["promoted"] * 3
    code, told, words = regions.east.region("settle")
    assert (code, told["settled"]) == (0, list(NAMES)), words
    assert registers(regions, "db_g1") == registers(regions, "db_g2") == registers(regions, "db_g3")
    # Killed between two nodes of its last step.
    regions.east.nodes["db_g3"].client().hset("holdfast:guard", "state", "promoted")
    code, told, words = regions.east.region("settle")
    assert (code, told["settled"]) == (0, ["db_g3"]), words
    assert regions.east.region("settle")[1]["settled"] == []


def test_ap_copies_with_different_lag_converge(regions: Regions) -> None:
    writers = {n: regions.west.run("serve", "ap", local=n) for n in NAMES}
    for name, app in writers.items():
        assert app.write(f"early-{name}", "1").status == 200
    pulls = [regions.west.run("replicate", "ap", local=n) for n in NAMES]
    wait_for("early ones are everywhere", lambda: all(len(registers(regions, n, "ap:early*")) == 3 for n in NAMES))
    for pull in pulls:
        pull.stop()
    regions.in_step()
    regions.cables["db_g1"].cut = True
    assert writers["db_g1"].write("late-db_g1", "lost, as its copy never had it").status == 200
    for name in ("db_g2", "db_g3"):
        assert writers[name].write(f"late-{name}", "1").status == 200
        wait_for("copied", lambda n=name: regions.east.nodes[n].client().exists(f"ap:late-{n}"))
    # One copy knows of a collection of tombstones that the others have not heard of.
    for node in (regions.west.nodes["db_g3"],):
        floor = f"00000001.{1:012x}0001.db_g3"
        node.client().hset("holdfast:ap", mapping={"mark": "7", "done": "7", "floor": floor})
    wait_for("copied", lambda: regions.east.nodes["db_g3"].client().hget("holdfast:ap", "done") == b"7")
    regions.west.kill_nodes()
    for name in NAMES:  # one process for each node, all in one place
        regions.east.run("replicate", "ap", local=name, ZONE="standby")
    app = regions.east.run("serve", "ap")
    regions.fail_over()
    wait_for("serves", app.ready)
    assert app.write("fresh", "1").status == 200
    wanted = {b"ap:early-db_g1", b"ap:early-db_g2", b"ap:early-db_g3", b"ap:late-db_g2", b"ap:late-db_g3", b"ap:fresh"}
    wait_for("all have all", lambda: all(set(registers(regions, n, "ap:*")) == wanted for n in NAMES))
    assert (
        registers(regions, "db_g1", "ap:*")
        == registers(regions, "db_g2", "ap:*")
        == registers(regions, "db_g3", "ap:*")
    )
    wait_for("settled", lambda: regions.east.states() == ["member"] * 3)
    assert app.write("after", "1").status == 200
    wait_for("replication goes on", lambda: all(regions.east.nodes[n].client().exists("ap:after") for n in NAMES))

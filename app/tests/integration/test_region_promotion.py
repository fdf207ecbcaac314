"""A standby region that is promoted: copies that lag differently, reads that must hear all nodes, settling."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from cluster import wait_for
from regions import NAMES, Regions

HERE = Path(__file__).resolve().parent
CUT_OFF = (str(HERE / "cut_off_promotion.py"),)


def lag_behind(regions: Regions) -> None:
    """ "k" is acknowledged as new in west, and only the copy of db_g3 has heard of it when west is lost."""
    app = regions.west.run("serve", "cp")
    assert app.write("k", "old").status == 200
    assert app.write("gone", "soon").status == 200
    assert app.write("both", "same").status == 200
    wait_for("everywhere", lambda: all(_holds(regions, n, "both", "same") for n in NAMES))
    regions.in_step()
    for name in ("db_g1", "db_g2"):
        regions.cables[name].cut = True
    assert app.write("k", "new").status == 200
    assert app.delete("gone").status == 200
    wait_for("the copy of db_g3 has it", lambda: _holds(regions, "db_g3", "k", "new"))
    wait_for("and the delete", lambda: regions.east.nodes["db_g3"].client().hget("cp:gone", "k") == b"d")
    regions.west.kill_nodes()
    app.stop()


def _holds(regions: Regions, name: str, key: str, value: str) -> bool:
    return bool(regions.east.nodes[name].client().hget(f"cp:{key}", "v") == value.encode())


def test_an_acknowledged_write_that_one_copy_has_is_read(regions: Regions) -> None:
    lag_behind(regions)
    app = regions.east.run("serve", "cp")
    regions.fail_over()
    wait_for("serves", app.ready)
    regions.east.nodes["db_g3"].signal(signal.SIGSTOP)
    refused = app.read("k")
    assert (refused.status, refused.code) == (503, "no_quorum"), "the one copy that knows cannot be heard"
    assert "all nodes are needed" in refused.json["error"]["message"]
    wait_for("a write needs a majority only", lambda: app.write("fresh", "1").status == 200)
    assert app.read("fresh").json["value"] == "1", "and so does a read of what was written since"
    regions.east.nodes["db_g3"].signal(signal.SIGCONT)
    wait_for("hears all", lambda: app.read("k").status == 200)
    assert app.read("k").json["value"] == "new"
    assert app.read("gone").code == "not_found"
    assert app.write("k", "newer").json["version"].startswith("00000002.")
    assert regions.east.states() == ["promoted"] * 3
    regions.east.run("replicate", "ap")
    wait_for("settled", lambda: regions.east.states() == ["member"] * 3)
    regions.east.nodes["db_g3"].signal(signal.SIGSTOP)
    wait_for("a majority is enough", lambda: app.read("both").status == 200)
    assert app.read("gone").code == "not_found", "settling brought the delete to the others"
    regions.east.nodes["db_g3"].signal(signal.SIGCONT)


def test_control_a_majority_after_a_promotion_loses_an_acknowledged_write(regions: Regions) -> None:
    lag_behind(regions)
    app = regions.east.run("serve", "cp", launch=(str(HERE / "broken_region.py"),))
    regions.fail_over()
    wait_for("serves", app.ready)
    regions.east.nodes["db_g3"].signal(signal.SIGSTOP)
    wait_for("the two others answer", lambda: app.read("k").status == 200)
    assert app.read("k").json["value"] == "old"
    regions.east.nodes["db_g3"].signal(signal.SIGCONT)


def test_a_node_that_is_gone_for_good_is_given_up(regions: Regions) -> None:
    lag_behind(regions)
    app = regions.east.run("serve", "cp")
    regions.cut_loose()
    regions.east.nodes["db_g1"].kill()
    code, told, words = regions.east.region("promote", "--epoch", "2")
    assert code == 6, told
    assert "--without db_g1" in words
    assert regions.east.guard("db_g2")["region"] == "west", "nothing was changed"
    code, told, words = regions.east.region("promote", "--epoch", "2", "--without", "db_g1", "--without", "db_g2")
    assert code == 6, told
    code, told, words = regions.east.region("promote", "--epoch", "2", "--without", "db_g1")
    assert code == 0, words
    assert [regions.east.guard(n)["state"] for n in ("db_g2", "db_g3")] == ["member"] * 2
    wait_for("serves", app.ready)
    assert app.read("k").json["value"] == "new"
    regions.east.nodes["db_g1"].start()
    assert regions.east.guard("db_g1")["region"] == "west"
    wait_for("it does not count", lambda: app.read("k").status == 200)


def test_a_node_that_is_set_aside_when_settling_does_not_come_back_with_its_data(regions: Regions) -> None:
    lag_behind(regions)
    app = regions.east.run("serve", "cp")
    regions.fail_over()
    wait_for("serves", app.ready)
    regions.east.nodes["db_g3"].kill()
    wait_for("refused", lambda: app.read("k").code == "no_quorum")
    code, told, words = regions.east.region("settle")
    assert (code, told["code"]) == (3, "unreachable"), words
    code, told, words = regions.east.region("settle", "--without", "db_g3")
    assert (code, told["settled"]) == (0, ["db_g1", "db_g2"]), words
    wait_for("reads again", lambda: app.read("k").status == 200)
    assert app.read("k").json["value"] == "old", "what only db_g3 had is lost, as the operator accepted"
    regions.east.nodes["db_g3"].start()
    regions.east.run("replicate", "ap")
    code, told, words = regions.east.region("settle")
    assert (code, told["code"]) == (3, "must_empty"), words
    assert app.read("k").json["value"] == "old"
    assert regions.east.guard("db_g3")["state"] == "promoted"


def test_a_copy_that_was_marked_only_and_given_up_does_not_come_back_with_its_data(regions: Regions) -> None:
    lag_behind(regions)
    east = regions.east
    regions.cut_loose()
    victim = east.nodes["db_g3"].process
    assert victim is not None
    code, told, words = east.region("promote", "--epoch", "2", launch=CUT_OFF, VICTIM=str(victim.pid))
    assert (code, told["nodes"]) == (3, dict.fromkeys(NAMES, "recovering")), words
    assert "--without db_g3" in words
    assert "nothing was changed" not in words
    victim.wait()
    code, _told, words = east.region("promote", "--epoch", "2", "--without", "db_g3")
    assert code == 0, words
    app = east.run("serve", "cp")
    assert wait_for("serves", lambda: app.read("k").json.get("value")) == "old", "the operator accepted that"
    east.nodes["db_g3"].start()
    repair = [sys.executable, "-m", "holdfast", "repair", "db_g3"]
    done = subprocess.run(repair, env=east.env("cp"), capture_output=True, text=True, timeout=60)
    assert (done.returncode, "must_empty" in done.stdout) == (7, True), done.stdout
    assert app.read("k").json["value"] == "old"
    east.nodes["db_g3"].client().flushall()
    assert east.bootstrap()[0] == 0
    done = subprocess.run(repair, env=east.env("cp"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert east.states() == ["member"] * 3
    assert app.read("k").json["value"] == "old"

"""Fencing while others move guards, and regions that meet again after a partition."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster import App, wait_for
from regions import NAMES, WITHIN_SECONDS, Region, Regions

RACING = (str(Path(__file__).resolve().parent / "racing_fence.py"),)


def test_a_fence_goes_on_where_settling_moves_guards_under_it(regions: Regions) -> None:
    code, told, words = regions.west.region("fence", "--epoch", "2", "--reason", "race", launch=RACING, RACES="2")
    assert (code, told["fenced"]) == (0, list(NAMES)), words
    assert regions.west.states() == ["fenced"] * 3
    assert {regions.west.guard(n)["membership_epoch"] for n in NAMES} == {"3"}, "the race was real"
    assert words.count("REGION_FENCED") == 3


def test_a_fence_that_somebody_else_was_faster_with_is_one(regions: Regions) -> None:
    code, told, words = regions.west.region(
        "fence", "--epoch", "2", "--reason", "race", launch=RACING, RACES="1", FENCES="3"
    )
    assert (code, told["fenced"]) == (0, list(NAMES)), words
    assert {regions.west.guard(n)["region_epoch"] for n in NAMES} == {"3"}


def test_control_a_fence_that_tries_once_leaves_the_region_serving(regions: Regions) -> None:
    code, told, words = regions.west.region(
        "fence", "--epoch", "2", "--reason", "race", launch=RACING, RACES="1", ATTEMPTS="1"
    )
    assert (code, told["fenced"]) == (3, []), words
    assert "changed by somebody else" in told["nodes"]["db_g1"]
    assert regions.west.states() == ["member"] * 3


def test_a_fence_waits_for_the_copies_to_show_it_and_names_those_that_do_not(regions: Regions) -> None:
    """A planned switch: a copy that shows the fence has every write of before, as that was written last."""
    fence = ("fence", "--epoch", "2", "--reason", "planned", "--copies")
    regions.in_step()
    regions.cables["db_g2"].cut = True
    code, told, words = regions.west.region(*fence, "5")
    assert (code, told["fenced"], told["copies_behind"]) == (3, list(NAMES), ["db_g2"]), words
    assert "not shown within 5 s by the other region's db_g2" in words
    regions.cables["db_g2"].cut = False
    code, told, words = regions.west.region(*fence, "30")
    assert (code, told["copies_behind"]) == (0, []), words
    assert [regions.east.guard(n)["state"] for n in NAMES] == ["fenced"] * 3


def test_there_is_nothing_to_wait_for_without_another_region(regions: Regions) -> None:
    regions.west.peers = {}
    code, _told, words = regions.west.region("fence", "--epoch", "2", "--reason", "planned", "--copies", "1")
    assert (code, regions.west.states()) == (2, ["member"] * 3), words
    assert "PEER_NODES names none" in words


def test_a_node_that_the_fence_did_not_reach_is_named_by_unfence(regions: Regions) -> None:
    west = regions.west
    west.nodes["db_g3"].kill()
    assert west.region("fence", "--epoch", "2", "--reason", "drill")[0] == 0
    west.nodes["db_g3"].start()
    code, told, words = west.region("unfence", "--epoch", "2")
    assert (code, told["nodes"]) == (3, {"db_g1": "member at 2", "db_g2": "member at 2", "db_g3": "member at 1"}), words
    assert "db_g3: the fence never got there" in words
    assert "empty it, then holdfast bootstrap" in words
    west.nodes["db_g3"].client().flushall()
    assert west.bootstrap()[0] == 0
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "repair", "db_g3"], env=west.env("cp"), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    code, told, words = west.region("unfence", "--epoch", "2")
    assert (code, set(told["nodes"].values())) == (0, {"member at 2"}), "the cure that was named"


def test_a_node_that_was_behind_before_a_fence_gets_no_vote_when_that_is_taken_back(regions: Regions) -> None:
    west, (late, *others) = regions.west, reversed(NAMES)
    for node in others:  # two changes that the third slept through
        west.nodes[node].client().hset("holdfast:guard", "region_epoch", 3)
    west.nodes[late].client().set("cp:undone", "x")
    assert west.region("fence", "--epoch", "4", "--reason", "drill")[0] == 0
    assert west.states() == ["fenced"] * 3
    west.nodes[late].kill()
    code, told, words = west.region("unfence", "--epoch", "4")
    assert (code, [told["nodes"][n] for n in others]) == (0, ["member at 4"] * 2), words
    west.nodes[late].start()
    for _again in range(2):
        code, told, words = west.region("unfence", "--epoch", "4")
        assert (code, told["nodes"][late]) == (3, "recovering at 1"), words
        assert f"{late}: the fence never got there, or its data was older" in words
    repair = [sys.executable, "-m", "holdfast", "repair", late]
    done = subprocess.run(repair, env=west.env("cp"), capture_output=True, text=True, timeout=60)
    assert "must_empty" in done.stdout, "it is not healed by merging"
    assert west.region("fence", "--epoch", "5", "--reason", "drill")[0] == 0
    code, told, _words = west.region("unfence", "--epoch", "5")
    assert (code, told["nodes"][late]) == (3, "recovering at 1"), "all at once as well"


def test_a_promotion_refuses_a_copy_that_would_bring_collected_deletes_back(regions: Regions) -> None:
    beats = regions.west.run("replicate", "ap")
    east = regions.east
    wait_for("beats", lambda: all(east.nodes[n].client().get("holdfast:heartbeat") for n in NAMES))
    regions.cables["db_g1"].cut = True

    def beat(name: str) -> int:
        return int(east.nodes[name].client().get("holdfast:heartbeat"))

    last = beat("db_g1")  # later on it shows none: its link is down
    wait_for("db_g1 is behind", lambda: min(beat("db_g2"), beat("db_g3")) > last + 1500)
    beats.stop()
    regions.west.kill_nodes()
    regions.cut_loose()
    code, _told, words = east.region("promote", "--epoch", "2", TOMBSTONE_GRACE_SEC="1")
    assert code == 6, words
    assert "--without db_g1" in words
    assert east.guard("db_g1")["region"] == "west", "nothing was changed"
    code, _told, words = east.region("promote", "--epoch", "2")
    assert code == 0, "within the grace of one day"


def part(regions: Regions) -> None:
    """Nothing passes between the regions any more; what was written before has."""
    regions.in_step()
    regions.cut_regions()
    for cable in regions.cables.values():
        cable.cut = True


def why_not(app: App) -> str:
    return str(app.request("GET", "/health", token=None).json.get("reason", "ready"))


def test_a_region_whose_successor_is_fenced_when_it_sees_it_closes(regions: Regions) -> None:
    cp, ap = regions.west.run("serve", "cp"), regions.west.run("serve", "ap")
    regions.west.run("replicate", "ap")
    assert cp.write("k", "v").status == 200
    part(regions)
    regions.fail_over(2)
    assert regions.east.region("fence", "--epoch", "4", "--reason", "planned")[0] == 0
    assert cp.write("k", "in the dark").status == 200
    regions.cut_regions(False)
    wait_for("CP knows", lambda: cp.read("k").code == "fenced", WITHIN_SECONDS)
    wait_for("AP knows", lambda: ap.read("x").code == "fenced", WITHIN_SECONDS)
    wait_for("so do its nodes", lambda: regions.west.states() == ["fenced"] * 3)
    assert {regions.west.guard(n)["region_epoch"] for n in NAMES} == {"2"}, "the epoch at which the other one served"


def test_control_an_old_region_fenced_above_the_one_that_serves_does_not_close_it(regions: Regions) -> None:
    assert regions.west.region("fence", "--epoch", "2", "--reason", "drill")[0] == 0
    app = regions.east.run("serve", "cp")
    regions.east.run("replicate", "ap")
    regions.fail_over(2)
    wait_for("serves", app.ready)
    wait_for("settled", lambda: regions.east.states() == ["member"] * 3)
    assert regions.west.region("fence", "--epoch", "5", "--reason", "too careful")[0] == 0
    assert regions.west.guard("db_g1")["fenced_epoch"] == "1"
    for number in range(30):
        assert app.write("k", str(number)).status == 200
        time.sleep(0.1)
    assert regions.east.states() == ["member"] * 3


def test_two_regions_at_one_epoch_both_close_and_a_person_decides(regions: Regions) -> None:
    west = [regions.west.run("serve", mode) for mode in ("cp", "ap")]
    east = [regions.east.run("serve", mode) for mode in ("cp", "ap")]
    watches = [regions.west.run("replicate", "ap"), regions.east.run("replicate", "ap")]
    part(regions)
    assert regions.west.region("fence", "--epoch", "2", "--reason", "planned")[0] == 0
    assert regions.west.region("unfence", "--epoch", "2", "--confirm", "west")[0] == 0
    regions.fail_over(2)
    for app in (*west, *east):
        wait_for("serves in the dark", lambda a=app: a.write("k", "v").status == 200)
    regions.cut_regions(False)
    for app in (*west, *east):
        assert wait_for("closed", lambda a=app: why_not(a) == "two_regions", WITHIN_SECONDS)
        assert app.write("k", "late").code == "fenced"
    for app in watches:
        said = wait_for("said", lambda a=app: [e for e in a.entries() if e["event"] == "TWO_REGIONS_AT_ONE_EPOCH"])
        assert said[0]["level"] == "ERROR"
        assert "fence --epoch 3, then unfence" in str(said[0]["cure"])
    wait_for("their nodes too", lambda: regions.west.states() + regions.east.states() == ["fenced"] * 6)
    code, _told, words = regions.east.region("unfence", "--epoch", "2", "--confirm", "east")
    assert (code, "fence --epoch 3, then unfence --epoch 3" in words) == (6, True), "or it would close again at once"
    assert regions.east.region("fence", "--epoch", "3", "--reason", "its history stays")[0] == 0
    code, _told, words = regions.east.region("unfence", "--epoch", "3")
    assert code == 0, words
    for app in east:
        wait_for("serves again", lambda a=app: a.write("k", "on").status == 200)
    for app in west:
        wait_for("not this one", lambda a=app: why_not(a) == "fenced")


def succeeded(regions: Regions) -> App:
    """West was fenced at 2 and has no process that looks; east, whose CP face this is, serves at 2."""
    east = regions.east.run("serve", "cp")
    regions.east.run("replicate", "ap")
    assert regions.west.region("fence", "--epoch", "2", "--reason", "drill")[0] == 0
    regions.in_step()
    regions.fail_over(2)
    wait_for("east serves", lambda: east.write("k", "acknowledged by east").status == 200)
    wait_for("settled", lambda: regions.east.states() == ["member"] * 3)
    return east


def repair(region: Region, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "holdfast", "repair", *arguments]
    done = subprocess.run(command, env=region.env("cp"), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def test_a_repair_does_not_lift_a_fence_nor_take_over_from_the_region_that_serves(regions: Regions) -> None:
    east = succeeded(regions)
    west = regions.west
    before = {n: west.guard(n) for n in NAMES}
    for words in (("--all",), ("--all", "--confirm", "west")):
        code, told = repair(west, *words)
        assert (code, "region unfence --epoch 2" in told) == (8, True), told
        assert "--confirm west" not in told, "nobody is led there"
    assert {n: west.guard(n) for n in NAMES} == before
    for name in NAMES:  # no fence any more: restored from a backup of before it, say
        west.nodes[name].client().hset("holdfast:guard", mapping={"state": "recovering", "region_epoch": 1})
    code, told = repair(west, "--all", "--confirm", "west")
    assert (code, "of the other region serves at region epoch 2" in told) == (8, True), told
    assert west.states() == ["recovering"] * 3
    assert east.read("k").status == 200
    assert regions.east.region("fence", "--epoch", "4", "--reason", "the other one shall serve")[0] == 0
    code, told = repair(west, "--all", "--confirm", "west")
    assert code == 0, told
    assert {west.guard(n)["region_epoch"] for n in NAMES} == {"5"}, "above all that was seen"


def test_a_repair_does_not_take_over_while_the_other_region_does_not_show_its_guards(regions: Regions) -> None:
    """As while it is loading. Its epoch is not seen either: both would serve at one."""
    west, east = regions.west, regions.east
    regions.fail_over(2)
    for name in NAMES:
        west.nodes[name].client().hset("holdfast:guard", "state", "recovering")
        east.nodes[name].client().execute_command("ACL", "SETUSER", "service", "-hmget")
    code, told = repair(west, "--all", "--confirm", "west")
    assert (code, "db_g1: noperm" in told) == (3, True), told
    assert west.states() == ["recovering"] * 3


def test_a_fence_raised_above_the_region_that_serves_is_not_taken_back_without_a_word(regions: Regions) -> None:
    east = succeeded(regions)
    west = regions.west
    assert west.region("unfence", "--epoch", "2", "--confirm", "west")[0] == 6
    assert west.region("fence", "--epoch", "3", "--reason", "x")[0] == 0
    code, _told, words = west.region("unfence", "--epoch", "3")
    assert (code, west.states()) == (6, ["fenced"] * 3), words
    assert "served at region epoch 2, and this one before that, at 1" in words
    assert east.write("k", "on").status == 200
    assert west.region("unfence", "--epoch", "3", "--confirm", "west")[0] == 0, "it is a person's to decide"


def test_status_knows_an_epoch_that_only_the_running_instance_has_seen(regions: Regions) -> None:
    """Copies show a fence that was taken back since: what serves there is not in them."""
    west, east = regions.west, regions.east
    for node in east.nodes.values():
        node.client().config_set("replica-serve-stale-data", "yes")  # as deployed
    app = east.run("serve", "cp")
    assert west.region("fence", "--epoch", "2", "--reason", "drill")[0] == 0
    regions.in_step()
    for cable in regions.cables.values():
        cable.cut = True
    assert west.region("fence", "--epoch", "3", "--reason", "drill")[0] == 0
    assert west.region("unfence", "--epoch", "3")[0] == 0
    wait_for("seen", lambda: app.metric("region_peer_epoch") == 3)
    west.kill_nodes()
    listen = f"127.0.0.1:{app.port}"
    told = east.region("status", LISTEN=listen)[1]
    assert {(n["state"], n["region_epoch"]) for n in told["nodes"].values()} == {("fenced", 2)}
    assert told["epoch"] == 3
    assert east.region("status")[1]["epoch"] == 2, "control: no instance is asked"
    regions.fail_over(told["epoch"] + 1)
    assert wait_for("serves", lambda: app.write("k", "v").status == 200)


def test_a_lag_shows_although_the_clock_of_the_standby_is_behind(regions: Regions) -> None:
    app, pulls = regions.east.run("serve", "cp"), regions.east.run("replicate", "ap")
    wait_for("standby", lambda: why_not(app) == "standby")
    ahead = int(time.time() * 1000) + 3_600_000
    for node in regions.west.nodes.values():
        node.client().set("holdfast:heartbeat", ahead)
    regions.in_step()

    def lag(**extra: str) -> float:
        return float(regions.east.region("status", **extra)[1]["nodes"]["db_g1"]["lag_seconds"])

    listen = f"127.0.0.1:{app.port}"
    wait_for("shown by status", lambda: lag(LISTEN=listen) > 3)
    wait_for("and by replicate", lambda: pulls.metric('region_replication_lag_seconds{node="db_g1"}') > 3)
    assert lag() == 0, "control: no instance is asked, and the clocks alone say so"
    over = threading.Event()

    def beat() -> None:
        """As long as nobody has seen it: what a command sees may be older than that, on a busy machine."""
        beats = 0
        while not over.wait(0.5):
            beats += 1
            for node in regions.west.nodes.values():
                node.client().set("holdfast:heartbeat", ahead + beats)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        wait_for("new ones come through", lambda: lag(LISTEN=listen) < 3)
    finally:
        over.set()
        beating.join()


def test_blank_nodes_do_not_begin_a_region_beside_one_that_serves(regions: Regions) -> None:
    regions.cut_loose()
    east = regions.east
    for node in east.nodes.values():
        node.client().flushall()
    for arguments in (("--check",), ()):
        code, report = east.bootstrap(*arguments)
        assert (code, report["changed"]) == (6, False)
        assert "db_g1: member of west at region epoch 1" in report["messages"][0]
        assert "REPLICAOF" in report["messages"][0]
    assert east.states() == [""] * 3
    for cable in list(regions.to_west.values())[1:]:
        cable.cut = True
    assert east.bootstrap()[0] == 6, "one that answers is enough"
    regions.to_west["db_g1"].cut = True
    code, report = east.bootstrap(NETWORK_TIMEOUT_SEC="1")
    assert (code, report["changed"]) == (0, True), "nobody is there: a first start"
    assert east.states() == ["member"] * 3


def test_blank_nodes_do_not_begin_a_region_while_the_other_one_does_not_show_its_guards(regions: Regions) -> None:
    """It may be loading its data just now. (Here its nodes refuse to show them, which can be held for a test.)"""
    regions.cut_loose()
    for node in regions.east.nodes.values():
        node.client().flushall()
    for node in regions.west.nodes.values():
        node.client().execute_command("ACL", "SETUSER", "service", "-hmget")
    code, report = regions.east.bootstrap()
    assert (code, report["changed"]) == (3, False)
    assert "db_g1: noperm" in report["messages"][0]
    assert regions.east.states() == [""] * 3


def test_of_two_blank_regions_the_first_one_begins(regions: Regions) -> None:
    regions.cut_loose()
    for region in (regions.west, regions.east):
        for node in region.nodes.values():
            node.client().flushall()
    assert regions.west.bootstrap()[0] == 0
    assert regions.west.states() == ["member"] * 3, "blank peers are no hindrance"
    assert regions.east.bootstrap()[0] == 6

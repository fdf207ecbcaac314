"""Which region serves: standby, fence, the other region's epoch, and started nodes that wait to be confirmed."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cluster import PASSWORD, App, Cluster, wait_for
from regions import NAMES, WITHIN_SECONDS, Regions

PAUSED = (str(Path(__file__).resolve().parent / "paused_move.py"),)


def reason(app: App) -> str:
    reply = app.request("GET", "/health", token=None)
    return str(reply.json.get("reason", "ready"))


def restart(regions: Regions, *names: str) -> None:
    for name in names:
        regions.west.nodes[name].kill()
    for name in names:
        regions.west.nodes[name].start(wait=False)
    for name in names:
        regions.west.nodes[name].wait()


def events(app: App, name: str) -> list[dict[str, object]]:
    return [e for e in app.entries() if e["event"] == name]


def test_a_standby_starts_waits_and_notices_its_promotion(regions: Regions) -> None:
    cp, ap = regions.east.run("serve", "cp"), regions.east.run("serve", "ap")
    pulls = regions.east.run("replicate", "ap")
    beats = regions.west.run("replicate", "ap")
    for app in (cp, ap):
        wait_for("standby", lambda a=app: reason(a) == "standby")
        assert app.read("k").code == "fenced"
        assert app.write("k", "v").code == "fenced"
    assert regions.east.bootstrap()[0] == 0, "nothing to do on a standby"
    lag = 'region_replication_lag_seconds{node="db_g1"}'
    wait_for("a heartbeat came through", lambda: pulls.metric(lag) < 5)
    assert pulls.metric('region_replication_link_up{node="db_g1"}') == 1
    assert beats.metric(lag) != beats.metric(lag), "NaN: it is no replica"
    code, told, _words = regions.east.region("status")
    assert code == 0
    assert (told["epoch"], told["serving_epoch"]) == (1, 0)
    assert regions.west.region("status")[1]["serving_epoch"] == 1
    node = told["nodes"]["db_g2"]
    assert (node["role"], node["link"], node["state"], node["region"]) == ("replica", "up", "member", "west")
    assert node["lag_seconds"] < 5
    assert node["primary_offset"] >= node["offset"] > 0
    assert told["peers"]["db_g2"]["role"] == "primary"
    assert told["peers"]["db_g2"]["confirmed"] is True
    for cable in regions.cables.values():
        cable.cut = True
    wait_for("the lag shows", lambda: pulls.metric(lag) > 2)
    for node in regions.east.nodes.values():  # the link is down: the node shows no data any more
        node.client().config_set("masterauth", "wrong")
        node.client().execute_command("CLIENT", "KILL", "TYPE", "master")
    wait_for("no data", lambda: pulls.metric('region_replication_link_up{node="db_g1"}') == 0)
    told = regions.east.region("status", LISTEN=f"127.0.0.1:{cp.port}")[1]["nodes"]["db_g1"]
    assert (told["link"], told["state"]) == ("down", None)
    assert 2 < told["lag_seconds"] < 60, "as the instance remembers it"
    told = regions.east.region("status")[1]["nodes"]["db_g1"]
    assert told["lag_seconds"] >= 60, "nobody remembers: the most it can be"
    assert pulls.metric(lag) > 2
    for node in regions.east.nodes.values():
        node.client().config_set("masterauth", PASSWORD)
    for cable in regions.cables.values():
        cable.cut = False
    regions.in_step()
    breakers = cp.request("GET", "/circuit-breaker").json["nodes"]
    assert {n["state"] for n in breakers.values()} == {"CLOSED"}, "a replica is an answer, not a failure"
    assert regions.west.region("fence", "--epoch", "2", "--reason", "drill")[0] == 0
    before = datetime.now(UTC).isoformat(timespec="milliseconds")
    regions.fail_over(2)
    wait_for("both serve", lambda: cp.ready() and ap.ready())
    assert cp.write("k", "v").status == 200
    assert wait_for("audited", lambda: events(pulls, "REGION_PROMOTED"))[0]["reason"] == "promoted by hand"
    wait_for("settled", lambda: regions.east.states() == ["member"] * 3)
    wait_for("audited", lambda: events(pulls, "REGION_SETTLED"))
    held = wait_for("replicates", lambda: events(pulls, "REPLICATION_LEASE"))
    assert held[0]["ts"] >= before, "held none while it was a standby"
    assert not events(beats, "REGION_PROMOTED")


@pytest.mark.alone
def test_instances_of_a_standby_notice_its_promotion_within_a_second_or_two(regions: Regions) -> None:
    apps = [regions.east.run("serve", mode) for mode in ("cp", "ap")]
    for app in apps:
        wait_for("standby", lambda a=app: reason(a) == "standby")
    regions.in_step()
    regions.fail_over(2)
    began = time.monotonic()
    wait_for("both serve", lambda: all(app.ready() for app in apps))
    assert time.monotonic() - began < 2.5


def test_fenced_nodes_refuse_and_an_abandoned_switch_is_taken_back(regions: Regions) -> None:
    app, west = regions.west.run("serve", "cp"), regions.west
    assert app.write("k", "v").status == 200
    west.nodes["db_g3"].client().hset("holdfast:guard", "state", "recovering")
    assert west.region("fence", "--epoch", "1", "--reason", "x")[0] == 6, "not above the held one"
    code, told, _words = west.region("fence", "--epoch", "3", "--reason", "planned switch")
    assert (code, told["fenced"]) == (0, list(NAMES))
    assert app.write("k", "late").code == "fenced"
    assert app.read("k").code == "fenced"
    wait_for("not ready", lambda: reason(app) == "fenced")
    assert west.region("fence", "--epoch", "3", "--reason", "again")[0] == 0
    assert west.region("fence", "--epoch", "2", "--reason", "lower")[0] == 6
    assert west.guard("db_g1")["reason"] == "planned switch"
    assert west.region("unfence", "--epoch", "4")[0] == 6
    regions.cut_regions()
    code, _told, words = west.region("unfence", "--epoch", "3")
    assert (code, "--confirm west" in words) == (6, True), "the other region cannot be asked"
    regions.cut_regions(False)
    code, _told, words = west.region("unfence", "--epoch", "3")
    assert code == 0, words
    assert west.states() == ["member", "member", "recovering"], "a node that was being healed is no member for that"
    wait_for("serves", app.ready)
    assert app.write("k", "on").json["version"].startswith("00000003.")


def test_a_region_that_was_promoted_keeps_the_other_one_fenced(regions: Regions) -> None:
    assert regions.west.region("fence", "--epoch", "2", "--reason", "drill")[0] == 0
    wait_for("copied", lambda: regions.east.nodes["db_g1"].client().hget("holdfast:guard", "state") == b"fenced")
    regions.fail_over(2)
    assert regions.west.region("unfence", "--epoch", "2", "--confirm", "west")[0] == 6
    assert regions.west.states() == ["fenced"] * 3
    assert regions.east.region("promote", "--epoch", "2")[0] == 0, "again changes nothing"
    assert regions.east.region("promote", "--epoch", "3")[0] == 6


def test_what_a_promotion_refuses(regions: Regions) -> None:
    east = regions.east
    code, _told, words = east.region("promote", "--epoch", "2")
    assert (code, "REPLICAOF NO ONE" in words) == (6, True)
    regions.cut_loose()
    code, _told, words = east.region("promote", "--epoch", "1")
    assert (code, "use 2" in words) == (6, True)
    east.nodes["db_g2"].client().config_set("maxmemory", "100kb")
    code, _told, words = east.region("promote", "--epoch", "2")
    assert (code, "memory" in words) == (6, True), words
    east.nodes["db_g2"].client().config_set("maxmemory", "0")
    assert east.states() == ["member"] * 3
    assert east.guard("db_g1")["region"] == "west"
    # Killed between two marks: run again.
    east.nodes["db_g1"].client().hset(
        "holdfast:guard",
        mapping={"state": "recovering", "region": "east", "region_epoch": "2", "incarnation": "cut-off"},
    )
    code, _told, words = east.region("promote", "--epoch", "2")
    assert code == 0, words
    assert east.states() == ["promoted"] * 3
    assert len({east.guard(n)["incarnation"] for n in NAMES}) == 3


def test_a_partition_ends_and_the_old_region_fences_itself(regions: Regions) -> None:
    cp, ap = regions.west.run("serve", "cp"), regions.west.run("serve", "ap")
    beats = regions.west.run("replicate", "ap")
    assert cp.write("k", "v").status == 200
    regions.in_step()
    regions.cut_regions()
    for cable in regions.cables.values():
        cable.cut = True
    regions.fail_over(2)
    assert cp.write("k", "in the dark").status == 200, "it cannot know"
    regions.cut_regions(False)
    began = time.monotonic()
    wait_for("CP knows", lambda: cp.read("k").code == "fenced", WITHIN_SECONDS)
    wait_for("AP knows", lambda: ap.read("x").code == "fenced", WITHIN_SECONDS)
    print(f"fenced {time.monotonic() - began:.1f} s after contact")
    wait_for("so do its nodes", lambda: regions.west.states() == ["fenced"] * 3)
    assert regions.west.guard("db_g1")["region_epoch"] == "2"
    assert "other region serves" in str(wait_for("audited", lambda: events(beats, "REGION_FENCED"))[0]["reason"])


def test_a_restarted_node_waits_for_the_others_only(regions: Regions) -> None:
    app = regions.west.run("serve", "cp")
    regions.west.run("replicate", "ap")
    regions.east.kill_nodes()
    restart(regions, "db_g1")
    wait_for("confirmed by its fellows", lambda: app.write("k", "v").json.get("acks", []).count("db_g1"))


def test_a_whole_region_that_was_off_serves_nothing_until_confirmed(regions: Regions) -> None:
    app = regions.west.run("serve", "cp")
    ap = regions.west.run("serve", "ap")
    pulls = regions.west.run("replicate", "ap")
    assert app.write("k", "before").status == 200
    regions.in_step()
    codes: list[str | None] = []
    over = threading.Event()

    def hammer() -> None:
        while not over.is_set():
            codes.append(app.write("k", "after").code or "success")

    regions.west.kill_nodes()
    for cable in regions.to_east.values():
        cable.cut = True
    regions.fail_over(2)
    wait_for("noticed", lambda: app.write("k", "off").code == "no_quorum")
    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        restart(regions, *NAMES)
        wait_for("waits", lambda: reason(app) == "unconfirmed" and reason(ap) == "unconfirmed")
        assert ap.write("k", "v").code == "fenced"
        time.sleep(2)
    finally:
        over.set()
        thread.join()
    assert set(codes) <= {"no_quorum", "fenced"}, "not one write, not even in the first moment"
    assert regions.west.nodes["db_g1"].client().hget("cp:k", "v") == b"before"
    assert wait_for("said", lambda: events(pulls, "REGION_UNCONFIRMED"))
    regions.cut_regions(False)
    wait_for("fenced by the other region's epoch", lambda: regions.west.states() == ["fenced"] * 3)
    assert regions.west.region("confirm", "--epoch", "1", "--confirm", "west")[0] == 6
    assert app.write("k", "after").code == "fenced"


def test_a_region_that_comes_back_above_one_that_serves_waits_for_a_person(regions: Regions) -> None:
    regions.in_step()
    assert regions.west.region("fence", "--epoch", "3", "--reason", "planned, and taken back")[0] == 0
    assert regions.west.region("unfence", "--epoch", "3")[0] == 0
    for cable in regions.cables.values():
        cable.cut = True
    regions.west.kill_nodes()
    regions.cut_loose()
    for node in regions.east.nodes.values():  # its copies ended at 1, so that 2 looked right
        node.client().hset("holdfast:guard", mapping={"state": "member", "region_epoch": 1})
    assert regions.east.region("promote", "--epoch", "2")[0] == 0
    restart(regions, *NAMES)
    app, pulls = regions.west.run("serve", "cp"), regions.west.run("replicate", "ap")
    cure = "two regions claim to serve: db_g3 of the other one votes at region epoch 2"
    wait_for("said", lambda: any(cure in str(e["cure"]) for e in events(pulls, "REGION_UNCONFIRMED")))
    time.sleep(3)
    assert reason(app) == "unconfirmed"
    assert not events(pulls, "REGION_CONFIRMED")
    assert regions.east.region("fence", "--epoch", "3", "--reason", "west's history stays")[0] == 0
    wait_for("confirmed now", lambda: app.write("k", "v").status == 200)


def test_a_whole_region_that_was_off_goes_on_if_the_other_was_not_promoted(regions: Regions) -> None:
    app = regions.west.run("serve", "cp")
    regions.west.run("replicate", "ap")
    assert app.write("k", "before").status == 200
    restart(regions, *NAMES)
    wait_for("replicas say so", lambda: app.read("k").status == 200)
    regions.cut_regions()
    restart(regions, *NAMES)
    wait_for("nobody is there", lambda: reason(app) == "unconfirmed")
    assert regions.west.region("confirm", "--epoch", "1")[0] == 6
    assert regions.west.region("confirm", "--epoch", "2", "--confirm", "west")[0] == 6
    code, _told, words = regions.west.region("confirm", "--epoch", "1", "--confirm", "west")
    assert code == 0, words
    wait_for("typed", lambda: app.read("k").status == 200)


def test_a_confirmation_that_comes_late_confirms_nothing(regions: Regions) -> None:
    """Who confirms may be paused between its look and the confirmation; the other region is promoted meanwhile."""
    regions.in_step()
    app = regions.west.run("serve", "cp")
    restart(regions, *NAMES)
    wait_for("waits", lambda: reason(app) == "unconfirmed")
    regions.in_step()
    pulls = regions.west.run("replicate", "ap", launch=PAUSED, PAUSE_SEC="6")
    wait_for("it saw replicas there", lambda: events(pulls, "PAUSED"))
    regions.cut_regions()
    for cable in regions.cables.values():
        cable.cut = True
    regions.fail_over(2)
    wait_for("it goes on", lambda: events(pulls, "GOES_ON"))
    time.sleep(3)
    assert not events(pulls, "REGION_CONFIRMED")
    assert app.write("k", "v").code == "fenced"
    assert reason(app) == "unconfirmed"


def test_a_command_that_was_suspended_lets_nobody_serve_by_what_it_saw_before(regions: Regions) -> None:
    assert regions.west.region("fence", "--epoch", "2", "--reason", "drill")[0] == 0
    code, told, words = regions.west.region("unfence", "--epoch", "2", launch=PAUSED, PAUSE_SEC="11", EVENTS="no")
    assert (code, "too old" in str(told["nodes"])) == (3, True), words
    assert regions.west.states() == ["fenced"] * 3
    assert regions.west.region("unfence", "--epoch", "2")[0] == 0, "run again"


def test_an_instance_that_starts_beside_a_region_that_serves_answers_nothing_before_it_has_looked(
    regions: Regions,
) -> None:
    regions.in_step()
    regions.cut_regions()
    for cable in regions.cables.values():
        cable.cut = True
    regions.fail_over(2)
    began = time.monotonic()
    dark = regions.west.run("serve", "cp")
    assert wait_for("it cannot know", lambda: dark.write("k", "in the dark").status == 200, 5)
    assert time.monotonic() - began < 15, "a region that is away keeps nobody from starting"
    regions.cut_regions(False)
    for cable in regions.to_east.values():
        cable.delay = 0.2
    assert set(regions.west.states()) == {"member"}, "nobody is there to fence them"
    for mode in ("cp", "ap"):
        app = regions.west.run("serve", mode, NETWORK_TIMEOUT_SEC="3")
        assert app.write("k", "v").code == "fenced", "its first answer"


def test_guards_of_before_there_was_another_region_count_and_are_confirmed(regions: Regions) -> None:
    for node in regions.west.nodes.values():
        node.client().hdel("holdfast:guard", "confirmed")
    app = regions.west.run("serve", "cp")
    assert wait_for("serves", lambda: app.write("k", "v").status == 200)
    regions.west.run("replicate", "ap")
    wait_for("confirmed", lambda: all(regions.west.guard(n).get("confirmed") for n in NAMES))
    regions.cut_regions()
    restart(regions, *NAMES)
    wait_for("waits from now on", lambda: reason(app) == "unconfirmed")


def test_control_without_another_region_nodes_wait_for_nobody(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    assert app.write("k", "v").status == 200
    for node in cluster.nodes.values():
        node.kill()
    for node in cluster.nodes.values():
        node.start()
    wait_for("serves", lambda: app.write("k", "after").status == 200)

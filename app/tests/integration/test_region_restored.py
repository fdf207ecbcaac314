"""A whole region is put back to one moment: what is there, what is not, and what must not come back."""

from __future__ import annotations

from backups import moment as shown
from cluster import App, wait_for
from regions import NAMES
from restored import Restorable


def start(east: Restorable) -> tuple[App, App]:
    """Both faces in zone 1, and what moves AP writes in all zones; a first backup."""
    for name in NAMES:
        east.run("replicate", "ap", name)
    cp, ap = east.run("serve", "cp"), east.run("serve", "ap")
    wait_for("both serve", lambda: cp.ready() and ap.ready())
    east.collect()  # from now on there are moments
    return cp, ap


def everywhere(east: Restorable, key: str, value: str) -> None:
    wait_for(
        f"{key} is on all nodes", lambda: all(n.client().hget(key, "v") == value.encode() for n in east.nodes.values())
    )


def first_and_second(east: Restorable, cp: App, ap: App) -> tuple[int, dict[str, str]]:
    """Writes "first", two seconds later "second"; returns a moment between, and the versions of the second ones."""
    for app in (cp, ap):
        for key in ("k", "deleted"):
            assert app.write(key, "first").status == 200
    for key in ("ap:k", "ap:deleted", "cp:k", "cp:deleted"):
        everywhere(east, key, "first")
    between = east.moment_between()
    versions = {}
    for app, face in ((cp, "cp"), (ap, "ap")):
        versions[face] = app.write("k", "second").json["version"]
        assert app.write("new", "second").status == 200
        assert app.delete("deleted").status == 200
    everywhere(east, "ap:k", "second")
    everywhere(east, "ap:new", "second")
    everywhere(east, "cp:new", "second")
    return between, versions


def serve_again(*apps: App) -> None:
    """Each has learned of the new guards: what it believed of its health before does not count."""
    for app in apps:
        wait_for("serves", lambda app=app: app.ready() and app.read("k").status == 200)


def written(app: App, value: str) -> str:
    """The version of a write of "k"; on a busy machine the first tries may find no quorum yet."""
    version: str = wait_for("it takes a write", lambda: app.write("k", value).json.get("version"))
    return version


def is_first(app: App) -> None:
    assert app.read("k").json["value"] == "first"
    assert app.read("deleted").json["value"] == "first", "a delete is undone as well"
    assert app.read("new").code == "not_found"


def settled(east: Restorable, names: tuple[str, ...] = NAMES) -> None:
    wait_for("settled", lambda: all(east.guard(n)["state"] == "member" for n in names))


def test_a_moment_between_two_writes_gives_the_first_and_not_the_second(east: Restorable) -> None:
    cp, ap = start(east)
    between, versions = first_and_second(east, cp, ap)
    token = ap.write("mine", "second").headers["X-Session-Token"]
    east.collect()
    east.fence(2)
    for name in NAMES:
        east.put_back(name, between)
    assert east.states() == ["recovering"] * 3
    wait_for("restored nodes do not vote", lambda: not cp.ready() and not ap.ready())
    assert {app.write("k", "lost").status for app in (cp, ap)} == {503}
    east.adopt(3, "--to", shown(between))
    serve_again(cp, ap)
    is_first(cp)
    is_first(ap)
    answer = ap.read("mine", headers={"X-Session-Token": token})
    assert (answer.code, answer.json["read_your_writes"]) == ("not_found", False)
    for app, face in ((cp, "cp"), (ap, "ap")):
        assert written(app, "third") > versions[face], "a version never goes back"
        assert app.read("k").json["value"] == "third"
    settled(east)
    everywhere(east, "ap:k", "third")
    assert east.holding("second") == []
    assert {east.guard(n)["history"] for n in NAMES} == {"3"}
    assert "restored_to" not in east.guard("db_g1")
    assert east.adopt(3, "--to", shown(between))["nodes"] == dict.fromkeys(NAMES, "member"), "again: nothing to do"


def test_a_node_that_was_away_comes_back_only_emptied(east: Restorable) -> None:
    cp, ap = start(east)
    between, _versions = first_and_second(east, cp, ap)
    east.collect(("db_g1", "db_g2"))
    east.nodes["db_g3"].kill()
    east.fence(2)
    for name in ("db_g1", "db_g2"):
        east.put_back(name, between)
    code, _told, words = east.region("adopt", "--epoch", "3", "--to", shown(between))
    assert (code, "--without db_g3" in words) == (6, True), words
    east.adopt(3, "--to", shown(between), "--without", "db_g3")
    east.nodes["db_g3"].start()
    serve_again(cp, ap)
    third = east.run("serve", "ap", "db_g3")
    wait_for("its own zone serves, with the others' nodes", third.ready)
    for _ in range(3):  # rounds of every replicator
        assert third.write("tick", "x").status == 200
        wait_for("replicated", lambda: ap.read("tick").status == 200)
        assert ap.delete("tick").status == 200
        is_first(cp)
        is_first(ap)
        is_first(third)
    from_others = [e for e in east.holding("second") if not e.startswith("db_g3")]
    assert from_others == []
    healed = east.command("repair", "db_g3")
    assert "must_empty" in healed, healed
    east.nodes["db_g3"].kill()
    east.nodes["db_g3"].wipe()
    east.nodes["db_g3"].start()
    east.bootstrap()
    assert "REPAIR_FINISHED" in east.command("repair", "db_g3")
    assert east.guard("db_g3")["state"] == "member"
    assert east.guard("db_g3")["history"] == "3", "it tells copies of before from those of since, as its donors do"
    assert east.holding("second") == []
    is_first(cp)


def test_the_data_of_before_can_be_put_back(east: Restorable) -> None:
    cp, ap = start(east)
    between, _versions = first_and_second(east, cp, ap)
    east.collect()
    east.fence(2)
    for name in NAMES:
        east.put_back(name, between)
    east.adopt(3, "--to", shown(between))
    wait_for("serves", cp.ready)
    undone = written(cp, "third")
    settled(east)
    east.fence(4)
    for name in NAMES:
        east.take_back(name)
    assert east.states() == ["fenced", "recovering", "fenced"]
    code, _told, words = east.region("adopt", "--epoch", "5", "--fenced-at", "4")
    assert (code, "fenced at 2, not fenced at 4" in words) == (6, True), words
    east.adopt(5, "--fenced-at", "2")
    serve_again(cp, ap)
    for app in (cp, ap):
        assert app.read("k").json["value"] == "second"
        assert app.read("new").json["value"] == "second"
        assert app.read("deleted").code == "not_found"
    assert written(cp, "fourth") > undone


def test_a_node_that_slept_through_a_restore_is_not_taken_by_the_next(east: Restorable) -> None:
    """It came back unemptied, and both the fence of the next restore and its backups treat it as the others."""
    cp, ap = start(east)
    between, _versions = first_and_second(east, cp, ap)
    east.collect()
    east.nodes["db_g3"].kill()
    east.fence(2)
    for name in ("db_g1", "db_g2"):
        east.put_back(name, between)
    east.adopt(3, "--to", shown(between), "--without", "db_g3")
    east.nodes["db_g3"].start()
    serve_again(cp, ap)
    settled(east, ("db_g1", "db_g2"))
    assert {east.guard(n).get("history_before") for n in NAMES} == {None}
    east.fence(4)
    assert {n: east.guard(n)["fenced_epoch"] for n in NAMES} == {"db_g1": "3", "db_g2": "3", "db_g3": "1"}
    code, _told, words = east.region("adopt", "--epoch", "5", "--fenced-at", "4")
    assert (code, "db_g3: its data is of before the region was restored" in words) == (6, True), words
    for node in east.nodes.values():  # as they are when all were put back to a moment of just now
        node.client().hset("holdfast:guard", mapping={"state": "recovering", "restored_to": shown(between + 9)})
    code, _told, words = east.region("adopt", "--epoch", "5", "--to", shown(between + 9))
    assert (code, "db_g3: its data is of before the region was restored" in words) == (6, True), words
    east.adopt(5, "--to", shown(between + 9), "--without", "db_g3")
    serve_again(cp, ap)
    is_first(cp)
    is_first(ap)
    code, _told, words = east.region("adopt", "--epoch", "5", "--to", shown(between + 9))
    assert (code, "db_g3 (recovering at 4) is none of those that serve" in words) == (6, True), words


def test_what_was_not_put_back_is_refused_and_nothing_is_changed(east: Restorable) -> None:
    cp, ap = start(east)
    between, _versions = first_and_second(east, cp, ap)
    east.collect()
    before = [east.guard(n) for n in NAMES]
    to = ("--to", shown(between))
    code, _told, words = east.region("adopt", "--epoch", "3", *to)
    assert (code, "db_g1 was not restored (member at 1)" in words) == (6, True), words
    code, _told, words = east.region("adopt", "--epoch", "1", *to)
    assert (code, "use 2 or more" in words) == (6, True), words
    assert [east.guard(n) for n in NAMES] == before
    east.fence(2)
    for name in ("db_g1", "db_g2"):
        east.put_back(name, between)
    code, _told, words = east.region("adopt", "--epoch", "3", *to)
    assert (code, "db_g3 was not restored (fenced at 2)" in words) == (6, True), words
    code, _told, words = east.region("adopt", "--epoch", "3", "--to", shown(between - 1), "--without", "db_g3")
    assert (code, f"was restored to {shown(between)}" in words) == (6, True), words
    code, _told, words = east.region("adopt", "--epoch", "2", *to, "--without", "db_g3")
    assert (code, "db_g3 is at region epoch 2; use 3 or more" in words) == (6, True), words
    east.peers = {n: port for port, n in enumerate(NAMES, 1)}  # nobody answers there
    for more, why in (((), "-e accept_unseen=east"), (("--confirm", "west"), "the region is east")):
        code, _told, words = east.region("adopt", "--epoch", "3", *to, "--without", "db_g3", *more)
        assert (code, why in words) == (6, True), words
    assert east.states() == ["recovering", "recovering", "fenced"]
    east.adopt(3, *to, "--without", "db_g3", "--confirm", "east")


def test_control_a_node_that_was_not_put_back_brings_all_back_when_it_is_taken(east: Restorable) -> None:
    """What the refusals above keep away: the same, with the mark of a restore forged on the third node."""
    cp, ap = start(east)
    between, _versions = first_and_second(east, cp, ap)
    east.collect()
    east.fence(2)
    for name in ("db_g1", "db_g2"):
        east.put_back(name, between)
    forged = {"state": "recovering", "restored_to": shown(between)}
    east.nodes["db_g3"].client().hset("holdfast:guard", mapping=forged)
    east.adopt(3, "--to", shown(between))
    serve_again(cp, ap)
    wait_for("CP reads it", lambda: cp.read("k").json.get("value") == "second")
    wait_for("AP merges it", lambda: ap.read("k").json.get("value") == "second")

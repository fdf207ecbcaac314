"""What a restore of a region is told before it begins: which run it goes on with, under which epochs, and why not."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("restore_region_filters", ROOT / "roles/restore_region/filter_plugins/restore_region.py")
assert spec and spec.loader
filters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filters)

TO = "2026-05-01T10:14:59Z"
ENDED = {"run": "r1", "to": TO, "undo": "", "fence": 4, "ended": True}
OPEN = {"run": "r2", "to": TO, "undo": "", "fence": 6, "ended": False}
BACK = {"run": "r3", "to": "", "undo": "r1", "fence": 6, "ended": True}


def node(state: str = "member", role: str = "primary", region: str = "east", epoch: int = 5, **more: Any) -> dict[str, Any]:
    return {"reachable": True, "role": role, "state": state, "region": region, "region_epoch": epoch, "link": "-", **more}


NODES = {name: node() for name in ("a", "b", "c")}
STATUS = {"region": "east", "epoch": 5, "nodes": NODES, "peers": {}}
AWAY = STATUS | {"nodes": NODES | {"c": {"reachable": False}}}


def plan(
    records: list[dict[str, Any]], status: dict[str, Any] = STATUS, to: str = TO, undo: str = "", without: str = "", abandon: str = ""
) -> dict[str, Any]:
    made: dict[str, Any] = filters.restore_region_plan(records, status, "mine", to, undo, list(without), abandon)
    return made


def status(epoch: int, *states: str, peers: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Of nodes a, b, c with these states at that region epoch."""
    nodes = {name: node(state, epoch=epoch, **more) for name, state in zip("abc", states, strict=True)}
    return STATUS | {"epoch": max([epoch, *[p["region_epoch"] for p in (peers or {}).values()]]), "nodes": nodes, "peers": peers or {}}


FENCED = status(6, "fenced", "fenced", "fenced")


def test_a_new_restore_gets_epochs_above_every_one_seen() -> None:
    made = plan([ENDED])
    assert (made["refusals"], made["run"], made["fence"], made["adopt"], made["begun"]) == ([], "mine", 6, 7, False)
    assert any(TO in line and "LOST" in line for line in made["lines"])
    assert any("undo=mine" in line for line in made["lines"])


def test_an_interrupted_restore_goes_on_under_its_own_epochs_and_name() -> None:
    away = STATUS | {"epoch": 6, "nodes": {name: {"reachable": False} for name in NODES}}
    for now in (FENCED, away):
        made = plan([ENDED, OPEN], now)
        assert (made["refusals"], made["run"], made["fence"], made["adopt"], made["begun"]) == ([], "r2", 6, 7, True)
        assert not made["adopted"]


def test_the_new_epoch_is_above_what_became_visible_later_until_it_was_given_to_a_node() -> None:
    higher = {"a": node("fenced", epoch=8, region="west")}
    assert plan([OPEN], status(6, "fenced", "fenced", "fenced", peers=higher))["adopt"] == 9
    marked = status(7, "recovering", "recovering", "recovering", history=7)
    assert (plan([OPEN], marked)["adopt"], plan([OPEN | {"adopt": 9}], FENCED)["adopt"]) == (7, 9)
    unfenced = plan([OPEN], status(6, "member", "member", "recovering"))
    assert (unfenced["voting"], unfenced["fence"], unfenced["adopt"]) == (True, 7, 8)


@pytest.mark.parametrize("without", ["", "c"])
def test_once_a_node_votes_under_the_new_epoch_nothing_is_put_back(without: str) -> None:
    """The run without db_g3 that has been healed since: its data is no less good than the others'."""
    begun = OPEN | {"adopt": 7, "without": list(without)}
    made = plan([begun], status(7, "member", "member", "member", history=7), without=without)
    assert (made["refusals"], made["adopted"], made["serves"], made["adopt"]) == ([], True, True, 7)
    assert "nothing is exchanged" in made["lines"][0]
    half = plan([begun], status(7, "promoted", "recovering", "recovering", history=7), without=without)
    assert (half["adopted"], half["serves"], half["voting"]) == (True, False, False)
    for third in ("recovering", "promoted"):
        promoted = plan([begun], status(7, "promoted", "promoted", third, history=7), without=without)
        assert (promoted["adopted"], promoted["serves"]) == (True, False), "until one is a member the command is repeated"
    other = plan([begun], status(7, "member", "member", "member", history=7), to="2026-05-01T10:15:00Z")
    assert (other["refusals"], other["run"], other["fence"]) == ([], "mine", 8), "it is over, whatever it was"


@pytest.mark.parametrize("history", [{}, {"history": 5}])
def test_nodes_that_only_vote_at_the_epoch_were_not_put_back(history: dict[str, int]) -> None:
    """The fence of the run was taken back, then one of a planned move, whose epoch is that which the run was to adopt."""
    now = status(7, *["member"] * 3, **history)
    made = plan([OPEN], now)
    assert (made["refusals"], made["run"], made["adopted"], made["serves"], made["voting"]) == ([], "r2", False, False, True)
    assert (made["fence"], made["adopt"]) == (8, 9)
    assert "all its nodes get the state of" in made["lines"][0]
    assert "run r2 has begun" in plan([OPEN], now, to="2026-05-01T10:15:00Z")["refusals"][0]
    assert plan([OPEN], now, to="", abandon="r2")["refusals"] == []


def test_a_run_is_over_when_one_host_says_so_or_a_region_has_gone_on() -> None:
    for records, now in {
        "one host was away": ([OPEN, OPEN | {"ended": True}], FENCED),
        "the other region took over": ([OPEN], status(6, *["fenced"] * 3, peers={"a": node("promoted", region="west", epoch=6)})),
        "its nodes follow the other one": ([OPEN], status(9, *["member"] * 3, role="replica", region="west")),
        "they follow it while it is being restored": ([OPEN], status(9, *["fenced"] * 3, role="replica", region="west")),
        "it serves under a later epoch": ([OPEN], status(8, *["member"] * 3)),
    }.values():
        assert filters.restore_region_unfinished(records, now) == {}, now
    for records, now in (([OPEN], FENCED), ([OPEN], status(6, *["fenced"] * 3, peers={"a": node("promoted", region="west", epoch=5)}))):
        assert filters.restore_region_unfinished(records, now) == OPEN


def test_nodes_may_be_given_up_on_the_way_and_not_be_taken_back() -> None:
    begun = OPEN | {"without": ["c"]}
    assert plan([begun], FENCED, without="c")["refusals"] == []
    assert plan([OPEN], FENCED, without="c")["refusals"] == []
    [why] = plan([begun], FENCED)["refusals"]
    assert f'-e to={TO} -e \'{{"without": ["c"]}}\'' in why, why


def test_a_run_can_be_given_up_until_it_was_carried_out() -> None:
    made = plan([OPEN], FENCED, to="", abandon="r2")
    assert (made["refusals"], made["run"], made["abandon"], made["fence"], made["followers"]) == ([], "r2", "r2", 6, [])
    assert "serves again as it was" in made["lines"][0]
    half = plan([OPEN], status(6, "member", "fenced", "fenced"), to="", abandon="r2")
    assert (half["voting"], half["fence"]) == (True, 6), "nodes that are left under that fence"
    assert "-e undo=r2 takes it back" in plan([OPEN], status(7, *["member"] * 3, history=7), to="", abandon="r2")["refusals"][0]
    assert "did not end: none" in plan([ENDED], to="", abandon="r1")["refusals"][0]
    given_up = {"run": "r2", "to": "", "undo": "", "fence": 6, "ended": True, "abandoned": True}
    assert "no such restore is recorded" in plan([OPEN, given_up], to="", undo="r2")["refusals"][0]


def test_the_inverse_names_the_epoch_at_which_the_data_of_before_was_fenced() -> None:
    made = plan([ENDED], to="", undo="r1")
    assert (made["refusals"], made["fenced_at"], made["fence"], made["adopt"]) == ([], 4, 6, 7)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"records": [], "to": ""}, "give -e to="),
        ({"records": [ENDED], "undo": "r1"}, "and not both"),
        ({"records": [], "to": "newest"}, "Write one moment for all nodes"),
        ({"records": [], "to": "2026-05-01T10:14:59"}, "Write one moment for all nodes"),
        ({"records": [OPEN], "to": "2026-05-01T10:15:00Z"}, f"run r2 has begun.*with -e to={TO}"),
        ({"records": [OPEN, ENDED], "to": "", "undo": "r1"}, "run r2 has begun"),
        ({"records": [ENDED], "to": "", "undo": "r9"}, "no such restore is recorded. Recorded: r1"),
        ({"records": [ENDED, BACK], "to": "", "undo": "r1"}, "run r3 has taken r1 back already.*-e undo=r3"),
        ({"records": [], "status": STATUS | {"nodes": NODES | {"c": node(epoch=4)}}}, r'c holds data of an older.*"without": \["c"\]'),
        ({"records": [], "status": AWAY}, r'c does not answer.*"without": \["c"\]'),
        ({"records": [], "status": STATUS | {"peers": {name: {"reachable": False} for name in "abc"}}}, "0 of 3 nodes.*accept_unseen=east"),
        ({"records": [], "without": "bc"}, "no majority"),
        ({"records": [], "status": STATUS | {"epoch": 0}}, "epoch is not known"),
    ],
)
def test_what_is_refused_names_cause_and_cure(given: dict[str, Any], why: str) -> None:
    refusals = " ".join(plan(**given)["refusals"])
    assert refusals
    assert re.search(why, refusals), refusals


def test_a_node_that_is_given_up_need_not_answer() -> None:
    assert plan([], AWAY, without="c")["refusals"] == []
    assert plan([], STATUS | {"nodes": NODES | {"c": node(epoch=4)}}, without="c")["refusals"] == []


def test_the_other_region_is_seen_to_stand_by_or_somebody_knows_it() -> None:
    unseen = STATUS | {"peers": {"a": node(role="replica"), **{name: {"reachable": False} for name in "bc"}}}
    assert len(plan([], unseen)["refusals"]) == 1
    assert plan([], unseen | {"peers": unseen["peers"] | {"b": node("fenced", region="west")}})["refusals"] == []
    for typed, refused in (("east", 0), ("west", 1)):
        assert len(filters.restore_region_plan([], unseen, "mine", TO, "", [], "", typed)["refusals"]) == refused
    assert plan([OPEN], unseen, to="", abandon="r2")["refusals"] == []


def test_which_region_serves() -> None:
    assert filters.restore_region_serves(STATUS)
    for state, role, region in (("fenced", "primary", "east"), ("member", "replica", "east"), ("member", "primary", "west")):
        assert not filters.restore_region_serves(STATUS | {"nodes": {name: node(state, role, region) for name in NODES}})


def test_the_standby_region_has_followed_when_every_copy_shows_the_new_epoch() -> None:
    copies = {name: node("promoted", "replica", epoch=7, link="up") for name in NODES}
    assert filters.restore_region_followed({"peers": copies}, 7, ["a", "b", "c"])
    for wrong in (node("fenced", "replica", epoch=6, link="up"), node("promoted", "replica", epoch=7, link="down"), {"reachable": False}):
        assert not filters.restore_region_followed({"peers": copies | {"c": wrong}}, 7, ["a", "b", "c"])
        assert filters.restore_region_followed({"peers": copies | {"c": wrong}}, 7, ["a", "b"]), "c did not follow before"


def test_only_nodes_that_follow_when_the_run_begins_are_waited_for() -> None:
    follows = node("member", "replica", link="up")
    peers = {"a": follows, "b": {"reachable": False}, "c": follows, "d": node("fenced", region="west", epoch=3)}
    made = plan([], STATUS | {"peers": peers}, without="c")
    assert (made["followers"], made["others"]) == (["a"], ["b", "c", "d"])


def test_which_nodes_the_fence_has_reached() -> None:
    missed = {"nodes": FENCED["nodes"] | {"b": node("member", epoch=5), "c": {"reachable": False}}}
    assert filters.restore_region_fenced([missed], 6) == ["a"]
    assert filters.restore_region_fenced([missed], 7) == []
    assert filters.restore_region_fenced([missed, FENCED], 6) == ["a", "b", "c"], "another host may see more"


def test_a_fence_that_was_taken_back_in_part_is_not_written_anew() -> None:
    assert filters.restore_region_lifted([status(6, "member", "fenced", "fenced"), FENCED], 6) == ["a"]
    missed = {"region": "east", "nodes": FENCED["nodes"] | {"b": node(epoch=5), "c": {"reachable": False}}}
    assert filters.restore_region_lifted([missed, FENCED], 6) == []
    assert filters.restore_region_lifted([missed], 5) == ["b"]


def test_the_preview_says_for_each_node_and_face_what_changes() -> None:
    face = {"same": 1, "changed": 2, "gone": 3, "back": 4, "newest_write_undone": TO}
    quiet = {"same": 9, "changed": 0, "gone": 0, "back": 0, "newest_write_undone": None}
    lines = filters.restore_region_preview(
        [{"node": "a", "cp": face, "ap": quiet, "examples": [{"face": "cp", "key": "k", "what": "gone"}]}]
    )
    assert lines[0] == f"a CP: 2 keys get an older value, 3 disappear, 4 come back, 1 stay; newest write undone: {TO}"
    assert lines[1].startswith("a AP: 0 keys")
    assert lines[2:] == [], "no key: these lines are recorded"
    told = [{"node": "a", "cp": face, "ap": quiet, "examples": [{"face": "cp", "key": "k", "what": "gone"}]}]
    assert filters.restore_region_examples(told) == ["for example: cp:k (gone)"]
    assert filters.restore_region_examples([]) == []

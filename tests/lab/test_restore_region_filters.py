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


def node(state: str = "member", role: str = "primary", region: str = "east", epoch: int = 5, **more: Any) -> dict[str, Any]:
    return {"reachable": True, "role": role, "state": state, "region": region, "region_epoch": epoch, "link": "-", **more}


NODES = {name: node() for name in ("a", "b", "c")}
STATUS = {"region": "east", "epoch": 5, "nodes": NODES, "peers": {}}
AWAY = STATUS | {"nodes": NODES | {"c": {"reachable": False}}}


def plan(records: list[dict[str, Any]], status: dict[str, Any] = STATUS, to: str = TO, undo: str = "", without: str = "") -> dict[str, Any]:
    made: dict[str, Any] = filters.restore_region_plan(records, status, "mine", to, undo, list(without))
    return made


def test_a_new_restore_gets_epochs_above_every_one_seen() -> None:
    made = plan([ENDED])
    assert (made["refusals"], made["run"], made["fence"], made["adopt"], made["begun"]) == ([], "mine", 6, 7, False)
    assert any(TO in line and "LOST" in line for line in made["lines"])
    assert any("undo=mine" in line for line in made["lines"])


def test_an_interrupted_restore_goes_on_under_its_own_epochs_and_name() -> None:
    later = STATUS | {"epoch": 7, "nodes": {name: {"reachable": False} for name in NODES}}
    made = plan([ENDED, OPEN], later)
    assert (made["refusals"], made["run"], made["fence"], made["adopt"], made["begun"]) == ([], "r2", 6, 7, True)


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
        ({"records": [], "status": AWAY}, r'c does not answer.*"without": \["c"\]'),
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


def test_which_region_serves() -> None:
    assert filters.restore_region_serves(STATUS)
    for state, role, region in (("fenced", "primary", "east"), ("member", "replica", "east"), ("member", "primary", "west")):
        assert not filters.restore_region_serves(STATUS | {"nodes": {name: node(state, role, region) for name in NODES}})


def test_the_standby_region_has_followed_when_every_copy_shows_the_new_epoch() -> None:
    copies = {name: node("promoted", "replica", epoch=7, link="up") for name in NODES}
    assert filters.restore_region_followed({"peers": copies}, 7)
    for wrong in (node("fenced", "replica", epoch=6, link="up"), node("promoted", "replica", epoch=7, link="down"), {"reachable": False}):
        assert not filters.restore_region_followed({"peers": copies | {"c": wrong}}, 7)


def test_the_preview_says_for_each_node_and_face_what_changes() -> None:
    face = {"same": 1, "changed": 2, "gone": 3, "back": 4, "newest_write_undone": TO}
    quiet = {"same": 9, "changed": 0, "gone": 0, "back": 0, "newest_write_undone": None}
    lines = filters.restore_region_preview(
        [{"node": "a", "cp": face, "ap": quiet, "examples": [{"face": "cp", "key": "k", "what": "gone"}]}]
    )
    assert lines[0] == f"a CP: 2 keys get an older value, 3 disappear, 4 come back, 1 stay; newest write undone: {TO}"
    assert lines[1].startswith("a AP: 0 keys")
    assert lines[2] == "for example: cp:k (gone)"

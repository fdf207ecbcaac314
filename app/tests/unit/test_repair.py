"""What `holdfast repair` decides, on nodes that answer at once. Under faults: tests/simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.contract import NotDone, Query, Register, Reply
from holdfast.guard import FENCED, MEMBER, RECOVERING, Guard
from holdfast.repair import heal, readmit
from holdfast.repair_all import heal_all, readmit_all, usable
from holdfast.repair_plan import (
    Code,
    Compare,
    Differs,
    Floor,
    Forget,
    Look,
    Move,
    Moved,
    Older,
    Page,
    Round,
    Rows,
    Seen,
    Step,
    Steps,
    Stopped,
    Told,
    check_target,
    split,
    valid,
)

NAMES = ("a", "b", "c")


def guard(node: str, epoch: int = 1, state: str = MEMBER, region_epoch: int = 1) -> Guard:
    return Guard(state, "lab", node, region_epoch, epoch, f"inc-{node}")


def seen(*guards: Guard | None, empty: bool = False) -> dict[str, Seen]:
    return {n: Seen(g, empty, f"run-{n}") for n, g in zip(NAMES, guards, strict=False)}


class Nodes:
    """Guards and registers in memory; a name in ``away`` does not answer."""

    def __init__(self, *guards: Guard | None) -> None:
        self.guards: dict[str, Guard | None] = dict(zip(NAMES, guards, strict=True))
        self.data: dict[str, dict[str, Register]] = {n: {} for n in NAMES}
        self.floors: dict[str, str] = dict.fromkeys(NAMES, "")
        self.histories = dict.fromkeys(NAMES, 0)
        self.away: set[str] = set()
        self.largest_round = 0

    def put(self, node: str, key: str, counter: int, value: str) -> None:
        self.data[node][key] = Register(f"{counter:016x}", "v", value)

    def drive(self, steps: Steps) -> object:
        told: list[Told] | None = None
        try:
            while True:
                wanted: Round = next(steps) if told is None else steps.send(told)
                self.largest_round = max(self.largest_round, len(wanted))
                told = [self.answer(node, step) for node, step in wanted]
        except StopIteration as end:
            return end.value

    def answer(self, node: str, step: Step) -> Told:
        if node in self.away:
            return NotDone("connect", True)
        held, data = self.guards[node], self.data[node]
        if isinstance(step, Look):
            return Seen(held, not data, f"run-{node}", self.floors[node], self.histories[node])
        if isinstance(step, Move):
            if step.expected != held:
                return Differs(held)
            self.guards[node] = step.new
            self.histories[node] = max(self.histories[node], step.history)
            return Moved()
        if step.guard != held:
            return Differs(held)
        if isinstance(step, Floor):
            self.floors[node] = max(self.floors[node], step.floor)
            return Moved()
        if isinstance(step, Forget):
            for key, tag in step.rows:
                if key in data and data[key].tag == tag:
                    del data[key]
            return Moved()
        if isinstance(step, Page):
            return Rows(f"run-{node}", "0", tuple((k, r.tag) for k, r in data.items()))
        if isinstance(step, Compare):
            return Older(tuple(k for k, tag in step.rows if k not in data or data[k].tag < tag))
        register = data.get(step.key, Register("", "v", None))
        if isinstance(step.request, Query):
            return Reply(register)
        if step.request.register.tag > register.tag:
            data[step.key] = step.request.register
        return Reply(step.request.register)


def quiet(_phase: str, _source: str, _looked: int, _copied: int) -> None:
    pass


def test_who_is_valid() -> None:
    assert set(valid(seen(guard("a"), guard("b"), None), NAMES, "lab", frozenset())) == {"a", "b"}
    assert set(valid(seen(guard("a"), guard("b"), guard("c", state=RECOVERING)), NAMES, "lab", frozenset("a"))) == {"b"}
    stale = seen(guard("a", 3), guard("b", 3), guard("c", 2))
    assert set(valid(stale, NAMES, "lab", frozenset())) == {"a", "b"}
    interrupted = valid(seen(guard("a", 3), guard("b", 2), None), NAMES, "lab", frozenset())
    assert set(interrupted) == {"a", "b"}
    assert split(interrupted, NAMES)
    assert not split(valid(stale, NAMES, "lab", frozenset()), NAMES)
    older = seen(guard("a", 1, region_epoch=2), guard("b", 9), guard("c", 1, region_epoch=2))
    assert set(valid(older, NAMES, "lab", frozenset())) == {"a", "c"}


def test_the_largest_tag_of_both_others_wins_and_rounds_stay_small() -> None:
    nodes = Nodes(guard("a"), guard("b"), None)
    for i in range(100):
        nodes.put("a", f"k{i}", 1, "old")
    nodes.put("b", "k1", 2, "new")
    nodes.put("b", "only", 1, "b's")
    healed = nodes.drive(heal("c", NAMES, "lab", "fresh", quiet))
    assert nodes.guards["c"] == Guard(RECOVERING, "lab", "c", 1, 1, "fresh")
    assert {n: g.membership_epoch for n, g in nodes.guards.items() if g} == {"a": 2, "b": 2, "c": 1}
    assert nodes.drive(readmit("c", healed, NAMES, "lab")) == Guard(MEMBER, "lab", "c", 1, 2, "fresh")  # type: ignore[arg-type]
    assert len(nodes.data["c"]) == 101
    assert nodes.data["c"]["k1"].value == "new"


def test_from_all_names_old_values_that_may_have_been_collected_and_no_others() -> None:
    def named(kept: frozenset[str], b_lacks: bool = True) -> list[str]:
        nodes = Nodes(guard("a"), guard("b", state=RECOVERING), guard("c", state=RECOVERING))
        nodes.floors.update(a=f"{9:016x}")
        nodes.put("c", "old", 5, "collected, or the last copy")
        nodes.put("c", "new", 10, "above the floor")
        nodes.put("a", "member's", 5, "a member has it: not collected")
        for name in ("a", "b", "c"):
            nodes.put(name, "everywhere", 5, "nobody lacks it")
        nodes.put("c", "overwritten", 5, "old")
        nodes.put("b", "overwritten", 11, "new")
        nodes.data["c"]["deleted"] = Register(f"{5:016x}", "d", None)
        if not b_lacks:
            for name in ("a", "b"):
                nodes.put(name, "old", 5, "collected, or the last copy")
        told: list[str] = []
        nodes.drive(heal_all(NAMES, "lab", lambda: "fresh", quiet, kept, told.extend))
        assert nodes.data["a"]["old"].value == "collected, or the last copy", "it stays"
        return told

    assert named(frozenset("a")) == ["old"]
    assert named(frozenset()) == ["member's", "old"], "nobody kept its data: all may have been collected"
    assert named(frozenset("a"), b_lacks=False) == []
    assert named(frozenset("c")) == ["member's"], "c kept its data: what it has was not collected"


def test_a_healed_node_takes_the_largest_floor_and_keeps_nothing_that_may_have_been_collected() -> None:
    def healed_node(take_floor: bool) -> Nodes:
        nodes = Nodes(guard("a"), guard("b"), guard("c", state=RECOVERING))
        nodes.floors.update(a=f"{5:016x}", b=f"{9:016x}")
        nodes.put("a", "kept", 3, "on a")
        nodes.put("c", "kept", 2, "older")
        nodes.put("c", "collected", 8, "from an old disk")
        nodes.put("c", "newer", 10, "above the floor")
        nodes.drive(heal("c", NAMES, "lab", "fresh", quiet, take_floor=take_floor))
        return nodes

    nodes = healed_node(take_floor=True)
    assert nodes.floors["c"] == f"{9:016x}"
    assert {k: r.value for k, r in nodes.data["c"].items()} == {"kept": "on a", "newer": "above the floor"}
    assert "collected" in healed_node(take_floor=False).data["c"]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (guard("c", state=FENCED), Code.FENCED),
        (replace(guard("c"), node="z"), Code.WRONG_NODE),
        (None, Code.DATA_WITHOUT_GUARD),
    ],
)
def test_refused_targets(target: Guard | None, code: Code) -> None:
    nodes = Nodes(guard("a"), guard("b"), target)
    nodes.put("c", "k", 1, "v")
    with pytest.raises(Stopped) as stopped:
        nodes.drive(heal("c", NAMES, "lab", "fresh", quiet))
    assert stopped.value.code is code
    assert nodes.guards["c"] == target, "nothing was changed"


def test_who_is_healed_knows_that_the_region_was_put_back_to_a_moment() -> None:
    """Or nobody does when all have been emptied and healed, and a copy of before counts as one of the same history."""
    nodes = Nodes(guard("a"), guard("b"), None)
    nodes.histories["b"] = 5
    nodes.drive(heal("c", NAMES, "lab", "fresh", quiet))
    assert nodes.histories == {"a": 0, "b": 5, "c": 5}
    nodes.histories["c"] = 7
    nodes.drive(heal("c", NAMES, "lab", "again", quiet))
    assert nodes.histories["c"] == 7
    nodes = Nodes(guard("a"), guard("b"), None)
    nodes.histories["b"] = 5
    nodes.drive(heal_all(NAMES, "lab", lambda: "fresh", quiet))
    assert nodes.histories == dict.fromkeys(NAMES, 5)


def test_an_older_region_epoch_must_be_emptied_first() -> None:
    nodes = Nodes(guard("a", region_epoch=2), guard("b", region_epoch=2), guard("c", state=RECOVERING))
    nodes.put("c", "k", 1, "v")
    with pytest.raises(Stopped) as stopped:
        nodes.drive(heal("c", NAMES, "lab", "fresh", quiet))
    assert stopped.value.code is Code.MUST_EMPTY
    nodes.data["c"].clear()
    nodes.drive(heal("c", NAMES, "lab", "fresh", quiet))


def test_a_copy_that_was_marked_and_set_aside_must_be_emptied_first() -> None:
    """Its promotion was cut off, and the others settled without it: what only it held was given up."""
    others = seen(guard("a", 2, region_epoch=2), guard("b", 2, region_epoch=2))
    copy = Seen(guard("c", state=RECOVERING, region_epoch=2), False, "run-c", marked=True)
    with pytest.raises(Stopped) as stopped:
        check_target("c", others | {"c": copy}, "lab")
    assert stopped.value.code is Code.MUST_EMPTY
    for able in (replace(copy, empty=True), replace(copy, marked=False)):
        assert check_target("c", others | {"c": able}, "lab") == able


def test_one_other_node_is_not_enough() -> None:
    nodes = Nodes(guard("a"), guard("b"), None)
    nodes.away = {"b"}
    with pytest.raises(Stopped) as stopped:
        nodes.drive(heal("c", NAMES, "lab", "fresh", quiet))
    assert stopped.value.code is Code.NO_MAJORITY
    assert nodes.guards["c"] is None


def test_a_suspect_is_no_source_for_another() -> None:
    nodes = Nodes(guard("a"), guard("b"), None)
    with pytest.raises(Stopped) as stopped:
        nodes.drive(heal("c", NAMES, "lab", "fresh", quiet, suspects=frozenset({"b"})))
    assert stopped.value.code is Code.NO_MAJORITY


def test_emptied_again_during_the_heal_is_not_readmitted() -> None:
    nodes = Nodes(guard("a"), guard("b"), None)
    healed = nodes.drive(heal("c", NAMES, "lab", "fresh", quiet))
    nodes.guards["c"] = None
    with pytest.raises(Stopped) as stopped:
        nodes.drive(readmit("c", healed, NAMES, "lab"))  # type: ignore[arg-type]
    assert stopped.value.code is Code.OVERTAKEN
    assert nodes.guards["c"] is None


def test_the_last_resort_takes_the_largest_tag_of_all_and_raises_the_region_epoch() -> None:
    nodes = Nodes(guard("a", state=RECOVERING), None, guard("c", 4))
    nodes.put("a", "k", 1, "a's")
    nodes.put("c", "k", 2, "c's")
    nodes.put("a", "only", 1, "x")
    counter = iter(range(9))
    guards = nodes.drive(heal_all(NAMES, "lab", lambda: f"fresh-{next(counter)}", quiet))
    nodes.drive(readmit_all(guards))  # type: ignore[arg-type]
    for held in nodes.data.values():
        assert {k: r.value for k, r in held.items()} == {"k": "c's", "only": "x"}
    assert {(g.state, g.region_epoch, g.membership_epoch) for g in nodes.guards.values() if g} == {(MEMBER, 2, 5)}


def test_the_last_resort_leaves_out_what_a_majority_has_left_behind() -> None:
    two = seen(guard("a", state=RECOVERING, region_epoch=2), guard("b", state=RECOVERING, region_epoch=2), guard("c"))
    assert usable(two, NAMES, "lab") == ["a", "b"]
    one = seen(guard("a", state=RECOVERING, region_epoch=2), guard("b", state=RECOVERING), guard("c"))
    assert usable(one, NAMES, "lab") == ["a", "b", "c"]
    with pytest.raises(Stopped):
        usable({"a": two["a"]}, NAMES, "lab")
    with pytest.raises(Stopped) as stopped:
        usable(one | {"b": Seen(guard("b", state=FENCED), False, "run-b")}, NAMES, "lab")
    assert stopped.value.code is Code.FENCED

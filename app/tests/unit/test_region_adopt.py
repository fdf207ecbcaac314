"""A whole region put back to one moment (region_adopt.py): which nodes may be taken, and what must stay away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.contract import VALUE
from holdfast.guard import FENCED, MEMBER, PROMOTED, RECOVERING, Guard
from holdfast.region import RegionRefused, Status
from holdfast.region_adopt import PutBack, adopt_plan
from holdfast.region_compare import Held, Serving, judge
from holdfast.region_compare import plan as compare_plan
from holdfast.region_promotion import Promotion, promote_plan

NAMES = ("a", "b", "c")
T = "2026-05-01T10:14:59Z"
GRACE = 60.0


def node(name: str, state: str, epoch: int = 1, region: str = "east", **more: object) -> Status:
    made = Status(True, guard=Guard(state, region, name, epoch, 1, f"inc-{name}"), run_id=f"run-{name}")
    return replace(made, **more)  # type: ignore[arg-type]


def restored(name: str, **more: object) -> Status:
    return node(name, RECOVERING, **{"restored_to": T, **more})  # type: ignore[arg-type]


def adopted(name: str, state: str, epoch: int = 3) -> Status:
    return node(name, state, epoch, history=epoch, history_before=0 if state == RECOVERING else None)


ALL = {n: restored(n) for n in NAMES}
COPIES = {n: replace(node(n, FENCED, 2), role="replica") for n in NAMES}


def plan(own: dict[str, Status], *without: str, epoch: int = 3, peers: dict[str, Status] | None = None) -> Promotion:
    return adopt_plan(own, COPIES if peers is None else peers, frozenset(without), "east", epoch, PutBack(T), GRACE)


def test_all_restored_nodes_are_taken_and_it_goes_on_where_it_was_cut_off() -> None:
    assert (set(plan(ALL).mark), plan(ALL).done) == (set(NAMES), False)
    half = plan(ALL | {"a": adopted("a", RECOVERING)})
    assert (set(half.mark), set(half.marked)) == ({"b", "c"}, {"a"})
    late = plan({"a": adopted("a", PROMOTED), **{n: adopted(n, RECOVERING) for n in "bc"}})
    assert (late.mark, set(late.marked), set(late.promoted)) == ({}, {"b", "c"}, {"a"})
    assert plan({n: adopted(n, PROMOTED) for n in NAMES}).done
    assert plan({n: adopted(n, MEMBER) for n in NAMES}).done


def test_what_was_restored_and_fenced_since_is_taken_too() -> None:
    """The fence was repeated after an interruption."""
    assert set(plan(ALL | {"a": node("a", FENCED, 2, restored_to=T)}).mark) == set(NAMES)


def test_a_restored_follower_is_taken_too() -> None:
    """At that moment the other region served, and these nodes followed it."""
    assert set(plan({n: restored(n, region="west") for n in NAMES}).mark) == set(NAMES)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (node("c", MEMBER), r"c was not restored \(member at 1\)"),
        (node("c", RECOVERING), r"c was not restored \(recovering at 1\)"),
        (node("c", MEMBER, restored_to=T), r"c was not restored \(member at 1\)"),
        (node("c", FENCED, 2), r"c was not restored \(fenced at 2\)"),
        (restored("c", restored_to="2026-05-01T10:14:58Z"), "c was restored to 2026-05-01T10:14:58Z"),
        (restored("b"), "c holds data of b"),
        (replace(restored("c"), guard=None), "c has no guard"),
        (Status(False, "connect"), "c: does not answer"),
        (replace(restored("c"), role="replica"), "c: is still a replica"),
        (restored("c", trouble="loading"), "c: loading"),
    ],
)
def test_a_node_that_was_not_put_back_is_refused_with_a_cure(status: Status, why: str) -> None:
    with pytest.raises(RegionRefused, match=why) as refused:
        plan(ALL | {"c": status})
    assert "--without c" in str(refused.value) or "first" in str(refused.value)
    assert set(plan(ALL | {"c": status}, "c").mark) == {"a", "b"}
    with pytest.raises(RegionRefused, match="2 are needed"):
        plan(ALL, "a", "b")


def test_the_epoch_is_above_every_guard_that_is_seen() -> None:
    for own, peers, wanted in (
        (ALL | {"c": node("c", MEMBER, 3)}, {}, 4),
        (ALL | {"c": node("c", FENCED, 3)}, {}, 4),
        (ALL, {"a": replace(node("a", FENCED, 5), role="replica")}, 6),
        (ALL, {"a": node("a", FENCED, 3, "west")}, 4),
    ):
        with pytest.raises(RegionRefused, match=f"use {wanted} or more"):
            plan(own, "c", epoch=3, peers=peers)
        assert set(plan(own, "c", epoch=wanted, peers=peers).mark) == {"a", "b"}
    copies = {n: replace(adopted(n, PROMOTED), role="replica") for n in NAMES}
    assert plan({n: adopted(n, PROMOTED) for n in NAMES}, peers=copies).done, "copies of what was adopted just now"


def test_members_at_the_epoch_that_were_never_put_back_are_no_success() -> None:
    with pytest.raises(RegionRefused, match="use 4 or more"):
        plan({n: node(n, MEMBER, 3) for n in NAMES})


def test_only_the_region_that_serves_is_put_back() -> None:
    with pytest.raises(RegionRefused, match="other region serves at region epoch 2"):
        plan(ALL, peers={n: node(n, MEMBER, 2, "west") for n in NAMES})


AWAY = Status(False, "connect")
OLD = {n: node(n, FENCED, 2, "west", fenced_from=MEMBER, fenced_epoch=1) for n in NAMES}  # closed by a failover


@pytest.mark.parametrize(
    ("peers", "seen"),
    [
        ({}, True),  # there is no other region
        (COPIES, True),
        (
            {n: replace(s, guard=None, reason="masterdown") for n, s in COPIES.items()},
            True,
        ),  # as our nodes were stopped
        (COPIES | {"a": AWAY}, True),
        (COPIES | {"a": AWAY, "b": AWAY}, False),
        (dict.fromkeys(NAMES, AWAY), False),
        (OLD, True),
        ({n: Status(True) for n in NAMES}, True),  # blank
        ({n: Status(True, "noauth") for n in NAMES}, False),
        ({n: replace(s, role="primary") for n, s in COPIES.items()}, False),  # cut loose: about to be promoted
        ({n: node(n, RECOVERING, 2, "west") for n in NAMES}, False),  # a promotion is under way
        ({n: replace(s, fenced_epoch=2) for n, s in OLD.items()}, False),  # it has served since we did
        ({n: replace(s, fenced_epoch=2, fenced_from=RECOVERING) for n, s in OLD.items()}, True),
    ],
)
def test_that_the_other_region_was_not_promoted_is_seen_or_typed(peers: dict[str, Status], seen: bool) -> None:
    back = PutBack(T)
    if not seen:
        with pytest.raises(RegionRefused, match=r"not promoted while this one was fenced.*-e accept_unseen=east"):
            plan(ALL, peers=peers)
    sure = adopt_plan(ALL, peers, frozenset(), "east", 3, back, GRACE, confirmed=not seen)
    assert set(sure.mark) == set(NAMES)


def test_it_is_seen_anew_when_an_adoption_goes_on() -> None:
    marked = {n: adopted(n, RECOVERING) for n in NAMES}
    promoted_and_fenced = {n: replace(s, fenced_epoch=2) for n, s in OLD.items()}
    assert set(plan(marked, peers=OLD).marked) == set(NAMES)
    for own, peers, epoch in (
        (marked, dict.fromkeys(NAMES, AWAY), 3),
        (marked | {"a": adopted("a", PROMOTED)}, dict.fromkeys(NAMES, AWAY), 3),
        ({n: replace(s, restored_to=T) for n, s in marked.items()}, promoted_and_fenced, 4),
    ):
        with pytest.raises(RegionRefused, match="not promoted while this one was fenced"):
            plan(own, peers=peers, epoch=epoch)
    assert plan({n: adopted(n, PROMOTED) for n in NAMES}, peers=dict.fromkeys(NAMES, AWAY)).done


def test_a_node_whose_data_ends_long_before_the_others_is_refused() -> None:
    aged = {n: restored(n, heartbeat_ms=100_000) for n in "ab"} | {"c": restored("c", heartbeat_ms=30_000)}
    with pytest.raises(RegionRefused, match="c: the copy ends 70 s before"):
        plan(aged)


def test_the_inverse_takes_what_was_fenced_before_the_restore_and_nothing_else() -> None:
    kept = {"a": node("a", FENCED, 2), "b": node("b", RECOVERING, 2, fenced_from=MEMBER), "c": node("c", FENCED, 2)}
    back = PutBack(fenced_at=2)
    assert set(adopt_plan(kept, {}, frozenset(), "east", 5, back, GRACE).mark) == set(NAMES)
    for wrong in (node("c", FENCED, 4), restored("c", fenced_from=MEMBER), node("c", RECOVERING, 2), node("c", MEMBER)):
        with pytest.raises(RegionRefused, match="not fenced at 2"):
            adopt_plan(kept | {"c": wrong}, {}, frozenset(), "east", 5, back, GRACE)


def test_a_node_of_before_an_earlier_restore_is_not_taken() -> None:
    """It was away then, came back unemptied, and its backups went on."""
    twice = {n: restored(n, epoch=5, history=3) for n in NAMES}
    assert set(plan(twice, epoch=7).mark) == set(NAMES)
    for stale in (restored("c"), node("c", FENCED, 6, restored_to=T, fenced_epoch=1, fenced_from=RECOVERING)):
        with pytest.raises(RegionRefused, match=r"c: its data is of before .* \(region epoch 3\).*--without c"):
            plan(twice | {"c": stale}, epoch=7)
        assert set(plan(twice | {"c": stale}, "c", epoch=7).mark) == {"a", "b"}
    healed = restored("c", epoch=5)
    assert set(plan(twice | {"c": healed}, epoch=7).mark) == set(NAMES), "emptied and healed since"


def test_an_adoption_that_was_cut_off_is_repeated_under_a_higher_epoch() -> None:
    """What was marked in vain says nothing of its data, and does not hide what that is."""
    marked = node("a", FENCED, 4, restored_to=T, history=3, history_before=0, fenced_epoch=3, fenced_from=RECOVERING)
    assert set(plan(ALL | {"a": marked}, epoch=5).mark) == set(NAMES)
    with pytest.raises(RegionRefused, match=r"b, c: its data is of before .* \(region epoch 2\)"):
        plan(ALL | {"a": replace(marked, history_before=2)}, epoch=5)


def test_nobody_joins_those_that_serve_already() -> None:
    """Their reads have not heard it; done is what all of them have done."""
    for state in (MEMBER, PROMOTED):
        serving = {n: adopted(n, state) for n in NAMES}
        for late, why in (
            (restored("c"), r"c \(recovering at 1\) is none of those that serve at region epoch 3.*--without c"),
            (node("c", FENCED, 2), r"c \(fenced at 2\) is none of those.*--without c"),
            (Status(False, "connect"), "c: does not answer.*--without c"),
            (Status(True), "c: has no guard"),
        ):
            with pytest.raises(RegionRefused, match=why):
                plan(serving | {"c": late})
            assert plan(serving | {"c": late}, "c").done


def test_the_inverse_does_not_take_a_node_that_was_away_before_the_fence() -> None:
    kept = {n: node(n, FENCED, 8, fenced_from=MEMBER, fenced_epoch=7) for n in NAMES}
    back = PutBack(fenced_at=8)
    assert set(adopt_plan(kept, {}, frozenset(), "east", 11, back, GRACE).mark) == set(NAMES)
    for state in (FENCED, RECOVERING):  # `holdfast backup mark` makes the latter of it
        stale = node("c", state, 8, fenced_from=MEMBER, fenced_epoch=5)
        with pytest.raises(RegionRefused, match=r"c: its data is of region epoch 5, .* of 7.*--without c"):
            adopt_plan(kept | {"c": stale}, {}, frozenset(), "east", 11, back, GRACE)
        assert set(adopt_plan(kept | {"c": stale}, {}, frozenset("c"), "east", 11, back, GRACE).mark) == {"a", "b"}


def test_a_copy_of_before_the_restore_is_not_mixed_with_others_by_a_promotion() -> None:
    copies = {n: node(n, MEMBER, 3, history=3) for n in NAMES}
    healed = copies | {"b": node("b", MEMBER, 3)}  # emptied and healed since: it does not know of the restore
    assert set(promote_plan(healed, {}, frozenset(), "west", 4, GRACE).mark) == set(NAMES)
    for stale in (node("c", MEMBER, 1), node("c", FENCED, 2), node("c", FENCED, 4, fenced_epoch=1)):
        with pytest.raises(RegionRefused, match=r"c: its data is of before the region was restored \(region epoch 3\)"):
            promote_plan(copies | {"c": stale}, {}, frozenset(), "west", 5, GRACE)
        assert set(promote_plan(copies | {"c": stale}, {}, frozenset("c"), "west", 5, GRACE).mark) == {"a", "b"}
    before = {n: node(n, FENCED, 4, fenced_epoch=3, history=3) for n in "ab"} | {"c": node("c", MEMBER, 3, history=3)}
    assert set(promote_plan(before, {}, frozenset(), "west", 5, GRACE).mark) == set(NAMES), "one lags behind the fence"


def test_a_promotion_in_the_middle_of_a_restore_takes_one_state_and_not_a_mixture() -> None:
    now = {n: node(n, FENCED, 2, fenced_epoch=1, fenced_from=MEMBER) for n in NAMES}

    def promoted(copies: dict[str, Status], *without: str) -> set[str]:
        return set(promote_plan(copies, {}, frozenset(without), "west", 3, GRACE).mark)

    assert promoted(now) == promoted(ALL) == set(NAMES)
    for mixed, few in ((now | {"a": ALL["a"]}, "a"), (ALL | {"c": now["c"]}, "c")):
        with pytest.raises(RegionRefused, match=rf"middle of a restore.*to {T}.*give up {few} with --without {few}"):
            promoted(mixed)
        assert promoted(mixed, few) == {*NAMES} - {few}
    half = now | {"a": node("a", RECOVERING, 3, "west", restored_to=T)}  # begun before
    with pytest.raises(RegionRefused, match="give up a with"):
        promoted(half)
    late = {n: node(n, RECOVERING, 3, "west", restored_to=T) for n in "bc"} | {"a": node("a", PROMOTED, 3, "west")}
    assert set(promote_plan(late, {}, frozenset(), "west", 3, GRACE).marked) == {"b", "c"}


def test_what_only_an_old_region_holds_is_undone_if_the_serving_one_was_restored_since() -> None:
    old = {n: node(n, FENCED, 2, fenced_from=MEMBER, fenced_epoch=1) for n in NAMES}
    serving = {n: node(n, MEMBER, 4, "west", history=4) for n in NAMES}
    assert compare_plan(old, serving, "east", frozenset(), frozenset()).serving.restored
    earlier = {n: node(n, MEMBER, 4, "west", history=1) for n in NAMES}
    assert not compare_plan(old, earlier, "east", frozenset(), frozenset()).serving.restored
    mine = {n: Held(f"00000001.{9:016x}.{'1' * 28}", VALUE) for n in NAMES}
    theirs = {n: Held(f"00000004.{9:016x}.{'1' * 28}", VALUE) for n in NAMES}
    for there, otherwise in (({}, "safe"), (theirs, "conflict")):
        since = Serving("west", 4, NAMES, {}, 4, {"cp": "", "ap": ""})
        assert judge("cp", mine, there, since).verdict == otherwise
        undone = judge("cp", mine, there, replace(since, restored=True))
        assert (undone.verdict, undone.lost) == ("undone", True)
    same = judge("cp", mine, mine, Serving("west", 4, NAMES, {}, 4, {"cp": "", "ap": ""}, restored=True))
    assert same.verdict == "same"


def test_the_ages_of_what_is_adopted_are_those_of_its_own_data() -> None:
    """What came with the promotion that was long before says nothing of them."""
    begun = {n: adopted(n, RECOVERING) for n in NAMES}
    old = begun | {"a": replace(begun["a"], copied_ms=1), "b": replace(begun["b"], copied_ms=100_000)}
    assert set(plan(old).marked) == set(NAMES)
    late = begun | {"a": replace(begun["a"], adopted_ms=1), "b": replace(begun["b"], adopted_ms=100_000)}
    with pytest.raises(RegionRefused, match="a: the copy ends 100 s before the newest one"):
        plan(late)

"""Which region may serve, from what nodes show (region.py): each rule, and what it must not allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.guard import FENCED, MEMBER, PROMOTED, RECOVERING, Guard
from holdfast.region import (
    RegionRefused,
    Status,
    fenced_at,
    left_below,
    may_confirm,
    served_by,
    serving_epoch,
    superseded_by,
    to_close,
    to_fence,
    to_unfence,
    with_last_heartbeat,
)
from holdfast.region_fencing import copies_behind
from holdfast.region_promotion import promote_plan

NAMES = ("a", "b", "c")


def primary(
    node: str, region: str = "west", epoch: int = 1, state: str = MEMBER, confirmed: bool = True, **more: object
) -> Status:
    guard = Guard(state, region, node, epoch, 1, f"inc-{node}")
    made = Status(True, guard=guard, run_id=f"run-{node}", confirmed=f"run-{node}" if confirmed else "an older run")
    return replace(made, **more)  # type: ignore[arg-type]


def copy(node: str, region: str = "west", epoch: int = 1) -> Status:
    return replace(primary(node, region, epoch), role="replica", link="up")


GRACE = 60.0
AWAY = Status(False, "connect")
WEST = {n: primary(n) for n in NAMES}
EAST = {n: copy(n) for n in NAMES}
LOOSE = {n: primary(n) for n in NAMES}  # east, after REPLICAOF NO ONE: still the guards of west


def east(epoch: int = 2, state: str = PROMOTED) -> dict[str, Status]:
    return {n: primary(n, "east", epoch, state) for n in NAMES}


def test_only_another_region_that_votes_supersedes() -> None:
    assert superseded_by(east(), "west")[0] == 2
    assert superseded_by(east(3, MEMBER), "west")[0] == 3
    for harmless in (EAST, LOOSE, east(2, RECOVERING), east(2, FENCED), dict.fromkeys(NAMES, AWAY)):
        assert superseded_by(harmless, "west") == (0, "")


def test_what_served_and_was_fenced_supersedes_a_region_that_serves() -> None:
    over = {n: primary(n, "east", 3, FENCED, fenced_from=PROMOTED, fenced_epoch=2) for n in NAMES}
    assert served_by(over, "west") == (2, "c")
    assert served_by(over | {"a": primary("a", "east", 4)}, "west") == (4, "a")
    assert superseded_by(over, "west") == (0, ""), "it does not serve"
    for harmless in (
        fenced(),  # west's own, on its copies
        {n: primary(n, "east", 3, FENCED, fenced_from=RECOVERING, fenced_epoch=2) for n in NAMES},
        {n: replace(s, role="replica") for n, s in over.items()},
        {n: primary("d", "east", 3, FENCED, fenced_from=PROMOTED, fenced_epoch=2) for n in NAMES},
        dict.fromkeys(NAMES, AWAY),
        {},
    ):
        assert served_by(harmless, "west") == (0, "")


def test_under_which_epoch_a_region_serves() -> None:
    """Not under that of a fence, of another region, of a copy, or of a node that does not vote."""
    assert serving_epoch(WEST, "west") == 1
    assert serving_epoch(at(5) | {"b": primary("b", epoch=5, state=PROMOTED), "c": AWAY}, "west") == 5
    assert serving_epoch(at(5) | {"b": primary("b", epoch=6)}, "west") == 6, "until all nodes have followed"
    for above in (
        primary("b", epoch=8, state=FENCED, fenced_from=MEMBER, fenced_epoch=5),
        primary("b", epoch=8, state=RECOVERING),
        primary("b", "east", 8),
        primary("a", epoch=8),
        copy("b", epoch=8),
    ):
        assert serving_epoch(at(5) | {"b": above}, "west") == 5
    for nobody in (fenced(), EAST, dict.fromkeys(NAMES, AWAY), {n: Status(True) for n in NAMES}, {}):
        assert serving_epoch(nobody, "west") == 0
    assert serving_epoch(LOOSE, "east") == 0


def closed_at(epoch: int) -> dict[str, Status]:
    """East, which served at the very epoch at which it is fenced: it closed by itself, as west served at that too."""
    return {n: primary(n, "east", epoch, FENCED, fenced_from=MEMBER, fenced_epoch=epoch) for n in NAMES}


def waits(*names: str) -> dict[str, Status]:
    return {n: primary(n, confirmed=n not in names) for n in NAMES}


def at(epoch: int, *names: str) -> dict[str, Status]:
    return {n: primary(n, epoch=epoch, confirmed=n not in names) for n in NAMES}


@pytest.mark.parametrize(
    ("own", "peers", "confirmed"),
    [
        (waits("a"), {}, True),
        (waits("a"), dict.fromkeys(NAMES, AWAY), True),
        (waits("a", "b"), dict.fromkeys(NAMES, AWAY), False),
        (waits("a", "b"), {}, False),
        (waits(*NAMES), EAST, True),
        (waits(*NAMES), {**EAST, "c": AWAY}, True),
        (waits(*NAMES), {"a": EAST["a"], "b": AWAY, "c": AWAY}, False),
        (waits(*NAMES), LOOSE, False),  # cut loose from us: a promotion may be under way
        (waits(*NAMES), east(), False),
        (waits("a"), east(), False),  # whatever the fellows say
        (waits(*NAMES), {**EAST, "a": primary("a", "east", 2)}, False),
        (at(3, *NAMES), east(2), False),  # two claim to serve: its history may be the later one
        (at(3, *NAMES), {**EAST, "a": primary("a", "east", 2)}, False),
        (at(3, *NAMES), east(2, FENCED), True),
        (at(2, *NAMES), closed_at(2), False),  # it served at 2 as well, and closed by itself
        (at(2, "a"), closed_at(2), False),
        (at(3, *NAMES), closed_at(2), True),
        (at(3, "a"), east(2), True),  # fellows that serve at 3 have closed it already
        (waits(*NAMES), {**EAST, "a": primary("a", "east", 2, RECOVERING)}, True),
        (waits(*NAMES), east(2, RECOVERING), False),
        (waits(*NAMES), east(2, FENCED), False),  # it has served since we did
        (waits(*NAMES), east(1, FENCED), True),
        ({**waits("a"), "b": primary("b", epoch=2)}, {}, False),
        ({**waits("a"), "b": AWAY}, {}, False),
        ({**waits("a"), "a": primary("a", state=RECOVERING, confirmed=False)}, {}, False),
        ({**waits("a"), "a": copy("a")}, {}, False),
    ],
)
def test_who_is_confirmed(own: dict[str, Status], peers: dict[str, Status], confirmed: bool) -> None:
    assert bool(may_confirm("a", own, peers, "west")) == confirmed


def test_fence() -> None:
    assert set(to_fence(WEST, "west", 2)) == set(NAMES)
    assert to_fence({n: primary(n, epoch=2, state=FENCED) for n in NAMES}, "west", 2) == {}
    assert set(to_fence({**WEST, "a": AWAY, "b": copy("b")}, "west", 2)) == {"c"}
    for epoch in (0, 1):
        with pytest.raises(RegionRefused):
            to_fence(WEST, "west", epoch)
    with pytest.raises(RegionRefused):
        to_fence({n: primary(n, epoch=3, state=FENCED) for n in NAMES}, "west", 2)


def test_a_region_closes_by_itself_behind_the_other_or_beside_it_for_too_long() -> None:
    own = {n: primary(n, epoch=2) for n in NAMES}
    assert to_close(own, "west", 2, 0) == {}, "beside it: not yet"
    closed = to_close(own | {"c": primary("c", epoch=2, state=FENCED)}, "west", 2, 2)
    assert {n: (after.state, after.region_epoch) for n, (_, after) in closed.items()} == {
        "a": (FENCED, 2),
        "b": (FENCED, 2),
    }
    assert {after.region_epoch for _, after in to_close(own, "west", 3, 0).values()} == {3}
    assert to_close({n: copy(n) for n in NAMES} | {"a": AWAY}, "west", 3, 3) == {}


def test_a_region_that_was_decided_for_stays_open_while_a_caller_still_believes_in_two() -> None:
    """The caller's guards are of before `unfence`, these statuses of after it."""
    unfenced = {n: primary(n, epoch=3, fenced_from=MEMBER, fenced_epoch=2) for n in NAMES}
    assert to_close(unfenced, "west", 2, 2) == {}
    assert set(to_close(unfenced | {"a": primary("a", epoch=2)}, "west", 2, 2)) == {"a"}


def fenced(epoch: int = 2, was: str = MEMBER) -> dict[str, Status]:
    return {n: primary(n, epoch=epoch, state=FENCED, fenced_from=was) for n in NAMES}


def test_unfence() -> None:
    moves = to_unfence(fenced(), EAST, "west", 2, False)
    assert {after.state for _, after in moves.values()} == {MEMBER}
    assert {after.state for _, after in to_unfence(fenced(was=PROMOTED), EAST, "west", 2, False).values()} == {PROMOTED}
    assert {after.state for _, after in to_unfence(fenced(was=RECOVERING), EAST, "west", 2, False).values()} == {
        RECOVERING
    }
    assert fenced_at(fenced(), "west", 2) == list(NAMES)
    assert to_unfence({**fenced(), "a": AWAY}, EAST, "west", 2, False).keys() == {"b", "c"}
    assert to_unfence(fenced(), dict.fromkeys(NAMES, AWAY), "west", 2, True)
    for own, peers, confirmed in (
        (fenced(), east(), True),
        (fenced(), dict.fromkeys(NAMES, AWAY), False),
        (fenced(), LOOSE | {"a": primary("a", "east", 2, RECOVERING), "b": AWAY}, False),
        (fenced(3), EAST, False),
        ({**fenced(), "a": AWAY, "b": AWAY}, EAST, False),
        (WEST, EAST, False),
    ):
        with pytest.raises(RegionRefused):
            to_unfence(own, peers, "west", 2, confirmed)


def test_unfence_gives_no_vote_to_a_node_that_was_behind_before_the_fence() -> None:
    """The fence raised it to the others' epoch, and a promotion and an adoption restart the membership epoch."""
    up = {n: replace(s, fenced_epoch=5) for n, s in fenced(6).items()}
    assert {after.state for _, after in to_unfence(up, EAST, "west", 6, False).values()} == {MEMBER}
    behind = up | {"c": replace(up["c"], fenced_epoch=3)}
    after = {n: (g.state, g.region_epoch) for n, (_, g) in to_unfence(behind, EAST, "west", 6, False).items()}
    assert after == {"a": (MEMBER, 6), "b": (MEMBER, 6), "c": (RECOVERING, 3)}
    others = {n: primary(n, epoch=6, fenced_epoch=5) for n in "ab"}  # unfenced while it was away
    moved = to_unfence(others | {"c": behind["c"]}, EAST, "west", 6, False)
    assert {n: (g.state, g.region_epoch) for n, (_, g) in moved.items()} == {"c": (RECOVERING, 3)}
    moved = to_unfence(others | {"c": up["c"]}, EAST, "west", 6, False)
    assert moved["c"][1].state == MEMBER, "it was in step"
    marked = replace(up["a"], fenced_from=RECOVERING, fenced_epoch=5, history_before=0)
    rest = {n: replace(up[n], fenced_epoch=1) for n in "bc"}  # an adoption of theirs was cut off after one mark
    moved = to_unfence(rest | {"a": marked}, EAST, "west", 6, False)
    assert {n: g.state for n, (_, g) in moved.items()} == {"a": RECOVERING, "b": MEMBER, "c": MEMBER}


@pytest.mark.parametrize(
    ("peers", "word"),
    [
        ({n: primary(n, "east", 2) for n in NAMES}, True),
        ({**EAST, "c": primary("c", "east", 2)}, True),
        ({n: primary(n, "east", 3, FENCED, fenced_from=MEMBER, fenced_epoch=2) for n in NAMES}, True),
        ({n: primary(n, "east", 1) for n in NAMES}, False),  # its watch has not seen us yet
        ({n: primary(n, "east", 3, FENCED, fenced_from=MEMBER, fenced_epoch=1) for n in NAMES}, False),  # both closed
        (EAST, False),
    ],
)
def test_unfence_wants_a_word_where_the_other_region_served_since(peers: dict[str, Status], word: bool) -> None:
    own = {n: replace(s, fenced_epoch=1) for n, s in fenced(3).items()}
    assert len(to_unfence(own, peers, "west", 3, True)) == 3
    if word:
        with pytest.raises(RegionRefused, match=r"served at region epoch 2, and this one before that, at 1.*--confirm"):
            to_unfence(own, peers, "west", 3, False)
    else:
        assert len(to_unfence(own, peers, "west", 3, False)) == 3


def test_unfence_at_an_epoch_that_the_other_region_served_at_would_last_a_second() -> None:
    """Both served at 2, and closed by themselves there. Whatever is typed: at 2 this one would close again at once."""
    own = {n: replace(s, fenced_epoch=2) for n, s in fenced(2).items()}
    for confirmed in (False, True):
        with pytest.raises(RegionRefused, match=r"served at region epoch 2.*fence --epoch 3, then unfence --epoch 3"):
            to_unfence(own, closed_at(2), "west", 2, confirmed)
    above = {n: replace(s, fenced_epoch=2) for n, s in fenced(3).items()}
    assert len(to_unfence(above, closed_at(2), "west", 3, False)) == 3, "the cure"
    later = {n: primary(n, "east", 6, FENCED, fenced_from=MEMBER, fenced_epoch=5) for n in NAMES}
    with pytest.raises(RegionRefused, match="fence --epoch 6, then unfence --epoch 6"):
        to_unfence(above, later, "west", 3, True)


AGED = {
    "a": primary("a", heartbeat_ms=99_000),
    "b": primary("b", heartbeat_ms=38_999),
    "c": primary("c", heartbeat_ms=39_000),
}


def test_a_copy_that_ends_before_the_grace_is_taken_only_when_nothing_can_have_been_collected() -> None:
    assert set(promote_plan(AGED, {}, frozenset({"b"}), "east", 2, GRACE).mark) == {"a", "c"}
    assert set(promote_plan(AGED, {}, frozenset(), "east", 2, GRACE + 1).mark) == set(NAMES)
    unknown = AGED | {"b": primary("b")}
    assert set(promote_plan(unknown, {}, frozenset(), "east", 2, GRACE).mark) == set(NAMES), "not known"


def test_unfence_after_a_fence_that_reached_few_names_the_cure() -> None:
    few = {**WEST, "a": fenced()["a"]}
    with pytest.raises(RegionRefused, match=r"never got to b \(at 1\), c \(at 1\): run region fence --epoch 2 again"):
        to_unfence(few, EAST, "west", 2, False)
    with pytest.raises(RegionRefused, match=r"b, c does not answer: bring it up$"):
        to_unfence(few | {"b": AWAY, "c": AWAY}, EAST, "west", 2, False)
    assert left_below({**fenced(), "a": WEST["a"], "b": AWAY}, "west", 2) == {"a": 1}


#: West, which closed by itself at the epoch at which it had served; or copies of it.
CLOSED = {n: replace(s, fenced_epoch=2) for n, s in fenced(2).items()}


def plan(own: dict[str, Status], peers: dict[str, Status], *without: str, epoch: int = 2) -> object:
    return promote_plan(own, peers, frozenset(without), "east", epoch, GRACE)


def test_a_promotion_goes_on_where_it_was_cut_off() -> None:
    first = promote_plan(LOOSE, fenced(), frozenset(), "east", 2, GRACE)
    assert (set(first.mark), first.marked, first.done) == (set(NAMES), {}, False)
    half = {**LOOSE, "a": primary("a", "east", 2, RECOVERING)}
    again = promote_plan(half, fenced(), frozenset(), "east", 2, GRACE)
    assert (set(again.mark), set(again.marked)) == ({"b", "c"}, {"a"})
    late = {**east(2, RECOVERING), "a": primary("a", "east", 2, PROMOTED)}
    assert set(promote_plan(late, fenced(), frozenset(), "east", 2, GRACE).marked) == {"b", "c"}
    assert promote_plan(east(), fenced(), frozenset(), "east", 2, GRACE).done
    healing = {**east(2, MEMBER), "a": primary("a", "east", 2, RECOVERING)}
    done = promote_plan(healing, fenced(), frozenset(), "east", 2, GRACE)
    assert (done.done, done.mark, done.marked) == (True, {}, {}), "a node that is being healed is left alone"
    assert set(promote_plan({**LOOSE, "a": AWAY}, fenced(), frozenset({"a"}), "east", 2, GRACE).mark) == {"b", "c"}


@pytest.mark.parametrize(
    ("own", "peers", "without", "epoch", "cure"),
    [
        (EAST, fenced(), (), 2, "REPLICAOF NO ONE"),
        ({**LOOSE, "a": AWAY}, fenced(), (), 2, "--without a"),
        ({**LOOSE, "a": AWAY}, fenced(), ("a", "b"), 2, "2 are needed"),
        (LOOSE, fenced(), (), 1, "use 2"),
        (LOOSE, WEST, (), 1, "use 2"),
        (LOOSE, {n: primary(n, epoch=2) for n in NAMES}, (), 2, "use 3"),
        (LOOSE, fenced(4), (), 3, "use 4"),
        (LOOSE, CLOSED, (), 2, "served at region epoch 2; use 3"),
        (CLOSED, {}, (), 2, "copy of epoch 2; use 3"),
        ({n: primary(n, epoch=3, state=FENCED) for n in NAMES}, {}, (), 2, "use 4"),
        ({**LOOSE, "a": primary("a", trouble="loading")}, {}, (), 2, "loading"),
        ({**LOOSE, "a": primary("a", guard=None)}, {}, (), 2, "no guard"),
        ({**LOOSE, "a": primary("b")}, {}, (), 2, "copy of b"),
        ({**LOOSE, "a": primary("a", "north")}, {}, (), 2, "several regions"),
        ({**LOOSE, "a": primary("a", "east", 1)}, {}, (), 2, "own"),
        (east(2, FENCED), {}, (), 2, "over"),
        (AGED, {}, (), 2, "deleted keys back.*--without b"),
        (AGED | {"b": replace(AGED["b"], copied_ms=99_000)}, {}, (), 2, "--without b"),  # of an older promotion
        (AGED | {"a": primary("a", "east", 2, RECOVERING, copied_ms=99_000)}, {}, (), 2, "--without b"),
    ],
)
def test_a_promotion_refuses_and_names_the_cure(
    own: dict[str, Status], peers: dict[str, Status], without: tuple[str, ...], epoch: int, cure: str
) -> None:
    with pytest.raises(RegionRefused, match=cure):
        plan(own, peers, *without, epoch=epoch)


def test_the_old_region_fenced_at_the_very_epoch_is_no_obstacle() -> None:
    copies = {n: primary(n, epoch=2, state=FENCED) for n in NAMES}
    assert set(promote_plan(copies, fenced(), frozenset(), "east", 2, GRACE).mark) == set(NAMES)


def test_lag_is_that_of_a_replica_only() -> None:
    assert replace(copy("a"), heartbeat_ms=1_000, clock_ms=3_500).lag_seconds == 2.5
    assert replace(copy("a"), heartbeat_ms=3_000, clock_ms=2_000).lag_seconds == 0
    assert replace(copy("a"), heartbeat_ms=3_000, clock_ms=2_000, unchanged_sec=7).lag_seconds == 7, "a clock behind"
    assert replace(copy("a"), heartbeat_ms=1_000, clock_ms=9_000, unchanged_sec=7).lag_seconds == 8
    assert replace(copy("a"), clock_ms=9_000, unchanged_sec=7).lag_seconds is None
    assert copy("a").lag_seconds is None
    assert replace(primary("a"), heartbeat_ms=1_000, clock_ms=3_500).lag_seconds is None


def test_the_lag_goes_on_when_the_link_is_down() -> None:
    down = replace(copy("a"), link="down", guard=None, clock_ms=100_000, link_down_seconds=5)
    assert with_last_heartbeat(down, 90_000).lag_seconds == 10
    assert with_last_heartbeat(down, None).lag_seconds == 65
    assert with_last_heartbeat(replace(down, link_down_seconds=-1), None).lag_seconds is None
    assert with_last_heartbeat(replace(down, heartbeat_ms=99_000), 90_000).lag_seconds == 1
    fast = replace(down, heartbeat_ms=200_000)
    assert with_last_heartbeat(fast, 200_000, 9).lag_seconds == 9
    assert with_last_heartbeat(fast, 199_000, 9).lag_seconds == 0, "newer than what the instance has seen"
    assert with_last_heartbeat(down, 200_000, 9).lag_seconds == 9
    assert with_last_heartbeat(primary("a", clock_ms=100_000), 90_000).lag_seconds is None


@pytest.mark.parametrize(
    "late",
    [
        copy("b"),
        copy("b", epoch=2),
        replace(copy("b", epoch=3), guard=Guard(FENCED, "west", "b", 3, 1, "inc-b")),
        replace(copy("b", epoch=2), guard=Guard(FENCED, "east", "b", 2, 1, "inc-b")),
        primary("b", epoch=2, state=FENCED),
        AWAY,
    ],
    ids=["as before", "not fenced", "another fence", "the other region's", "no copy any more", "away"],
)
def test_a_copy_has_arrived_when_it_shows_the_very_fence(late: Status) -> None:
    there = {n: replace(copy(n), guard=Guard(FENCED, "west", n, 2, 1, f"inc-{n}")) for n in NAMES}
    assert copies_behind(there, "west", 2) == []
    assert copies_behind({**there, "b": late}, "west", 2) == ["b"]

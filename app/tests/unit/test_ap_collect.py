"""One batch of AP collection, one decision at a time. Under faults: tests/simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast import divergence
from holdfast.ap_collect import (
    LOOKS,
    Collected,
    Done,
    Drop,
    Failed,
    Look,
    Looked,
    Mark,
    Reason,
    Send,
    Step,
    Told,
    collect,
)
from holdfast.ap_marks import Marks, highest
from holdfast.guard import MEMBER, Guard
from holdfast.hlc import Version
from holdfast.multiprimary import Position

NODES = ("a", "b", "c")
GUARDS = {n: Guard(MEMBER, "lab", n, 1, 1, f"inc-{n}") for n in NODES}
NOW, GRACE = 1_000_000, 1000
OLDER, OLD, NEWER = (str(Version(1, ms, 0, "a")) for ms in (5000, 6000, 7000))
#: Every node has applied 5 entries of each other one.
KNOWN = {n: {o: Position(f"inc-{o}", 5, None) for o in NODES if o != n} for n in NODES}
FINE = {n: Looked(NOW, 5, 3, 3, KNOWN[n], ((OLD, "d"),)) for n in NODES}
ROWS = (("k", OLD),)


class Region:
    """Answers looks with ``looks``; what else is asked for is noted."""

    def __init__(self, looks: dict[str, Looked | Failed], other: Callable[[str, Step], Told] | None = None) -> None:
        self.looks, self.other = looks, other or (lambda _n, s: Done(len(s.rows) if isinstance(s, Drop) else 0))
        self.asked: list[tuple[str, Step]] = []

    def run(self, members: dict[str, Guard] = GUARDS, rows: tuple[tuple[str, str], ...] = ROWS) -> Collected:
        steps = collect(rows, members, NODES, GRACE)
        try:
            wanted = next(steps)
            while True:
                self.asked += wanted
                wanted = steps.send([self.looks[n] if isinstance(s, Look) else self.other(n, s) for n, s in wanted])
        except StopIteration as end:
            result: Collected = end.value
            return result

    def of(self, kind: type[Step]) -> list[Step]:
        return [s for _, s in self.asked if isinstance(s, kind)]


def changed(node: str, **fields: object) -> dict[str, Looked | Failed]:
    return {**FINE, node: replace(FINE[node], **fields)}  # type: ignore[arg-type]


def test_what_all_nodes_hold_is_marked_everywhere_and_then_removed() -> None:
    region = Region(dict(FINE))
    assert region.run() == Collected(1)
    kinds = [type(s) for _, s in region.asked]
    assert kinds == [Look] * 3 + [Mark] * 3 + [Drop] * 3
    assert region.of(Mark) == [Mark(GUARDS[n], NOW, OLD) for n in NODES]
    assert region.of(Drop) == [Drop(GUARDS[n], NOW, ROWS) for n in NODES]


@pytest.mark.parametrize(
    ("looks", "reason"),
    [
        ({**FINE, "b": Failed("timeout")}, Reason.MEMBER_AWAY),
        (changed("b", held=((NEWER, "v"),)), Reason.NOT_EVERYWHERE),
        (changed("b", held=((OLD, "v"),)), Reason.NOT_EVERYWHERE),
        (changed("b", held=(("", ""),)), Reason.NOT_EVERYWHERE),
        (changed("b", parked=frozenset({"k"})), Reason.PARKED),
        (changed("b", more_parked=True), Reason.PARKED),
        (changed("b", now_ms=6000 + GRACE - 1), Reason.CLOCK),
        (changed("b", mark=2), Reason.OLD_DATA),
        (changed("b", sequence=6), Reason.LAG),
        (changed("b", positions={"a": Position("inc-a", 4, None), "c": Position("inc-c", 5, None)}), Reason.LAG),
        (changed("b", positions={"a": Position("before", 9, None), "c": Position("inc-c", 5, None)}), Reason.LAG),
        (changed("b", positions={"c": Position("inc-c", 5, None)}), Reason.LAG),
    ],
)
def test_whatever_is_not_certain_stays(looks: dict[str, Looked | Failed], reason: Reason) -> None:
    region = Region(looks)
    result = region.run()
    assert (result.count, result.reason) == (0, reason)
    assert result.why
    assert not region.of(Mark)
    assert not region.of(Drop)


def test_a_node_away_or_at_another_epoch_stops_it_before_anything_is_asked() -> None:
    for members in (
        {n: g for n, g in GUARDS.items() if n != "c"},
        {**GUARDS, "c": replace(GUARDS["c"], membership_epoch=2)},
    ):
        region = Region(dict(FINE))
        assert region.run(members).reason is Reason.MEMBER_AWAY
        assert not region.asked


def test_positions_are_waited_for_and_a_lost_look_meanwhile_is_no_failure() -> None:
    region = Region(changed("a", sequence=6))
    seen = 0

    def run() -> Collected:
        nonlocal seen
        steps = collect(ROWS, GUARDS, NODES, GRACE)
        told: list[Told] = []
        wanted = next(steps)
        try:
            while True:
                if isinstance(wanted[0][1], Look):
                    seen += 1
                    late = {n: replace(FINE[n], positions=KNOWN[n] | {"a": Position("inc-a", 6, None)}) for n in "bc"}
                    told = [region.looks[n] for n, _ in wanted]
                    if seen == 2:
                        told = [region.looks["a"], Failed("timeout"), late["c"]]
                    if seen == 3:
                        told = [region.looks["a"], late["b"], Failed("timeout")]
                else:
                    told = [region.other(n, s) for n, s in wanted]
                wanted = steps.send(told)
        except StopIteration as end:
            result: Collected = end.value
            return result

    assert run() == Collected(1)
    assert seen == 3 < LOOKS


def test_a_node_that_lacks_a_tombstone_is_sent_it_but_not_over_something_newer() -> None:
    looks = changed("b", held=((OLDER, "v"),), mark=4) | {"c": replace(FINE["c"], held=((NEWER, "v"),))}
    region = Region(looks)
    assert region.run().reason is Reason.NOT_EVERYWHERE
    assert region.of(Send) == [Send(GUARDS["b"], 4, ROWS)]


def test_a_mark_that_is_refused_ends_the_batch() -> None:
    region = Region(dict(FINE), lambda n, s: Failed("late") if n == "c" and isinstance(s, Mark) else Done())
    assert region.run().reason is Reason.OVERTAKEN
    assert not region.of(Drop)


def test_a_mark_is_above_all_others_even_when_clocks_are_behind() -> None:
    region = Region(changed("b", mark=NOW + 7))
    assert region.run() == Collected(1)
    assert {s.mark for s in region.of(Mark) if isinstance(s, Mark)} == {NOW + 8}


def test_data_from_before_a_collection_is_known_by_its_marks() -> None:
    collected, marked, old = Marks(9, 9, OLD), Marks(9, 5, NEWER), Marks(8, 5, OLDER)
    assert old.before(collected)
    assert not marked.before(collected)
    assert not collected.before(old)
    assert highest([old, collected, marked]) == Marks(9, 9, NEWER)
    assert highest([]) == Marks.parse([b"0", b"0", b""])


def test_digests_leave_out_tombstones_before_they_can_be_collected() -> None:
    period, grace = 60_000, 86_400_000
    start = 100 * period
    assert divergence.collected_ms(100, period, grace) == start - grace + divergence.COLLECTION_SLACK_MS
    assert divergence.collected_ms(100, period, 2000) == start - 1000

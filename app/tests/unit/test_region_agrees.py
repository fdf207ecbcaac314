"""What a command or a confirmation lets serve, the watch leaves open while the other region stays as it was seen.

Both judge by the same nodes, each by rules of its own (region.py, region_promotion.py, region_adopt.py): here all that
three nodes can show, two alike and one of another kind, is held against both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from holdfast.guard import FENCED, MEMBER, PROMOTED, RECOVERING, VOTING, Guard
from holdfast.region import RegionRefused, Status, may_confirm, served_by, to_close, to_unfence
from holdfast.region_adopt import PutBack, adopt_plan
from holdfast.region_promotion import promote_plan

NAMES = ("a", "b", "c")
EPOCHS = (1, 2, 3)
MOMENT = "2026-05-01T10:00:00Z"
#: (role, state, epoch, state before the fence, epoch before the fence)
Kind = tuple[str, str, int, str, int]
OPEN: list[Kind] = [("primary", s, e, "", 0) for s in (MEMBER, RECOVERING) for e in EPOCHS]
SERVED: list[Kind] = [("primary", FENCED, e, MEMBER, before) for e in EPOCHS for before in EPOCHS if before <= e]
CLOSED = SERVED + [("primary", FENCED, e, RECOVERING, before) for _, _, e, _, before in SERVED]
COPIES: list[Kind] = [("replica", MEMBER, 1, "", 0)]
NOTHING: list[Kind] = [("away", "", 0, "", 0), ("primary", "", 0, "", 0)]


def status(node: str, region: str, kind: Kind, **more: object) -> Status:
    role, state, epoch, was, before = kind
    if role == "away":
        return Status(False, "connect")
    # A standby's node is a copy of the other region's.
    owner = region if role == "primary" else "east" if region == "west" else "west"
    guard = Guard(state, owner, node, epoch, 1, f"inc-{node}") if state else None
    made = Status(True, role=role, guard=guard, run_id="run", fenced_from=was, fenced_epoch=before or None)
    return replace(made, **more)  # type: ignore[arg-type]


def regions(region: str, kinds: list[Kind]) -> Iterator[dict[str, Status]]:
    for two, one in product(kinds, kinds):
        yield {n: status(n, region, k) for n, k in zip(NAMES, (two, two, one), strict=True)}


EAST = list(regions("east", OPEN + CLOSED + COPIES + NOTHING))
WEST = list(regions("west", OPEN + CLOSED + COPIES + NOTHING))


def closes(own: dict[str, Status], peers: dict[str, Status], region: str) -> bool:
    """What RegionWatch does with ``own``, at once or after a while."""
    epoch, _who = served_by(peers, region)
    votes = max((s.guard.region_epoch for s in own.values() if s.guard and s.guard.state in VOTING), default=0)
    at_the_same = epoch if epoch == votes else 0
    return any(g.state in VOTING for g, _ in to_close(own, region, epoch, at_the_same).values())


def voting(own: dict[str, Status], region: str, epoch: int) -> dict[str, Status]:
    return {n: replace(s, guard=Guard(PROMOTED, region, n, epoch, 1, "new")) for n, s in own.items() if s.reachable}


@pytest.mark.parametrize("confirmed", [False, True])
def test_unfence(confirmed: bool) -> None:
    done = 0
    for own, peers in product(regions("west", SERVED), EAST):
        epoch = max(s.guard.region_epoch for s in own.values() if s.guard)
        try:
            moves = to_unfence(own, peers, "west", epoch, confirmed)
        except RegionRefused:
            continue
        after = own | {n: replace(own[n], guard=g) for n, (_, g) in moves.items()}
        done += 1
        assert not closes(after, peers, "west"), (own, peers)
    assert done > 100


def test_promotion() -> None:
    done = 0
    for kind, peers, epoch in product(OPEN + CLOSED, WEST, (*EPOCHS, 4)):
        copies = {n: status(n, "west", kind) for n in NAMES}
        try:
            promote_plan(copies, peers, frozenset(), "east", epoch, 60.0)
        except RegionRefused:
            continue
        done += 1
        assert not closes(voting(copies, "east", epoch), peers, "east"), (copies, peers, epoch)
        assert all(s.served_at < epoch for s in copies.values()), "what they hold is of before"
    assert done > 100


@pytest.mark.parametrize("confirmed", [False, True])
def test_adoption(confirmed: bool) -> None:
    done = 0
    for peers, epoch in product(EAST, (*EPOCHS, 4)):
        own = {n: status(n, "west", ("primary", RECOVERING, 1, "", 0), restored_to=MOMENT) for n in NAMES}
        try:
            adopt_plan(own, peers, frozenset(), "west", epoch, PutBack(MOMENT), 60.0, confirmed)
        except RegionRefused:
            continue
        done += 1
        assert not closes(voting(own, "west", epoch), peers, "west"), (peers, epoch)
    assert done > 10


@pytest.mark.parametrize("waiting", [NAMES, ("a",)])
def test_confirmation(waiting: tuple[str, ...]) -> None:
    done = 0
    for epoch, peers in product(EPOCHS, EAST):
        own = {
            n: status(n, "west", ("primary", MEMBER, epoch, "", 0), confirmed="" if n in waiting else "run")
            for n in NAMES
        }
        if may_confirm("a", own, peers, "west"):
            done += 1
            assert not closes(own, peers, "west"), (own, peers)
    assert done > 10

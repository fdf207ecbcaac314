from __future__ import annotations

import pytest

from holdfast.multiprimary import Next, Position, between, judge, staleness, trim_point, unmet, worst
from holdfast.sessions import Session

NODES = ("a", "b", "c")


def test_position_round_trip() -> None:
    for position in (Position("inc", 7, 1234), Position("inc", 0, None)):
        assert Position.parse(str(position)) == position
    assert Position.parse("") is None
    assert Position.parse("inc x 1") is None


def test_staleness_is_lag_and_unknown_is_not_zero() -> None:
    peers = {"b": Position("i", 1, 900), "c": Position("i", 1, None)}
    lags = staleness("a", NODES, peers, 1000)
    assert lags == {"b": 100, "c": None}
    assert worst(lags) is None
    assert worst({"b": 100, "c": 5}) == 100
    assert worst({}) == 0
    assert staleness("a", NODES, {"b": Position("i", 1, 2000)}, 1000)["b"] is None, "the clock went back"


@pytest.mark.parametrize(
    ("cursor", "incarnation", "head", "sequences", "expected"),
    [
        (None, "i", 0, [], Next.FULL_MERGE),
        (Position("i", 5, 1), "i", 5, [], Next.IDLE),
        (Position("i", 5, 1), "i", 7, [6, 7], Next.APPLY),
        (Position("i", 5, 1), "new", 7, [6, 7], Next.FULL_MERGE),
        (Position("i", 5, 1), "i", 9, [8, 9], Next.FULL_MERGE),
        (Position("i", 5, 1), "i", 8, [6, 8], Next.FULL_MERGE),
        (Position("i", 5, 1), "i", 4, [], Next.FULL_MERGE),
        (Position("i", 5, 1), "i", 7, [], Next.FULL_MERGE),
    ],
)
def test_judge(cursor: Position | None, incarnation: str, head: int, sequences: list[int], expected: Next) -> None:
    assert judge(cursor, incarnation, head, sequences) is expected


def test_trim_only_behind_the_slowest_known_peer() -> None:
    assert trim_point("i", [Position("i", 9, 1), Position("i", 4, 1)]) == 4
    assert trim_point("i", [Position("i", 9, 1), None]) == 0
    assert trim_point("i", [Position("i", 9, 1), Position("old", 99, 1)]) == 0
    assert trim_point("i", []) == 0


def test_unmet_session_writes() -> None:
    session = Session({"a": ("ia", 3), "b": ("ib", 5)})
    peers = {"b": Position("ib", 5, 1)}
    assert unmet(session, "a", "ia", 3, peers) == set()
    assert unmet(session, "a", "ia", 2, peers) == {"a"}
    assert unmet(session, "a", "new", 9, peers) == {"a"}
    assert unmet(session, "c", "ic", 0, peers) == {"a"}
    assert unmet(session, "a", "ia", 3, {"b": Position("dead", 9, 1)}) == {"b"}


def test_a_batch_told_by_its_ends_and_count_is_judged_like_its_numbers() -> None:
    cursor = Position("i", 4, None)
    assert judge(cursor, "i", 9, between(5, 7, 3)) is Next.APPLY
    assert judge(cursor, "i", 9, between(5, 8, 3)) is Next.FULL_MERGE, "one is missing in between"
    assert judge(cursor, "i", 9, between(6, 8, 3)) is Next.FULL_MERGE, "the first is missing"
    assert judge(cursor, "i", 9, between(5, 5, 1)) is Next.APPLY
    assert judge(cursor, "i", 9, between(5, 9, 2)) is Next.FULL_MERGE

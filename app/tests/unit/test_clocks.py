"""Whose clock is bad."""

from __future__ import annotations

import time
from typing import Any

import pytest

from holdfast import clock_watch, clocks
from holdfast.clock_watch import ClockWatch
from holdfast.clocks import Reading, good, offset, reading
from holdfast.link import Answer

DRIFT = 500


def at(**ahead: float) -> dict[str, Reading]:
    return {n: Reading(a, 2) for n, a in ahead.items()}


@pytest.mark.parametrize("asker", [-5000, 0, 12345])
def test_the_askers_own_clock_cancels_out(asker: int) -> None:
    assert offset("n1", at(n1=1000 - asker, n2=-asker, n3=-asker), DRIFT) == 1000
    assert offset("n2", at(n1=1000 - asker, n2=-asker, n3=10 - asker), DRIFT) is None, "the others disagree"


def test_a_reading_is_taken_in_the_middle_of_the_round_trip() -> None:
    assert reading(100, 110, 1105) == Reading(1000, 10)


def test_who_cannot_be_judged() -> None:
    assert offset("n1", at(n1=9000, n2=0), DRIFT) is None, "one other clock proves nothing"
    assert offset("n1", at(n2=0, n3=0), DRIFT) is None, "it did not answer"
    slow = at(n1=9000, n2=0) | {"n3": Reading(0, 400)}
    assert offset("n1", slow, DRIFT) is None, "a slow reading says too little"
    assert offset("n1", at(n1=0, n2=-4000, n3=4000), DRIFT) is None
    assert offset("n1", at(n1=0, n2=0, n3=1, n4=4000, n5=4001), DRIFT) is None, "two against two"


def test_one_bad_clock_among_the_others_does_not_count() -> None:
    assert offset("n1", at(n1=3, n2=0, n3=0, n4=0, n5=9000), DRIFT) == 3
    assert offset("n5", at(n1=3, n2=0, n3=0, n4=0, n5=9000), DRIFT) == 9000


def test_judgement_has_hysteresis_and_trusts_what_it_cannot_judge() -> None:
    assert good(True, 400, DRIFT)
    assert not good(True, 401, DRIFT)
    assert not good(True, -401, DRIFT)
    assert not good(False, 300, DRIFT)
    assert good(False, 250, DRIFT)
    assert good(False, None, DRIFT)
    assert clocks.AGAIN < clocks.LIMIT < 1


class Nodes:
    names = ("n1", "n2", "n3")

    def send(self, _node: str, _script: Any, _keys: Any, _args: Any, _deadline: float, done: Any) -> None:
        done(Answer([b"1000"]))


def test_the_first_look_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to a node whose clock was never read is not limited."""
    monkeypatch.setattr(clock_watch, "PERIOD_SEC", 600.0)
    watch = ClockWatch(Nodes(), 1.0, DRIFT, lambda _name, _fields: None)  # type: ignore[arg-type]
    assert watch.latest("n1", time.monotonic()) is None
    watch.start()
    try:
        until = time.monotonic() + 5
        while watch.latest("n1", time.monotonic()) is None and time.monotonic() < until:
            time.sleep(0.01)
        assert watch.latest("n1", time.monotonic()) is not None
    finally:
        watch.stop()

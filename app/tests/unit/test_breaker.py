from __future__ import annotations

import pytest

from holdfast.breaker import Breaker, State


def make(changes: list[tuple[State, State]] | None = None) -> Breaker:
    seen = changes if changes is not None else []
    return Breaker(5, 10, 2, 0.0, lambda old, new, _why: seen.append((old, new)))


def test_opens_when_every_second_call_fails() -> None:
    breaker = make()
    for i in range(10):
        assert breaker.state is State.CLOSED
        breaker.record(i % 2 == 0, i * 0.1, "timeout")
    assert breaker.state is State.OPEN
    assert not breaker.allows()


def test_stays_closed_below_the_threshold_and_below_half() -> None:
    few = make()
    for i in range(4):
        few.record(False, i * 0.1)
    assert few.state is State.CLOSED
    mostly_fine = make()
    for i in range(100):
        mostly_fine.record(i % 3 != 0, i * 0.01)
    assert mostly_fine.state is State.CLOSED


def test_forgets_what_left_the_window() -> None:
    breaker = make()
    for i in range(4):
        breaker.record(False, float(i))
    breaker.record(False, 12.5)
    assert breaker.state is State.CLOSED
    assert breaker.status(12.5).failures == 2


def test_one_trial_per_probe_interval_decides() -> None:
    changes: list[tuple[State, State]] = []
    breaker = make(changes)
    for _ in range(5):
        breaker.record(False, 1.0, "timeout")
    assert not breaker.take_trial(2.9)
    assert breaker.take_trial(3.0)
    assert breaker.state is State.HALF_OPEN
    assert not breaker.take_trial(3.0), "one trial at a time"
    assert not breaker.allows(), "traffic is not the trial"
    breaker.record_trial(False, 3.1, "timeout")
    assert breaker.state is State.OPEN
    assert breaker.status(3.1).next_probe == 5.1
    assert breaker.take_trial(5.2)
    breaker.record_trial(True, 5.3)
    assert breaker.state is State.CLOSED
    assert breaker.status(5.3).calls == 0
    assert changes == [
        (State.CLOSED, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.CLOSED),
    ]


def test_late_outcomes_of_ordinary_calls_do_not_move_an_open_breaker() -> None:
    breaker = make()
    for _ in range(5):
        breaker.record(False, 1.0)
    breaker.record(True, 1.1)
    breaker.record_trial(True, 1.2)
    assert breaker.state is State.OPEN


def test_forced_open_sends_nothing_until_its_time_is_over() -> None:
    breaker = make()
    breaker.force(State.OPEN, 1.0, 11.0)
    assert (breaker.state, breaker.allows()) == (State.OPEN, False)
    assert breaker.status(5.0).since == 1.0
    assert breaker.status(5.0).forced
    assert not breaker.take_trial(9.0), "no trial either"
    breaker.expire(10.9)
    assert not breaker.allows()
    breaker.expire(11.0)
    assert (breaker.state, breaker.allows(), breaker.status(11.0).forced) == (State.CLOSED, True, False)


def test_forced_closed_lets_failing_calls_through_and_goes_back_to_its_own_state() -> None:
    changes: list[tuple[State, State]] = []
    breaker = make(changes)
    breaker.force(State.CLOSED, 0.0, 60.0)
    for i in range(20):
        breaker.record(False, i * 0.1, "timeout")
        assert breaker.allows()
    assert changes == [(State.CLOSED, State.OPEN)], "underneath it opened"
    assert breaker.take_trial(10.0), "and goes on trying"
    breaker.record_trial(False, 10.1, "timeout")
    breaker.expire(60.0)
    assert (breaker.state, breaker.allows()) == (State.OPEN, False)


def test_released_after_forced_open_it_tries_at_once() -> None:
    breaker = make()
    for _ in range(5):
        breaker.record(False, 1.0)
    breaker.force(State.OPEN, 1.5, 100.0)
    breaker.release(50.0)
    assert breaker.take_trial(50.0)
    breaker.force(State.CLOSED, 50.0, 60.0)
    breaker.force(State.OPEN, 51.0, 52.0)
    breaker.expire(52.0)
    assert breaker.state is State.HALF_OPEN, "the newer force held, and ended"
    with pytest.raises(ValueError, match="OPEN or CLOSED"):
        breaker.force(State.HALF_OPEN, 1.0, 2.0)

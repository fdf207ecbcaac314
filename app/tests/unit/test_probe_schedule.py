"""The open-loop schedule, the watch over own stalls, and the addresses behind a name."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from holdfast.probe.names import Names
from holdfast.probe.schedule import LATE_SEC, Schedule, StallWatch, Stream

T = TypeVar("T")


class Clock(selectors.SelectSelector):
    """Time that goes on only where an event loop waits, or where a test says so; no stall of the machine is in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now, self.wall_ahead = 500.0, 1_780_000_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now + self.wall_ahead)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self)) as runner:
            return runner.run(scenario)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_due_times_are_fixed_and_a_missed_one_is_late_not_left_out(clock: Clock) -> None:
    started: list[tuple[float, bool]] = []

    async def scenario() -> float:
        first = time.monotonic() + 0.05

        def start(due: float, late: bool) -> None:
            started.append((due, late))
            if len(started) == 5:
                clock.now += 0.4

        await Schedule([Stream(first, 50.0, 40, start)]).run()
        return first

    first = clock.run(scenario())
    assert [round(due - first, 6) for due, _ in started] == [round(i / 50, 6) for i in range(40)]
    late = [i for i, (_, late) in enumerate(started) if late]
    # Due 5 to 24 passed during the stall; those of its last tenth could still be started in time.
    assert late == list(range(5, 5 + len(late)))
    assert 0.4 - LATE_SEC - 0.03 < len(late) / 50 < 0.4 - LATE_SEC + 0.03


def test_streams_are_independent_and_stop_ends_them(clock: Clock) -> None:
    counts = [0, 0]

    async def scenario() -> None:
        def count(number: int) -> Stream:
            def start(_due: float, _late: bool) -> None:
                counts[number] += 1

            return Stream(time.monotonic(), (100.0, 20.0)[number], None, start)

        schedule = Schedule([count(0), count(1)])
        asyncio.get_running_loop().call_later(0.5, schedule.stop)
        await schedule.run()

    clock.run(scenario())
    assert 49 <= counts[0] <= 51
    assert 9 <= counts[1] <= 11


def test_a_stall_is_seen_and_its_absence_too(clock: Clock) -> None:
    stalls: list[tuple[float, float, float]] = []

    async def scenario(block: float) -> None:
        watch = StallWatch(lambda start, end, jump: stalls.append((start, end, jump)))
        watch.start()
        await asyncio.sleep(0.1)
        clock.now += block
        await asyncio.sleep(0.05)
        watch.stop()

    before = time.monotonic()
    clock.run(scenario(0.5))
    [(start, end, jump)] = stalls
    assert before < start < end < time.monotonic()
    assert end - start == pytest.approx(0.5, abs=0.03)
    assert jump == pytest.approx(0, abs=1e-3)


def test_no_stall_is_seen_where_there_was_none(clock: Clock) -> None:
    stalls: list[tuple[float, float, float]] = []

    async def scenario() -> None:
        watch = StallWatch(lambda start, end, jump: stalls.append((start, end, jump)))
        watch.start()
        await asyncio.sleep(0.5)
        watch.stop()

    clock.run(scenario())
    assert stalls == []


def test_a_step_of_the_wall_clock_is_reported(clock: Clock) -> None:
    stalls: list[tuple[float, float, float]] = []

    async def scenario() -> None:
        watch = StallWatch(lambda start, end, jump: stalls.append((start, end, jump)))
        watch.start()
        clock.wall_ahead += 30
        await asyncio.sleep(0.1)
        watch.stop()

    clock.run(scenario())
    assert [jump for _, _, jump in stalls] == [pytest.approx(30)]


def test_names_are_looked_up_again_within_a_second_or_so() -> None:
    answers: list[list[str] | None] = [["127.0.0.1"], ["127.0.0.1"], None, ["127.0.0.2"]]
    moves: list[list[str]] = []
    asked: list[float] = []

    def lookup(host: str, port: int) -> list[str]:
        assert (host, port) == ("kv.example", 1)
        asked.append(time.monotonic())
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            raise OSError("no such name")
        return answer

    async def scenario() -> None:
        names = Names("kv.example", 1, lambda: moves.append(list(names.current)), lookup)
        names.start()
        for expected in (["127.0.0.1"], [], ["127.0.0.2"]):  # a name that cannot be resolved has no address
            async with asyncio.timeout(60):
                while await names.addresses() != expected:
                    await asyncio.sleep(0.01)
        names.stop()

    asyncio.run(scenario())
    assert moves == [["127.0.0.1"], ["127.0.0.2"]], "a failed lookup moves nobody"
    assert 0.9 < min(later - earlier for earlier, later in pairwise(asked)) < 1.3, "a busy machine only adds to it"

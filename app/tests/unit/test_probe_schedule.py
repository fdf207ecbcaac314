"""The open-loop schedule, the watch over own stalls, and the addresses behind a name."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from holdfast.probe.names import Names
from holdfast.probe.schedule import LATE_SEC, Schedule, StallWatch, Stream


def test_due_times_are_fixed_and_a_missed_one_is_late_not_left_out() -> None:
    started: list[tuple[float, bool]] = []

    async def scenario() -> float:
        first = time.monotonic() + 0.05

        def start(due: float, late: bool) -> None:
            started.append((due, late))
            if len(started) == 5:
                time.sleep(0.4)

        await Schedule([Stream(first, 50.0, 40, start)]).run()
        return first

    first = asyncio.run(scenario())
    assert [round(due - first, 6) for due, _ in started] == [round(i / 50, 6) for i in range(40)]
    late = [i for i, (_, late) in enumerate(started) if late]
    # Due 5 to about 19 passed during the stall; those of its last tenth could still be started in time.
    assert late == list(range(5, 5 + len(late)))
    assert 0.4 - LATE_SEC - 0.08 < len(late) / 50 < 0.4


def test_streams_are_independent_and_stop_ends_them() -> None:
    counts = [0, 0]

    async def scenario() -> None:
        def count(number: int) -> Stream:
            def start(_due: float, _late: bool) -> None:
                counts[number] += 1

            return Stream(time.monotonic(), (100.0, 20.0)[number], None, start)

        schedule = Schedule([count(0), count(1)])
        asyncio.get_running_loop().call_later(0.5, schedule.stop)
        await schedule.run()

    asyncio.run(scenario())
    assert 45 <= counts[0] <= 52
    assert 9 <= counts[1] <= 11


def test_a_stall_is_seen_and_its_absence_too() -> None:
    stalls: list[tuple[float, float, float]] = []

    async def scenario(block: float) -> None:
        watch = StallWatch(lambda start, end, jump: stalls.append((start, end, jump)))
        watch.start()
        await asyncio.sleep(0.1)
        time.sleep(block)
        await asyncio.sleep(0.05)
        watch.stop()

    before = time.monotonic()
    asyncio.run(scenario(0.5))
    longest = max(stalls, key=lambda s: s[1] - s[0])
    assert before < longest[0] < longest[1] < time.monotonic()
    assert 0.45 < longest[1] - longest[0] < 0.8
    stalls.clear()
    asyncio.run(scenario(0.0))
    assert all(end - start < 0.3 for start, end, _ in stalls), "nothing like the stall above"


def test_a_step_of_the_wall_clock_is_reported() -> None:
    stalls: list[tuple[float, float, float]] = []

    async def scenario() -> None:
        watch = StallWatch(lambda start, end, jump: stalls.append((start, end, jump)))
        watch.start()
        watch._offset -= 30  # as if the wall clock had gone on by 30 s while the monotonic one stood still
        await asyncio.sleep(0.1)
        watch.stop()

    asyncio.run(scenario())
    assert any(29 < jump < 31 for _, _, jump in stalls)


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
        assert await names.addresses() == ["127.0.0.1"]
        await asyncio.sleep(2.3)
        assert await names.addresses() == [], "a name that cannot be resolved has no address"
        await asyncio.sleep(1.0)
        assert await names.addresses() == ["127.0.0.2"]
        names.stop()

    asyncio.run(scenario())
    assert moves == [["127.0.0.1"], ["127.0.0.2"]], "a failed lookup moves nobody"
    assert all(later - earlier < 1.3 for earlier, later in pairwise(asked))

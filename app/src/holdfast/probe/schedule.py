"""The open-loop schedule and the watch over the probe's own stalls."""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

#: A request that could not be started this long after its due time is not started at all: it is ``unsent``.
LATE_SEC = 0.1
TICK_SEC = 0.025
#: The event loop was late by more than this: a stall of the probe (its own work, the collector, the machine).
STALL_SEC = 0.05
NORMAL, REALTIME = "normal", "realtime"


def precedence() -> str:
    """Lets this process run as soon as it has something to do, whatever else waits for a processor: where service and
    probe share a machine, the probe would measure its own waiting. Returns which of both the process has now; only
    root, or CAP_SYS_NICE, is given it. See sched(7)."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return NORMAL
    return REALTIME


@dataclass(frozen=True, slots=True)
class Stream:
    """One paced sequence. Request i (from 0) is due at ``first + i / rate``; ``count`` None never ends."""

    first: float
    rate: float
    count: int | None
    start: Callable[[float, bool], None]  # (due, late)

    def due(self, index: int) -> float:
        return self.first + index / self.rate


class Schedule:
    """Starts every request of all streams at its due time. Due times are fixed in advance: nothing an answer does moves
    them, and a request whose time was missed is handed over as late, never left out."""

    def __init__(self, streams: list[Stream]) -> None:
        self._streams = streams
        self._heap = [(s.due(0), i, 0) for i, s in enumerate(streams) if s.count is None or s.count > 0]
        heapq.heapify(self._heap)
        self._handle: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until the streams have ended or ``stop`` is called."""
        self._turn()
        await self._done

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if not self._done.done():
            self._done.set_result(None)

    def _turn(self) -> None:
        if self._done.done():
            return
        while self._heap and self._heap[0][0] <= (now := time.monotonic()):
            due, number, index = self._heap[0]
            stream = self._streams[number]
            if stream.count is None or index + 1 < stream.count:
                heapq.heapreplace(self._heap, (stream.due(index + 1), number, index + 1))
            else:
                heapq.heappop(self._heap)
            stream.start(due, now - due > LATE_SEC)
        if self._heap:
            self._handle = asyncio.get_running_loop().call_at(self._heap[0][0], self._turn)
        else:
            self.stop()


class StallWatch:
    """Calls ``report(start, end, wall_jump)`` (monotonic seconds) after each stall of the event loop.

    ``wall_jump`` is how much further the wall clock went than the monotonic one: a step of the clock, or a suspended
    machine, whose monotonic clock stood still. A jump alone is reported too.
    """

    def __init__(self, report: Callable[[float, float, float], None]) -> None:
        self._report = report
        self._offset = time.time() - time.monotonic()
        self._expected = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._expected = time.monotonic() + TICK_SEC
        self._handle = asyncio.get_running_loop().call_at(self._expected, self._tick)

    def stop(self) -> None:
        """Looks once more, so that a stall at the very end is not lost."""
        if self._handle is not None:
            self._handle.cancel()
            self._look()

    def _tick(self) -> None:
        self._look()
        self.start()

    def _look(self) -> None:
        now = time.monotonic()
        offset = time.time() - now
        jump, self._offset = offset - self._offset, offset
        if now - self._expected > STALL_SEC or abs(jump) > STALL_SEC:
            self._report(min(self._expected, now), now, jump)

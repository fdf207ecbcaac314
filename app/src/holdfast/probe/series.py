"""Small measures of the report: availability by second, gaps, covered time, latencies. Pure, bounded memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

_STEP = math.log(1.01)


@dataclass(slots=True)
class PerSecond:
    """Requests by the second in which they were due. *offered* leaves out unsent ones: the service never saw them."""

    offered: dict[int, int] = field(default_factory=dict)
    accepted: dict[int, int] = field(default_factory=dict)
    unsent: dict[int, int] = field(default_factory=dict)

    def add(self, second: int, outcome: str, good: bool) -> None:
        into = self.unsent if outcome == "unsent" else self.offered
        into[second] = into.get(second, 0) + 1
        if good:
            self.accepted[second] = self.accepted.get(second, 0) + 1

    def availability(self) -> float | None:
        """accepted / offered over the whole run, None if nothing was offered."""
        offered = sum(self.offered.values())
        return sum(self.accepted.values()) / offered if offered else None

    def seconds_below_full(self) -> int:
        """Seconds with at least one offered request that was not accepted."""
        return sum(self.accepted.get(s, 0) < n for s, n in self.offered.items())

    def rows(self) -> list[list[int]]:
        """[second, offered, accepted, unsent], for every second in which something was due."""
        seconds = sorted(self.offered.keys() | self.unsent.keys())
        return [[s, self.offered.get(s, 0), self.accepted.get(s, 0), self.unsent.get(s, 0)] for s in seconds]


@dataclass(slots=True)
class Latencies:
    """Milliseconds in logarithmic buckets of 1 %: percentiles are right within 1 %, the maximum exactly."""

    buckets: dict[int, int] = field(default_factory=dict)
    count: int = 0
    largest: float = 0.0

    def add(self, milliseconds: float) -> None:
        number = math.ceil(math.log(max(milliseconds, 0.001)) / _STEP)
        self.buckets[number] = self.buckets.get(number, 0) + 1
        self.count += 1
        self.largest = max(self.largest, milliseconds)

    def percentile(self, share: float) -> float | None:
        """The smallest bucket's upper end that at least ``share`` of all are not above (nearest rank)."""
        need = math.ceil(self.count * share)
        for number in sorted(self.buckets):
            need -= self.buckets[number]
            if need <= 0:
                return min(math.exp(number * _STEP), self.largest)
        return None

    def as_json(self) -> dict[str, float | int | None]:
        def shown(value: float | None) -> float | None:
            return None if value is None else round(value, 3)

        return {
            "count": self.count,
            "p50": shown(self.percentile(0.5)),
            "p90": shown(self.percentile(0.9)),
            "p99": shown(self.percentile(0.99)),
            "max": shown(self.largest) if self.count else None,
        }


@dataclass(frozen=True, slots=True)
class Gap:
    """Monotonic seconds. ``open``: it lasted until the end of the run, so it is a lower bound."""

    start: float
    end: float
    open: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start


def longest_gap(times: Iterable[float], start: float, end: float) -> Gap | None:
    """The longest time without an event between ``start`` and ``end``. Both ends count: from ``start`` to the first
    event, and from the last event to ``end``. None if start is not before end."""
    if start >= end:
        return None
    longest, previous = Gap(start, start, False), start
    for at in sorted(t for t in times if start < t <= end):
        if at - previous > longest.seconds:
            longest = Gap(previous, at, False)
        previous = at
    return Gap(previous, end, True) if end - previous > longest.seconds else longest


@dataclass(slots=True)
class Covered:
    """Intervals in monotonic seconds, in any order."""

    starts: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))

    def add(self, start: float, end: float) -> None:
        self.starts.append(start)
        self.ends.append(end)

    def merged(self) -> list[tuple[float, float]]:
        """Sorted, without overlaps."""
        result: list[tuple[float, float]] = []
        for start, end in sorted(zip(self.starts, self.ends, strict=True)):
            if result and start <= result[-1][1]:
                result[-1] = (result[-1][0], max(result[-1][1], end))
            else:
                result.append((start, end))
        return result

    def seconds(self, start: float = -math.inf, end: float = math.inf) -> float:
        """How much of the time from ``start`` to ``end`` is covered."""
        return sum(max(0.0, min(e, end) - max(s, start)) for s, e in self.merged())

    def overlapping(self, other: Covered) -> int:
        """How many of these intervals touch one of ``other``."""
        theirs, count, position = other.merged(), 0, 0
        for start, end in sorted(zip(self.starts, self.ends, strict=True)):
            while position < len(theirs) and theirs[position][1] < start:
                position += 1
            count += position < len(theirs) and theirs[position][0] <= end
        return count

"""The simulated world's clock, network and randomness. One seed gives one history, always the same."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any


class Shot:
    """One injected fault, until it has hit something: injected alone, it proves nothing."""

    def __init__(self, kind: str, what: tuple[Any, ...]) -> None:
        self.kind, self.what, self.counted = kind, what, False


class Events:
    """Times are in units of about ten milliseconds."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.faults: Counter[str] = Counter()
        self._armed: dict[tuple[str, Any], Shot] = {}
        self.seen: Counter[str] = Counter()
        #: (key, tag) of each collected tombstone and when the first node dropped it.
        self.dropped: dict[tuple[str, str], float] = {}
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._trace = trace

    def at(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, action, args))

    def run(self, until: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, action, args = heapq.heappop(queue)
            action(*args)
        self.now = max(self.now, until)

    def fault(self, kind: str, *what: Any) -> None:
        """A fault that took effect."""
        self.faults[kind] += 1
        if self._trace:
            self.note("FAULT", kind, *what)

    def arm(self, kind: str, subjects: Iterable[Any], *what: Any) -> None:
        """A fault that waits for something to disturb: it counts once ``hit`` names one of its subjects."""
        shot = Shot(kind, what)
        for subject in subjects:
            self._armed[kind, subject] = shot
        if self._trace:
            self.note("begins", kind, *what)

    def hit(self, kind: str, subject: Any) -> None:
        shot = self._armed.pop((kind, subject), None)
        if shot is not None and not shot.counted:
            shot.counted = True
            self.fault(kind, *shot.what)

    def count(self, kind: str) -> None:
        """Something that is no fault but must happen in enough seeds."""
        self.seen[kind] += 1

    def note(self, *what: Any) -> None:
        if self._trace:
            print(f"{self.now:9.2f}", *what)


class Network:
    """Delays, loss, reordering, repeats, partitions and slow nodes between processes and nodes."""

    def __init__(self, events: Events) -> None:
        self._events = events
        rnd = events.random
        self.loss = rnd.choice((0.0, 0.02, 0.06))
        self.slow = rnd.choice((0.05, 0.15, 0.3))
        self.cut: set[tuple[str, str]] = set()
        self.lagging: set[str] = set()
        self.quiet = False

    def carry(self, process: str, node: str, action: Callable[..., None], *args: Any) -> None:
        """One message between the two, in either direction; perhaps never."""
        events = self._events
        rnd = events.random
        if self.quiet:
            if (process, node) not in self.cut:
                events.at(rnd.uniform(0.5, 2), action, *args)
            return
        if (process, node) in self.cut:
            events.fault("message cut")
            events.hit("partition", (process, node))
            return
        draw = rnd.random()
        if draw < self.loss:
            events.fault("message lost")
            return
        fast = process.startswith(("repair", "collect"))
        if draw > 1 - self.slow and not (fast and draw < 0.99):
            events.fault("message slow")
            events.at(rnd.uniform(10, 70), action, *args)
        elif node in self.lagging:
            events.fault("message to a lagging node")
            events.hit("lag", node)
            events.at(rnd.uniform(5, 25), action, *args)
        else:
            events.at(rnd.uniform(0.1, 0.8) if fast else rnd.uniform(0.5, 3), action, *args)

"""The simulated world's clock, network and randomness. One seed gives one history, always the same."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any


class Events:
    """Times are in units of about ten milliseconds."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.faults: Counter[str] = Counter()
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
            return
        draw = rnd.random()
        if draw < self.loss:
            events.fault("message lost")
            return
        fast = process.startswith("repair")
        if draw > 1 - self.slow and not (fast and draw < 0.99):
            events.fault("message slow")
            events.at(rnd.uniform(10, 70), action, *args)
        elif node in self.lagging:
            events.fault("message to a lagging node")
            events.at(rnd.uniform(5, 25), action, *args)
        else:
            events.at(rnd.uniform(0.1, 0.8) if fast else rnd.uniform(0.5, 3), action, *args)

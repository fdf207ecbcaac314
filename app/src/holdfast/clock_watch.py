"""Watches the clocks of all nodes for an AP instance: they mint the versions. A bad one is written to only as a last
resort."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from . import clocks, scripts
from .link import Answer
from .logs import LOG, event
from .metrics import Metrics
from .nodes import Nodes, Result

PERIOD_SEC = 1.0


class ClockWatch:
    """``notify(event name, fields)`` receives CLOCK_BAD and CLOCK_GOOD for the audit log."""

    def __init__(
        self, nodes: Nodes, timeout_sec: float, drift_ms: int, notify: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._nodes, self._timeout, self._drift, self._notify = nodes, timeout_sec, drift_ms, notify
        self._offsets: dict[str, float | None] = dict.fromkeys(nodes.names)
        self._good = dict.fromkeys(nodes.names, True)
        self._readings: dict[str, clocks.Reading] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clocks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def order(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """The same nodes, those with a good clock first; unchanged when all are alike."""
        good = self._good
        return tuple(sorted(nodes, key=lambda n: not good[n]))

    def latest(self, node: str, until: float) -> int | None:
        """What the node's clock shows at ``until`` (seconds, monotonic), in ms; None if it was never read.

        Late by at most half the round trip of the last reading, and by how far the clock was set since, a second ago.
        """
        reading = self._readings.get(node)
        return None if reading is None else clocks.shown(reading, until * 1000)

    def look(self) -> None:
        """Read all clocks at once and judge each by the others."""
        box: queue.SimpleQueue[tuple[str, clocks.Reading | None]] = queue.SimpleQueue()
        started = time.monotonic()
        for name in self._nodes.names:
            self._nodes.send(name, scripts.CLOCK_READ, [], [], started + self._timeout, self._timed(name, box.put))
        readings: dict[str, clocks.Reading] = {}
        for _name in self._nodes.names:
            try:
                name, reading = box.get(timeout=max(0.001, started + self._timeout - time.monotonic()))
            except queue.Empty:
                break
            if reading is not None:
                readings[name] = reading
        self._readings = {**self._readings, **readings}
        offsets = {n: clocks.offset(n, readings, self._drift) for n in self._nodes.names}
        before = self._good
        self._good = {n: clocks.good(before[n], offsets[n], self._drift) for n in self._nodes.names}
        self._offsets = offsets
        for name, is_good in self._good.items():
            if is_good != before[name]:
                ahead = offsets[name]
                fields = {"node": name, "ahead_ms": None if ahead is None else round(ahead)}
                event(LOG, 20 if is_good else 40, "CLOCK_GOOD" if is_good else "CLOCK_BAD", **fields)
                self._notify("CLOCK_GOOD" if is_good else "CLOCK_BAD", fields)

    def expose(self, metrics: Metrics) -> None:
        metrics.per_node(
            "node_clock_offset_ms",
            "The node's clock ahead of the majority of the others'; NaN if it cannot be judged.",
            lambda: {n: math.nan if a is None else a for n, a in self._offsets.items()},
        )
        metrics.per_node(
            "node_clock_good",
            "0 if the node's clock is known to be bad: AP writes then go to another zone's node.",
            lambda: {n: float(g) for n, g in self._good.items()},
        )

    @staticmethod
    def _timed(name: str, put: Callable[[tuple[str, clocks.Reading | None]], None]) -> Callable[[Result], None]:
        sent = time.monotonic() * 1000

        def done(result: Result) -> None:
            received = time.monotonic() * 1000
            put((name, clocks.reading(sent, received, float(result.value[0])) if isinstance(result, Answer) else None))

        return done

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:
                LOG.exception("CLOCK_WATCH_ERROR")
            self._stop.wait(PERIOD_SEC)

"""Drives ap_collect.py in `holdfast replicate`: scans the nodes for old AP tombstones, page by page, one node a pass.

One in the region: of the replicators that hold their zone's lease, the one that holds the collector's lease, which is
kept on the node whose name comes first (all nodes are needed anyway). The lease only saves work. At most one page of
tombstones is looked up and removed at a time, with a rest after each.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter

from . import scripts
from .ap_collect import (
    Collected,
    Collecting,
    Done,
    Drop,
    Failed,
    Look,
    Looked,
    Mark,
    Reason,
    Round,
    Step,
    Told,
    collect,
)
from .ap_marks import Marks
from .ap_service import parse_peers
from .link import Answer
from .logs import LOG, event
from .metrics import Metrics
from .nodes import Nodes, Refused, Result
from .settings import Settings
from .tombstones import TombstoneCollector

PAGE_KEYS = 200
#: Between two pages, and the longest time between two passes.
PAGE_PAUSE_SEC, PASS_PAUSE_SEC = 0.05, 60.0
LEASE_MS = 15_000


class ApTombstoneCollector:
    """A thread; works while ``held`` (the zone's lease) is set and until ``stop`` is."""

    def __init__(
        self,
        settings: Settings,
        nodes: Nodes,
        metrics: Metrics,
        collected: Counter,
        owner: str,
        held: threading.Event,
        stop: threading.Event,
    ) -> None:
        self._grace_ms, self._drift = int(settings.tombstone_grace_sec * 1000), settings.max_clock_drift_ms
        self._timeout = max(2.0, settings.network_timeout_sec * 3)
        self._pause = min(PASS_PAUSE_SEC, max(0.5, settings.tombstone_grace_sec / 4))
        self._nodes, self._owner, self._held, self._stop = nodes, owner, held, stop
        self._keeper, self._leading, self._asked = min(nodes.names), False, float("-inf")
        self._passes, self._waits = 0, Collected()
        self._collected = collected
        self._waiting = metrics.gauge(
            "ap_tombstones_waiting",
            "Old AP tombstones that the last pass could not remove; 0 if this one is not leading.",
        )
        self._blocked = dict.fromkeys(Reason, 0.0)
        metrics.per_label(
            "reason",
            "ap_tombstones_blocked",
            "1 if that held up some tombstone in the last pass.",
            lambda: {r.value: float(v) for r, v in self._blocked.items()},
        )
        self.thread = threading.Thread(target=self._run, name="collect-ap", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._held.is_set() and self._lead():
                    self._pass(self._nodes.names[self._passes % len(self._nodes.names)])
                    self._passes += 1
                else:
                    self._show(0, Collected())
            except Exception:
                LOG.exception("TOMBSTONES_ERROR")
            self._stop.wait(self._pause)
        if self._leading:
            self._take(1)

    def _lead(self) -> bool:
        """Take or keep the collector's lease. While the keeper is away nobody leads, as nothing can be collected."""
        if self._leading and time.monotonic() - self._asked < LEASE_MS / 3000:
            return True
        asked = time.monotonic()
        leading = self._take(LEASE_MS)
        if leading != self._leading:
            event(LOG, 20, "TOMBSTONES_LEASE", mode="ap", held=leading)
        self._leading, self._asked = leading, asked
        return leading

    def _take(self, length_ms: int) -> bool:
        guard = self._nodes.guards.voters().get(self._keeper)
        if guard is None or self._nodes.guards.unsettled_epoch():
            return False
        keys = [scripts.GUARD, scripts.COLLECTOR_KEY]
        reply = self._ask(self._keeper, scripts.LEASE, keys, [*guard.expectation(), self._owner, length_ms])
        return isinstance(reply, list) and reply[0] == 1

    def _pass(self, node: str) -> None:
        """All old tombstones of one node."""
        cursor, waiting, waits = b"0", 0, Collected()
        while self._held.is_set() and not self._stop.is_set() and self._lead():
            members = self._nodes.guards.voters()
            if node not in members:
                self._show(waiting, Collected(0, Reason.MEMBER_AWAY, f"all nodes are needed, and {node} cannot vote"))
                return
            args = [*members[node].expectation(), cursor, PAGE_KEYS, self._grace_ms]
            reply = self._ask(node, scripts.AP_COLLECT_SCAN, [scripts.GUARD, scripts.AP_STATE], args)
            if isinstance(reply, str):
                self._show(waiting, Collected(0, Reason.MEMBER_AWAY, f"all nodes are needed; {node}: {reply}"))
                return
            cursor, _seen, flat = reply
            text = [field.decode() for field in flat]
            rows = tuple(zip(text[::2], text[1::2], strict=True))
            if rows:
                result = self._drive(collect(rows, members, self._nodes.names, self._grace_ms))
                waiting += len(rows) - result.count
                waits = result if result.reason else waits
                if result.count:
                    self._collected.labels("ap").inc(result.count)
                    event(LOG, 20, "TOMBSTONES_COLLECTED", mode="ap", count=result.count)
            if cursor == b"0":
                self._show(waiting, waits)
                return
            self._stop.wait(PAGE_PAUSE_SEC)

    def _show(self, waiting: int, waits: Collected) -> None:
        self._waiting.set(waiting)
        self._blocked = dict.fromkeys(Reason, 0.0)
        if waits.reason:
            self._blocked[waits.reason] = 1.0
        if waits.why and waits.why != self._waits.why:
            event(
                LOG,
                20,
                "TOMBSTONES_WAIT",
                mode="ap",
                count=waiting,
                reason=waits.reason.value if waits.reason else "",
                why=waits.why,
            )
        self._waits = waits

    def _drive(self, steps: Collecting) -> Collected:
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(self._round(wanted))
        except StopIteration as end:
            result: Collected = end.value
            return result

    def _round(self, wanted: Round) -> list[Told]:
        rest = max((s.rest_sec for _, s in wanted if isinstance(s, Look)), default=0.0)
        if rest and self._stop.wait(rest):
            return [Failed("stopping") for _ in wanted]
        deadline = time.monotonic() + self._timeout
        box: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()
        for index, (node, step) in enumerate(wanted):
            script, keys, args = _command(step, self._drift)
            self._nodes.send(node, script, keys, args, deadline, lambda r, i=index: box.put((i, r)))  # type: ignore[misc]
        told: list[Told] = [Failed("timeout") for _ in wanted]
        for _ in wanted:
            try:
                index, result = box.get(timeout=max(0.001, deadline + 1.0 - time.monotonic()))
            except queue.Empty:
                break
            told[index] = _told(wanted[index][1], result)
        return told

    def _ask(self, node: str, script: scripts.Script, keys: list[Any], args: list[Any]) -> list[Any] | str:
        """The reply, or why there is none."""
        result = self._nodes.call(node, script, keys, args, time.monotonic() + self._timeout)
        if isinstance(result, Answer):
            value: list[Any] = result.value
            return value
        return "its guard changed" if isinstance(result, Refused) else result.reason


def collectors(
    settings: Settings, nodes: Nodes, metrics: Metrics, owner: str, held: threading.Event, stop: threading.Event
) -> list[threading.Thread]:
    """The threads that collect CP and AP tombstones."""
    cp = TombstoneCollector(settings, nodes, metrics, held, stop)
    ap = ApTombstoneCollector(settings, nodes, metrics, cp.collected, owner, held, stop)
    return [cp.thread, ap.thread]


def fence(
    ask: Callable[[str, scripts.Script, list[Any], list[Any]], list[Any]], local: str, origin: str
) -> tuple[int, str]:
    """Before ``origin`` is copied: the local mark, under which the pages are applied; and why not to copy, or ''."""
    ours, theirs = (
        Marks.parse(ask(n, scripts.AP_MARKS, [scripts.GUARD, scripts.AP_STATE], [])[1:]) for n in (local, origin)
    )
    why = f"{origin} has data from before a collection: run holdfast repair {origin} --suspect"
    return ours.mark, why if theirs.before(ours) else ""


def _command(step: Step, drift_ms: int) -> tuple[scripts.Script, list[Any], list[Any]]:
    believed = step.guard.expectation()
    keys: list[Any] = [scripts.GUARD, scripts.AP_STATE]
    if isinstance(step, Look):
        keys += [scripts.PEERS, scripts.PARKED, *map(scripts.ap_key, step.keys)]
        return scripts.AP_COLLECT_LOOK, keys, [*believed]
    if isinstance(step, Mark):
        return scripts.AP_COLLECT_MARK, keys, [*believed, step.mark, step.floor]
    named = [scripts.ap_key(key) for key, _ in step.rows]
    if isinstance(step, Drop):
        return scripts.AP_COLLECT_DROP, [*keys, *named], [*believed, step.mark, *(v for _, v in step.rows)]
    keys = [scripts.GUARD, scripts.PEERS, scripts.AP_STATE, scripts.PARKED, *named]
    args: list[Any] = [*believed, step.guard.node, "*", step.mark, drift_ms, len(step.rows)]
    for key, version in step.rows:
        args += [key, version, "d", "", ""]
    return scripts.AP_APPLY, keys, args


def _told(step: Step, result: Result) -> Told:
    if isinstance(result, Refused):
        return Failed("its guard changed")
    if not isinstance(result, Answer):
        return Failed(result.reason)
    value = result.value
    if value and value[0] in (b"LATE", b"MARK"):
        return Failed("another collection was faster")
    if not isinstance(step, Look):
        return Done(value[0] if isinstance(step, Drop) else 0)
    now, sequence, mark, done, peers, held, parked, more = value
    text = [field.decode() for field in held]
    return Looked(
        int(now),
        int(sequence),
        int(mark),
        int(done),
        parse_peers(peers),
        tuple(zip(text[::2], text[1::2], strict=True)),
        frozenset(key.decode() for key in parked),
        bool(more),
    )

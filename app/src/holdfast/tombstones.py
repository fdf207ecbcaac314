"""Drives collect.py in `holdfast replicate`: scans the zone's own node for old CP tombstones, a page at a time.

One active per zone by the replicator's lease, which only saves work: collectors of several zones keep apart by the lock
of a batch, and a lock that stays for ``STALE_SEC`` is taken over. Nothing is collected unless every node votes.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from typing import Any

from . import scripts
from .collect import (
    Busy,
    Collected,
    Collecting,
    CollectStep,
    CollectTold,
    Drop,
    Dropped,
    Held,
    Hold,
    Lock,
    Locked,
    collect,
)
from .contract import NotDone, Reply
from .cp_service import floored
from .guard import Guard
from .link import Answer
from .logs import LOG, event
from .metrics import Metrics
from .nodes import Nodes, Refused, Result
from .repair_plan import Differs
from .settings import Settings

PAGE_KEYS = 200
#: Between two pages, and the longest time between two scans.
PAGE_PAUSE_SEC, SCAN_PAUSE_SEC = 0.05, 60.0
#: After that time another batch's lock is one that was left behind.
STALE_SEC = 5.0


class TombstoneCollector:
    """A thread; works while ``held`` is set and until ``stop`` is."""

    def __init__(
        self, settings: Settings, nodes: Nodes, metrics: Metrics, held: threading.Event, stop: threading.Event
    ) -> None:
        self._local, self._grace_ms = settings.local_node, int(settings.tombstone_grace_sec * 1000)
        self._timeout = max(2.0, settings.network_timeout_sec * 3)
        self._pause = min(SCAN_PAUSE_SEC, max(0.5, settings.tombstone_grace_sec / 4))
        self._nodes, self._held, self._stop = nodes, held, stop
        self.collected = metrics.counter(
            "tombstones_collected_total", "Tombstones removed from all nodes.", {"mode": ("cp", "ap")}
        )
        self._waiting = metrics.gauge("tombstones_waiting", "CP tombstones on the zone's node, as of the last scan.")
        self._in_the_way, self._since, self._seen = "", 0.0, float("-inf")
        self._why = ""
        self.thread = threading.Thread(target=self._run, name="collect", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._held.is_set():
                try:
                    self._scan()
                except Exception:
                    LOG.exception("TOMBSTONES_ERROR")
            # A lock that was left behind keeps reads below the floor from being completed: look again soon.
            in_the_way = time.monotonic() - self._seen < 2 * STALE_SEC
            self._stop.wait(min(self._pause, 1.0) if in_the_way else self._pause)

    def _scan(self) -> None:
        cursor, seen, gone = b"0", 0, 0
        while self._held.is_set() and not self._stop.is_set():
            members = self._nodes.guards.voters()
            if self._local not in members or self._nodes.guards.unsettled_epoch():
                return
            args = [*members[self._local].expectation(), cursor, PAGE_KEYS, self._grace_ms]
            keys = [scripts.GUARD, scripts.CP_STATE]
            deadline = time.monotonic() + self._timeout
            result = self._nodes.call(self._local, scripts.CP_COLLECT_SCAN, keys, args, deadline)
            if not isinstance(result, Answer):
                return
            cursor, locked, count, flat = result.value
            text = [field.decode() for field in flat]
            batch = Collected(busy=locked.decode())
            rows = tuple(zip(text[::2], text[1::2], strict=True))
            if rows or batch.busy:
                batch = self._batch(rows, members, batch.busy)
            seen, gone = seen + count, gone + batch.count
            if cursor == b"0":
                self._waiting.set(seen - gone)
                return
            self._stop.wait(PAGE_PAUSE_SEC)

    def _batch(self, rows: tuple[tuple[str, str], ...], members: dict[str, Guard], locked: str) -> Collected:
        over = self._stale(locked)
        if not rows:
            if over:  # nobody is there to end it
                self._round([(n, Drop(g, over, ())) for n, g in members.items()])
            return Collected(busy=locked)
        result = self._drive(collect(rows, members, self._nodes.names, secrets.token_hex(8), over))
        if result.busy:
            self._stale(result.busy)
        if result.count:
            self.collected.labels("cp").inc(result.count)
            event(LOG, 20, "TOMBSTONES_COLLECTED", mode="cp", count=result.count)
        if result.why and result.why != self._why:
            event(LOG, 20, "TOMBSTONES_WAIT", mode="cp", count=len(rows), why=result.why)
        self._why = result.why
        return result

    def _stale(self, batch: str) -> str:
        """``batch`` if it has been in the way for long, otherwise ''."""
        now = time.monotonic()
        self._seen = now if batch else self._seen
        if batch and batch != self._in_the_way:
            self._in_the_way, self._since = batch, now
        return self._in_the_way if self._in_the_way and now - self._since >= STALE_SEC else ""

    def _drive(self, steps: Collecting) -> Collected:
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(self._round(wanted))
        except StopIteration as end:
            result: Collected = end.value
            return result

    def _round(self, wanted: list[tuple[str, CollectStep]]) -> list[CollectTold]:
        deadline = time.monotonic() + self._timeout
        box: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()
        for index, (node, step) in enumerate(wanted):
            script, keys, args = _command(step)
            self._nodes.send(node, script, keys, args, deadline, lambda r, i=index: box.put((i, r)))  # type: ignore[misc]
        told: list[CollectTold] = [NotDone("timeout", False)] * len(wanted)
        for _ in wanted:
            try:
                index, result = box.get(timeout=max(0.001, deadline + 1.0 - time.monotonic()))
            except queue.Empty:
                break
            told[index] = _told(wanted[index][1], result)
        return told


def _command(step: CollectStep) -> tuple[scripts.Script, list[Any], list[Any]]:
    believed = step.guard.expectation()
    keys = [scripts.GUARD, scripts.CP_STATE]
    if isinstance(step, Lock):
        return scripts.CP_COLLECT_LOCK, keys, [*believed, step.batch, step.floor, step.over]
    if isinstance(step, Hold):
        return scripts.CP_COLLECT_HELD, [*keys, *map(scripts.cp_key, step.keys)], [*believed, step.batch]
    if isinstance(step, Drop):
        named = [scripts.cp_key(key) for key, _ in step.rows]
        return scripts.CP_COLLECT_DROP, [*keys, *named], [*believed, step.batch, *(tag for _, tag in step.rows)]
    register = step.request.register  # type: ignore[union-attr]
    keys = [scripts.GUARD, scripts.cp_key(step.key), scripts.CP_STATE]
    return scripts.CP_STORE, keys, [*believed, register.tag, register.kind, "", ""]


def _told(step: CollectStep, result: Result) -> CollectTold:
    if isinstance(result, Refused):
        return Differs(result.guard)
    if not isinstance(result, Answer):
        return NotDone(result.reason, result.certain)
    value = result.value
    if value and value[0] == b"BUSY":
        return Busy(value[1].decode())
    if isinstance(step, Lock):
        return Locked()
    if isinstance(step, Hold):
        text = [field.decode() for field in value[0]]
        return Held(tuple(zip(text[::2], text[1::2], strict=True)))
    if isinstance(step, Drop):
        return Dropped(value[0])
    return floored(value) or Reply(step.request.register)  # type: ignore[union-attr]

"""`holdfast replicate`: pulls the other zones' outboxes and applies them to the zone's own node.

One active per zone by a lease, which only saves work: each apply compares the cursor it expects. One thread per origin.
A batch goes from one node to the other as it is, and while one is applied the next is already being pulled.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import scripts
from .ap_tombstones import collectors, fence
from .audit import Audit
from .divergence_check import DivergenceCheck
from .guard import RECOVERING, VOTING, Guard
from .link import Answer
from .logs import LOG, event
from .metrics import Metrics
from .multiprimary import Next, Position, between, judge, trim_point
from .nodes import Nodes, Result
from .region_settle import BackgroundSettle
from .replicate_counters import Counters
from .settings import Settings

POLL_SEC = 0.05
#: Keys of a full merge's first page, before anything is known of how large the values are.
FIRST_PAGE = 8
BEAT_MS = 500
LEASE_MS = 5000
BATCH_ENTRIES = 500
BATCH_BYTES = 4 * 1024 * 1024
PAGE_BYTES = 2 * 1024 * 1024
_ADMITTED = (*VOTING, RECOVERING)


class Skip(Exception):
    """This round cannot be done now; the text says why. The next round tries again."""


@dataclass(frozen=True, slots=True)
class _Local:
    """The zone's own node as of one ap_status: its guard, its clock in ms and the raw positions it has stored."""

    guard: Guard
    now_ms: int
    positions: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Pulled:
    """``asked_ms``: the local node's clock before the origin was asked; all that is older is in or before the batch."""

    guard: Guard
    head: int
    acknowledged: Position | None
    sequences: Sequence[int]
    batch: bytes
    asked_ms: int


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A pull that is under way: what will follow the sequence number ``after``."""

    after: int
    asked_ms: int
    box: queue.SimpleQueue[Result]


class Puller:
    """Moves one origin's entries to the local node. ``acknowledged``: how far the origin has applied *our* outbox."""

    def __init__(self, origin: str, settings: Settings, nodes: Nodes, counters: Counters, audit: Audit) -> None:
        self.origin = origin
        self.acknowledged: Position | None = None
        self._local = settings.local_node
        self._region = settings.region
        self._drift = settings.max_clock_drift_ms
        self._timeout = max(2.0, settings.network_timeout_sec * 3)
        self._nodes, self._counters, self._audit = nodes, counters, audit
        self._ahead: _Ahead | None = None
        self._mark = 0  # the local node's, when the full merge began (ap_collect.py)
        #: What the last apply left behind, so that a long backlog needs no look between two batches.
        self._left: _Local | None = None

    def step(self, held: threading.Event) -> bool:
        """One round. True if there may be more at once. Raises Skip."""
        left, self._left = self._left, None
        local = left or self._look()
        raw = local.positions.get(self.origin, "")
        cursor = Position.parse(raw) if raw else None
        pulled = self._pull(cursor.sequence if cursor else 0, local)
        self.acknowledged = pulled.acknowledged
        incarnation = pulled.guard.incarnation
        decision = judge(cursor, incarnation, pulled.head, pulled.sequences)
        if decision is Next.FULL_MERGE or cursor is None:
            self._full_merge(local, raw, pulled, held)
            return True
        if decision is Next.IDLE:
            if cursor.caught_up_ms is None or not 0 <= local.now_ms - cursor.caught_up_ms < BEAT_MS:
                self._apply(local.guard, raw, Position(incarnation, cursor.sequence, pulled.asked_ms), [])
            return False
        last = pulled.sequences[-1]
        position = Position(incarnation, last, pulled.asked_ms if last == pulled.head else cursor.caught_up_ms)
        if last < pulled.head:
            self._ahead = self._ask_ahead(last, local.now_ms)
        now = self._replay(local.guard, raw, position, pulled.batch)
        if last < pulled.head:
            self._left = _Local(local.guard, now, {self.origin: str(position)})
        return last < pulled.head

    def _look(self) -> _Local:
        keys = [scripts.GUARD, scripts.AP_STATE, scripts.PEERS, scripts.PARKED, scripts.OUTBOX]
        fields, now, _seq, _parked, _outbox, peers = self._ask(self._local, scripts.AP_STATUS, keys, [])
        guard = self._admit(self._local, fields)
        positions = {o.decode(): p.decode() for o, p in zip(peers[::2], peers[1::2], strict=True)}
        return _Local(guard, int(now), positions)

    def _pull(self, after: int, local: _Local) -> _Pulled:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.after != after:
            ahead = self._ask_ahead(after, local.now_ms)
        try:
            result = ahead.box.get(timeout=self._timeout)
        except queue.Empty:
            raise Skip(f"{self.origin}: timeout") from None
        fields, head, acknowledged, count, first, last, batch = self._answer(self.origin, result)
        guard = self._admit(self.origin, fields)
        if guard.region_epoch != local.guard.region_epoch:
            raise Skip(f"region epoch of {self.origin} is {guard.region_epoch}, ours is {local.guard.region_epoch}")
        sequences = between(int(first), int(last), count) if count else range(0)
        return _Pulled(guard, int(head), Position.parse(acknowledged.decode()), sequences, batch, ahead.asked_ms)

    def _ask_ahead(self, after: int, asked_ms: int) -> _Ahead:
        box: queue.SimpleQueue[Result] = queue.SimpleQueue()
        keys = [scripts.GUARD, scripts.OUTBOX, scripts.AP_STATE, scripts.PEERS]
        args = [after, BATCH_ENTRIES, BATCH_BYTES, self._local]
        self._nodes.send(self.origin, scripts.AP_PULL, keys, args, time.monotonic() + self._timeout, box.put)
        return _Ahead(after, asked_ms, box)

    def _replay(self, guard: Guard, expected: str, position: Position, batch: bytes) -> int:
        """Apply a batch as it was pulled. Returns the local node's clock in ms."""
        keys: list[Any] = [scripts.GUARD, scripts.PEERS, scripts.AP_STATE, scripts.PARKED]
        args = [*guard.expectation(*_ADMITTED), self.origin, expected, str(position), self._drift, batch]
        return self._note(self._ask(self._local, scripts.AP_REPLAY, keys, args))

    def _apply(self, guard: Guard, expected: str, position: Position | None, rows: Sequence[tuple[bytes, ...]]) -> None:
        """Apply ``rows`` (key, version, kind, value, rep); ``position`` None: a page of a full merge."""
        keys: list[Any] = [scripts.GUARD, scripts.PEERS, scripts.AP_STATE, scripts.PARKED]
        keys += [b"ap:" + row[0] for row in rows]
        args: list[Any] = [
            *guard.expectation(*_ADMITTED),
            self.origin,
            "*" if position is None else expected,
            str(self._mark if position is None else position),
            self._drift,
            len(rows),
        ]
        for row in rows:
            args += row
        self._note(self._ask(self._local, scripts.AP_APPLY, keys, args))

    def _note(self, reply: list[Any]) -> int:
        """Count what an apply did; returns the local node's clock in ms."""
        if reply[0] in (b"CURSOR", b"MARK"):
            raise Skip("another replicator moved the cursor, or tombstones were collected during a full merge")
        applied, lost, parked, now, losers, twins = reply
        self._counters.applied.labels(self.origin).inc(applied)
        self._counters.lost.labels(self.origin).inc(lost)
        self._counters.parked.labels(self.origin).inc(parked)
        for key, version in zip(losers[::2], losers[1::2], strict=True):
            self._counters.conflicts.labels(self.origin).inc()
            self._audit.record("LWW_DISCARDED", key=key.decode(), version=version.decode(), node=self._local)
        self._counters.twins.note(self.origin, twins)
        if parked:
            event(LOG, 30, "ENTRIES_PARKED", origin=self.origin, count=parked)
        return int(now)

    def _full_merge(self, local: _Local, raw: str, pulled: _Pulled, held: threading.Event) -> None:
        """Cursor first, then a copy of everything by last-writer-wins, parked entries too; then on from that cursor."""
        event(LOG, 30 if raw else 20, "FULL_MERGE_STARTED", origin=self.origin, cursor=raw, head=pulled.head)
        self._mark, too_old = fence(self._ask, self._local, self.origin)
        if too_old:
            raise Skip(too_old)
        merged = self._copy(local, raw, pulled, held, scripts.AP_PARKED, [scripts.GUARD, scripts.PARKED])
        merged += self._copy(local, raw, pulled, held, scripts.AP_SCAN, [scripts.GUARD])
        self._apply(local.guard, raw, Position(pulled.guard.incarnation, pulled.head, pulled.asked_ms), [])
        self._counters.merges.labels(self.origin).inc()
        event(LOG, 20, "FULL_MERGE_FINISHED", origin=self.origin, entries=merged)

    def _copy(
        self, local: _Local, raw: str, pulled: _Pulled, held: threading.Event, script: scripts.Script, keys: list[Any]
    ) -> int:
        cursor, count, merged, run_id = b"0", FIRST_PAGE, 0, b""
        while True:
            fields, cursor, flat, server = self._ask(self.origin, script, keys, [cursor, count])
            if self._admit(self.origin, fields) != pulled.guard or run_id not in (b"", server):
                raise Skip("the origin's guard changed, or it was restarted, during the full merge")
            run_id = server
            rows = [tuple(flat[i : i + 5]) for i in range(0, len(flat), 5)]
            if rows:
                self._apply(local.guard, raw, None, rows)
                merged += len(rows)
            size = sum(len(f) for f in flat)
            count = max(1, count // 2) if size > PAGE_BYTES else min(1000, count * 2)
            if cursor == b"0":
                return merged
            if not held.is_set():
                raise Skip("the lease was lost during the full merge")

    def _admit(self, node: str, fields: list[bytes]) -> Guard:
        guard = Guard.from_fields(fields)
        self._nodes.learn(node, guard)
        # An origin that is being healed has not got everything yet: a merge now would be taken for a complete one.
        states = _ADMITTED if node == self._local else VOTING
        if guard is None or guard.state not in states or guard.region != self._region or guard.node != node:
            raise Skip(f"{node} is not a member: {self._nodes.guard_state(node)}")
        return guard

    def _ask(self, node: str, script: scripts.Script, keys: list[Any], args: list[Any]) -> list[Any]:
        return self._answer(node, self._nodes.call(node, script, keys, args, time.monotonic() + self._timeout))

    def _answer(self, node: str, result: Result) -> list[Any]:
        if isinstance(result, Answer):
            value: list[Any] = result.value
            return value
        raise Skip(f"{node}: {result.reason}" if hasattr(result, "reason") else f"{node}: guard changed")


class Replicator:
    """The threads of one `replicate` process."""

    def __init__(self, settings: Settings, nodes: Nodes, metrics: Metrics, audit: Audit) -> None:
        self._settings, self._nodes = settings, nodes
        origins = tuple(n for n in nodes.names if n != settings.local_node)
        self._counters = Counters(metrics, origins, audit)
        self._pullers = [Puller(o, settings, nodes, self._counters, audit) for o in origins]
        self._owner = f"{settings.zone}-{secrets.token_hex(8)}"
        self._held = threading.Event()
        self._stop = threading.Event()
        collecting = collectors(settings, nodes, metrics, self._owner, self._held, self._stop)
        self._threads = [*collecting, threading.Thread(target=self._keep_house, name="house", daemon=True)] + [
            threading.Thread(target=self._pull, args=(p,), name=f"pull-{p.origin}", daemon=True) for p in self._pullers
        ]
        self._threads.append(BackgroundSettle(settings, nodes, self._stop).thread)
        check = DivergenceCheck(settings, nodes, metrics, self._counters.twins)
        self._threads.append(
            threading.Thread(target=check.run, args=(self._held, self._stop), name="divergence", daemon=True)
        )

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the running rounds and give the lease back."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._take_lease(length_ms=1)

    def _pull(self, puller: Puller) -> None:
        complaint = ""
        while not self._stop.is_set():
            more = False
            if self._held.is_set():
                try:
                    more = puller.step(self._held)
                    complaint = ""
                except Skip as why:
                    self._counters.errors.labels(puller.origin).inc()
                    if str(why) != complaint:
                        complaint = str(why)
                        event(LOG, 30, "REPLICATION_PAUSED", origin=puller.origin, why=complaint)
                    self._stop.wait(POLL_SEC * 5)
                except Exception:
                    self._counters.errors.labels(puller.origin).inc()
                    LOG.exception("REPLICATION_ERROR", extra={"fields": {"origin": puller.origin}})
                    self._stop.wait(1.0)
            if not more:
                self._stop.wait(POLL_SEC)

    def _keep_house(self) -> None:
        """Each second: the lease, parked entries whose time has come, the trimming of our own outbox."""
        expires = 0.0
        while not self._stop.is_set():
            started = time.monotonic()
            if self._take_lease(LEASE_MS):
                expires = started + LEASE_MS / 1000 * 0.8
            held = started < expires
            if held != self._held.is_set():
                event(LOG, 20, "REPLICATION_LEASE", held=held)
            if held:
                self._held.set()
                self._unpark()
                self._trim()
            else:
                self._held.clear()
            self._counters.active.set(float(held))
            self._stop.wait(1.0)

    def _local_guard(self) -> Guard | None:
        guard = self._nodes.guards.known(self._settings.local_node)
        if guard is None or guard.state not in _ADMITTED or guard.node != self._settings.local_node:
            return None
        if guard.region != self._settings.region or self._nodes.guards.withheld():
            return None
        return guard

    def _call(self, script: scripts.Script, keys: list[str], args: list[Any]) -> list[Any] | None:
        guard = self._local_guard()
        if guard is None:
            return None
        deadline = time.monotonic() + self._settings.network_timeout_sec
        result = self._nodes.call(
            self._settings.local_node, script, keys, [*guard.expectation(*_ADMITTED), *args], deadline
        )
        return result.value if isinstance(result, Answer) else None

    def _take_lease(self, length_ms: int) -> bool:
        reply = self._call(scripts.LEASE, [scripts.GUARD, scripts.LEASE_KEY], [self._owner, length_ms])
        return reply is not None and reply[0] == 1

    def _unpark(self) -> None:
        cursor = b"0"
        keys = [scripts.GUARD, scripts.AP_STATE, scripts.PARKED]
        while True:
            reply = self._call(scripts.AP_UNPARK, keys, [self._settings.max_clock_drift_ms, cursor, 200])
            if reply is None or reply[0] == b"0":
                return
            cursor = reply[0]

    def _trim(self) -> None:
        guard = self._local_guard()
        if guard is not None:
            point = trim_point(guard.incarnation, [p.acknowledged for p in self._pullers])
            caps = [self._settings.outbox_max_entries, self._settings.outbox_max_bytes]
            self._call(scripts.AP_TRIM, [scripts.GUARD, scripts.OUTBOX], [point, *caps])

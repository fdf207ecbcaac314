"""Finds and repairs divergence between the zone's own node and each of the others; one thread of `holdfast replicate`.

Each cycle: sum up the own node in small pages, with rests; keep the digest there; compare with
the digests the other zones kept. Buckets that differ twice running are compared key by key with that node, and what is
newer there is merged here, last writer wins. Each zone repairs only itself, so both directions converge. A restart, a
new guard or a lost lease in the middle of a scan ends it; the next cycle begins anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from . import divergence, scripts
from .ap_marks import Marks
from .ap_service import parse_peers
from .divergence import Digest
from .guard import Guard
from .link import Answer
from .logs import LOG, event
from .metrics import Metrics
from .multiprimary import Position
from .nodes import Nodes
from .settings import Settings
from .twins import Twins

#: Rest after a page, which costs Redis about a millisecond. Fixed, so that a busy machine does not stretch the scan.
REST_SEC = 0.005
KEEP_CYCLES = 8
VALUE_BYTES = 2 * 1024 * 1024


class Broken(Exception):
    """This check cannot be finished now; the text says why."""


class DivergenceCheck:
    """``run`` until ``stop``; works only while ``held`` (the zone's lease)."""

    def __init__(
        self, settings: Settings, nodes: Nodes, metrics: Metrics, twins: Twins, lag_ms: int = divergence.LAG_MS
    ) -> None:
        self._twins = twins
        self._settings, self._nodes, self._local, self._lag = settings, nodes, settings.local_node, lag_ms
        self._period_ms = int(settings.divergence_check_sec * 1000)
        self._grace_ms = int(settings.tombstone_grace_sec * 1000)
        self._timeout = max(2.0, settings.network_timeout_sec * 3)
        self._others = tuple(n for n in nodes.names if n != self._local)
        self._stop, self._held = threading.Event(), threading.Event()
        self._last = self._took_ms = 0
        self._own: dict[int, Digest] = {}
        self._compared: dict[str, int] = dict.fromkeys(self._others, 0)
        self._suspects: dict[str, frozenset[int]] = {}
        label = {"node": self._others}
        self.checks = metrics.counter("ap_divergence_checks_total", "Comparisons with the node's digest.", label)
        self.repaired = metrics.counter("ap_divergence_repaired_total", "Entries taken over from the node.", label)
        self._divergent = dict.fromkeys(self._others, 0.0)
        self._checked = dict.fromkeys(self._others, 0.0)
        metrics.per_node(
            "ap_divergent_buckets",
            f"Buckets of {divergence.BUCKETS} in which the last check found something newer on the node.",
            lambda: dict(self._divergent),
        )
        metrics.per_node(
            "ap_divergence_last_check_timestamp_seconds",
            "When this zone was last compared with the node; 0: not yet.",
            lambda: dict(self._checked),
        )

    def run(self, held: threading.Event, stop: threading.Event) -> None:
        self._held, self._stop = held, stop
        while not stop.wait(min(1.0, self._period_ms / 4000)):
            if held.is_set():
                self._round()

    def _round(self) -> None:
        try:
            guard, now, positions = self._look()
            self._sum_up(guard, now)
        except Broken as why:
            event(LOG, 20, "DIVERGENCE_CHECK_PUT_OFF", node=self._local, why=str(why))
            return
        except Exception:
            LOG.exception("DIVERGENCE_ERROR")
            self._stop.wait(5.0)
            return
        for other in self._others:
            try:
                self._compare(other, guard, positions)
            except Broken as why:
                event(LOG, 20, "DIVERGENCE_CHECK_PUT_OFF", node=other, why=str(why))
            except Exception:
                LOG.exception("DIVERGENCE_ERROR", extra={"fields": {"node": other}})
                self._stop.wait(5.0)

    def _look(self) -> tuple[Guard, int, dict[str, Position]]:
        keys = [scripts.GUARD, scripts.AP_STATE, scripts.PEERS, scripts.PARKED, scripts.OUTBOX]
        fields, now, _seq, _parked, _outbox, peers = self._ask(self._local, scripts.AP_STATUS, keys, [])
        return self._admit(self._local, fields), int(now), parse_peers(peers)

    def _sum_up(self, guard: Guard, now_ms: int) -> None:
        """If a cycle is due, make the own node's digest and keep it there."""
        cycle = divergence.next_cycle(now_ms, self._period_ms, self._last, self._took_ms)
        if cycle is None:
            return
        started = time.monotonic()
        total = divergence.Sum()
        if cycle < self._last:  # the clock was corrected: what was made in its future counts no more
            self._own, self._compared = {}, dict.fromkeys(self._others, 0)
        self._last = cycle
        for page in self._pages(self._local, guard, cycle, ""):
            total.add(page)
        digest = total.digest(guard.incarnation)
        oldest = cycle - KEEP_CYCLES
        args = [*guard.expectation(), cycle, digest.pack(), oldest]
        self._ask(self._local, scripts.AP_DIGEST_PUT, [scripts.GUARD, scripts.DIGESTS], args)
        self._own = {c: d for c, d in self._own.items() if c > oldest} | {cycle: digest}
        self._took_ms = int((time.monotonic() - started) * 1000)
        event(LOG, 10, "DIVERGENCE_DIGEST", cycle=cycle, entries=digest.entries, took_ms=self._took_ms)

    def _compare(self, other: str, ours: Guard, positions: dict[str, Position]) -> None:
        if not self._nodes.answering(other):
            return
        fields, flat = self._ask(other, scripts.AP_DIGEST_GET, [scripts.GUARD, scripts.DIGESTS], [])
        guard = self._admit(other, fields)
        if guard.region_epoch != ours.region_epoch:
            raise Broken("another region epoch")
        theirs = {int(c): Digest.unpack(d) for c, d in zip(flat[::2], flat[1::2], strict=True)}
        common = [c for c in self._own if theirs.get(c) is not None and c > self._compared[other]]
        if not common:
            return
        cycle = max(common)
        self._compared[other] = cycle
        mine, there = self._own[cycle], theirs[cycle]
        if there is None or there.incarnation != guard.incarnation or mine.incarnation != ours.incarnation:
            self._suspects.pop(other, None)
            return
        differ = divergence.differing(mine, there)
        confirmed = differ & self._suspects.get(other, frozenset())
        self._suspects[other] = differ
        self._divergent[other] = 0.0
        if confirmed:
            self._repair(other, guard, ours, cycle, confirmed, positions)
        self.checks.labels(other).inc()
        self._checked[other] = time.time()

    def _repair(
        self, other: str, guard: Guard, ours: Guard, cycle: int, buckets: frozenset[int], positions: dict[str, Position]
    ) -> None:
        cutoff = divergence.cutoff_ms(cycle, self._period_ms, self._lag)
        answering = {n: self._nodes.answering(n) for n in self._others}
        found: list[bytes] = []
        places: set[int] = set()
        for flat in self._pages(other, guard, cycle, divergence.wanted_flags(buckets)):
            rows = list(zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True))
            if not rows:
                continue
            held = self._some(self._local, [r[0] for r in rows], values=False)
            for entry in divergence.missing(rows, list(zip(held[::2], held[1::2], strict=True))):
                if entry.twin or divergence.due(entry.version, self._local, cutoff, positions, answering, self._lag):
                    found.append(entry.key)
                    places.add(entry.bucket)
        if not found:
            return
        self._divergent[other] = float(len(places))
        event(LOG, 30, "DIVERGENCE_FOUND", node=other, buckets=len(places), entries=len(found), cycle=cycle)
        taken = self._take(other, ours, found)
        self.repaired.labels(other).inc(taken)
        event(LOG, 30, "DIVERGENCE_REPAIRED", node=other, entries=taken, cycle=cycle)

    def _take(self, other: str, ours: Guard, keys: list[bytes]) -> int:
        """Merge the other node's present entries of ``keys`` here. Returns how many changed something."""
        mine, theirs = self._marks(self._local), self._marks(other)
        if theirs.before(mine):
            raise Broken(f"{other} has data from before a collection: run holdfast repair {other} --suspect")
        taken, at, chunk = 0, 0, 8
        while at < len(keys):
            part = keys[at : at + chunk]
            at += len(part)
            flat = self._some(other, part, values=True)
            args: list[Any] = [
                *ours.expectation(),
                other,
                "*",
                mine.mark,
                self._settings.max_clock_drift_ms,
            ]
            rows = [(k, *flat[i * 4 : i * 4 + 4]) for i, k in enumerate(part) if flat[i * 4]]
            args.append(len(rows))
            for row in rows:
                args += row
            places = [scripts.GUARD, scripts.PEERS, scripts.AP_STATE, scripts.PARKED, *(b"ap:" + r[0] for r in rows)]
            reply = self._ask(self._local, scripts.AP_APPLY, places, args)
            if reply[0] == b"MARK":
                raise Broken("tombstones were collected meanwhile")
            taken += reply[0] + self._twins.note(other, reply[5])
            size = sum(len(f) for f in flat)
            chunk = max(1, chunk // 2) if size > VALUE_BYTES else min(200, chunk * 2)
            self._rest(0.02)
        return taken

    def _marks(self, node: str) -> Marks:
        fields, *marks = self._ask(node, scripts.AP_MARKS, [scripts.GUARD, scripts.AP_STATE], [])
        self._admit(node, fields)
        return Marks.parse(marks)

    def _some(self, node: str, keys: list[bytes], values: bool) -> list[bytes]:
        places = [scripts.GUARD, *(b"ap:" + k for k in keys)]
        fields, flat = self._ask(node, scripts.AP_SOME, places, ["1" if values else "0"])
        self._admit(node, fields)
        found: list[bytes] = flat
        return found

    def _pages(self, node: str, guard: Guard, cycle: int, wanted: str) -> Iterator[Any]:
        """Every page of one scan of ``node``, with rests. Raises Broken when it is no longer the same history."""
        youngest = f"{max(0, divergence.cutoff_ms(cycle, self._period_ms, self._lag)):012x}"
        collected = f"{max(0, divergence.collected_ms(cycle, self._period_ms, self._grace_ms)):012x}"
        cursor, run_id, keys = b"0", b"", 1
        while True:
            fields, cursor, page, server, hashed = self._ask(
                node, scripts.AP_DIGEST, [scripts.GUARD], [cursor, keys, youngest, wanted, collected]
            )
            keys = divergence.page_keys(keys, hashed)
            if self._admit(node, fields) != guard or run_id not in (b"", server):
                raise Broken("its guard changed, or it was restarted, during the scan")
            run_id = server
            yield page
            if cursor == b"0":
                return
            self._rest(REST_SEC)

    def _rest(self, seconds: float) -> None:
        if self._stop.wait(seconds) or not self._held.is_set():
            raise Broken("stopping, or the lease was lost")

    def _admit(self, node: str, fields: list[bytes]) -> Guard:
        guard = Guard.from_fields(fields)
        self._nodes.learn(node, guard)
        if guard is None or not self._nodes.guards.is_ours(node, guard):
            raise Broken(f"{node} is not a member: {self._nodes.guard_state(node)}")
        return guard

    def _ask(self, node: str, script: scripts.Script, keys: list[Any], args: list[Any]) -> list[Any]:
        result = self._nodes.call(node, script, keys, args, time.monotonic() + self._timeout)
        if isinstance(result, Answer):
            value: list[Any] = result.value
            return value
        raise Broken(f"{node}: {result.reason}" if hasattr(result, "reason") else f"{node}: guard changed")

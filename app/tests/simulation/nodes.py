"""A simulated node: what the Lua scripts and ``appendfsync always`` do, one command at a time.

Every script compares the guard and the tag in the same step. Answers leave when everything executed before them is on
disk; a crash takes what is not there yet, all of it or the last part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from events import Events

from holdfast.collect import Busy, Drop, Dropped, Held, Hold, Lock, Locked
from holdfast.contract import Floored, NotDone, Query, Reply
from holdfast.guard import RECOVERING, Guard
from holdfast.registers import EMPTY
from holdfast.repair_plan import (
    Ask,
    Compare,
    Differs,
    Floor,
    Forget,
    Look,
    Move,
    Moved,
    Older,
    Page,
    Rows,
    Seen,
    Step,
    Told,
)

PAGE_KEYS = 2
Answer = Callable[[Told], None]


class SimNode:
    def __init__(self, name: str, guard: Guard | None, events: Events, controls: frozenset[str]) -> None:
        self.name, self.guard, self.up = name, guard, True
        self.registers: dict[str, object] = {}
        #: What holdfast:cp holds: the floor, the last batch of collection, and whether it holds the lock.
        self.collection = ("", "", False)
        self.paused_until = 0.0
        self.disk_stalls_until = 0.0
        self._events, self._controls = events, controls
        self._undo: list[Callable[[], None]] = []
        self._waiting: list[tuple[Answer, Told]] = []
        self._held: list[tuple[Step, str, Answer]] = []
        self._syncing = False
        self._boot = 0
        self._connected: set[tuple[str, int]] = set()

    @property
    def run_id(self) -> str:
        return f"{self.name}/{self._boot}"

    def receive(self, request: Step, process: str, answer: Answer) -> None:
        events = self._events
        if not self.up:
            if events.random.random() < 0.5:
                answer(NotDone("connect", True))
            return
        if events.now < self.paused_until:
            events.hit("pause", self.name)
            self._held.append((request, process, answer))
            if len(self._held) == 1:
                events.at(self.paused_until - events.now, self._resume, self._boot)
            return
        told = self.execute(request, process)
        if "answers before the disk" in self._controls or not self._undo:
            answer(told)
            return
        self._waiting.append((answer, told))
        if not self._syncing:
            self._syncing = True
            stall = max(0.0, self.disk_stalls_until - events.now)
            if stall:
                events.hit("disk stalls", self.name)
            events.at(stall + events.random.uniform(0.05, 0.4), self._synced, self._boot)

    def _resume(self, boot: int) -> None:
        if boot == self._boot and self.up:
            held, self._held = self._held, []
            for request, process, answer in held:
                self.receive(request, process, answer)

    def _synced(self, boot: int) -> None:
        if boot == self._boot and self.up:
            self._syncing = False
            waiting, self._waiting = self._waiting, []
            self._undo.clear()
            for answer, told in waiting:
                answer(told)

    def crash(self) -> None:
        """What is not on disk goes, from some point on."""
        self.up = False
        kept = self._events.random.randint(0, len(self._undo))
        if kept < len(self._undo):
            self._events.fault("last writes lost", self.name)
        for undo in reversed(self._undo[kept:]):
            undo()
        self._undo.clear()
        self._waiting.clear()
        self._held.clear()
        self._syncing = False

    def start(self) -> None:
        self._boot += 1
        self.paused_until = 0.0
        self.up = True

    def erase(self, guard: Guard | None) -> None:
        self.registers.clear()
        self.collection = ("", "", False)
        self._undo.clear()
        self.guard = guard

    def kept(self) -> tuple[dict[str, object], tuple[str, str, bool]]:
        """A copy of the data, as a backup or an old disk would have it."""
        return dict(self.registers), self.collection

    def restore(self, kept: tuple[dict[str, object], tuple[str, str, bool]], guard: Guard) -> None:
        self.erase(guard)
        self.registers, self.collection = dict(kept[0]), kept[1]

    def execute(self, request: Step, process: str) -> Told:
        if isinstance(request, Look):
            return Seen(self.guard, not self.registers, self.run_id, self.collection[0])
        if isinstance(request, Move):
            return self._move(request)
        if not self._believed(request.guard, process):
            return Differs(self.guard)
        if isinstance(request, Page):
            return self._page(request)
        if isinstance(request, Compare):
            return Older(tuple(k for k, tag in request.rows if self.registers.get(k, EMPTY).tag < tag))
        if isinstance(request, Ask):
            return self._register(request)
        return self._collect(request)

    def _collect(self, request: Lock | Hold | Drop | Floor | Forget) -> Told:
        floor, batch, locked = self.collection
        if isinstance(request, Floor):
            self._set_collection((max(floor, request.floor), batch, locked))
            return Moved()
        if isinstance(request, Lock):
            if locked and batch not in (request.batch, request.over):
                return Busy(batch)
            self._set_collection((max(floor, request.floor), request.batch, True))
            return Locked()
        if isinstance(request, Hold):
            if request.batch and (not locked or batch != request.batch):
                return Busy(batch)
            held = [self.registers.get(key, EMPTY) for key in request.keys]
            return Held(tuple((r.tag, r.kind if r.tag else "") for r in held))
        count = 0
        for key, tag in request.rows:
            held = self.registers.get(key, EMPTY)
            if held.tag == tag:
                count += 1
                if isinstance(request, Drop):
                    self._events.dropped.setdefault((key, tag), self._events.now)
                self._undo.append(lambda key=key, held=held: self._put(key, held))
                self._put(key, EMPTY)
        if isinstance(request, Forget):
            return Moved()
        if batch == request.batch:
            self._set_collection((floor, batch, False))
        return Dropped(count)

    def _set_collection(self, collection: tuple[str, str, bool]) -> None:
        before = self.collection
        self._undo.append(lambda: setattr(self, "collection", before))
        self.collection = collection

    def _believed(self, guard: Guard, process: str) -> bool:
        if "guard checked when connecting" in self._controls:
            link = (process, self._boot)
            if link in self._connected:
                return True
            if guard == self.guard:
                self._connected.add(link)
        return guard == self.guard

    def _register(self, ask: Ask) -> Told:
        held = self.registers.get(ask.key, EMPTY)
        if isinstance(ask.request, Query):
            if not ask.request.want_value and not ask.request.bare and "no floor" not in self._controls:
                held = replace(held, tag=max(held.tag, self.collection[0]))
            return Reply(held if ask.request.want_value else replace(held, value=None))
        new = ask.request.register
        floor, batch, locked = self.collection
        if held is EMPTY and new.tag <= floor and "no floor" not in self._controls:
            named = "" if locked and "lock ignored" not in self._controls else batch
            if not named or named != ask.request.vouched:
                self._events.count("store below the floor")
                return Floored("floor", True, floor, named)
            self._events.count("vouched store")
        if new.tag > held.tag:
            self._undo.append(lambda: self._put(ask.key, held))
            self.registers[ask.key] = new
        return Reply(new)

    def _put(self, key: str, register: object) -> None:
        if register is EMPTY:
            self.registers.pop(key, None)
        else:
            self.registers[key] = register

    def _move(self, move: Move) -> Told:
        if move.expected != self.guard or (move.expected is None and self.registers):
            return Differs(self.guard)
        before, collection = self.guard, self.collection

        def undo() -> None:
            self.guard, self.collection = before, collection

        self._undo.append(undo)
        self.guard = move.new
        if move.new.state == RECOVERING:
            self.collection = (collection[0], move.new.incarnation, False)
        return Moved()

    def _page(self, page: Page) -> Told:
        """SCAN: the order is that of a hash of this process; keys that come later never move others."""
        order = sorted((Random(f"{self.run_id}{key}").randrange(1, 1 << 30), key) for key in self.registers)
        after = [pair for pair in order if pair[0] > int(page.cursor)]
        rows = tuple((key, self.registers[key].tag) for _, key in after[:PAGE_KEYS])
        cursor = "0" if len(after) <= PAGE_KEYS else str(after[PAGE_KEYS - 1][0])
        return Rows(self.run_id, cursor, rows)

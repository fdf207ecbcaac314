"""A simulated node's AP side: what the ap_*.lua scripts do, one at a time, with fsync before every answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from events import Events

from holdfast.ap_collect import Done, Looked
from holdfast.ap_marks import Marks, highest
from holdfast.hlc import Version
from holdfast.multiprimary import Position

EPOCH = 1
DRIFT_MS = 500
OUTBOX_CAP = 4


@dataclass(frozen=True)
class Entry:
    sequence: int
    key: str
    version: str
    value: str | None


@dataclass
class State:
    """Everything on the node's disk. ``state`` and ``incarnation`` are the guard's."""

    state: str
    incarnation: str
    values: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    hlc: tuple[int, int] = (0, 0)
    sequence: int = 0
    outbox: list[Entry] = field(default_factory=list)
    peers: dict[str, str] = field(default_factory=dict)
    parked: dict[tuple[str, str], str | None] = field(default_factory=dict)
    marks: Marks = field(default_factory=Marks)


def copied(state: State) -> State:
    return replace(
        state, values=dict(state.values), outbox=list(state.outbox), peers=dict(state.peers), parked=dict(state.parked)
    )


def newer(one: str, other: str) -> bool:
    return one > other  # one epoch, and names of one length: the order of the texts is that of the versions


class Refused(Exception):
    """The guard or the cursor is another one."""


class ApNode:
    """A call that raises Refused changes nothing. The clock may be wrong and may jump: ``offset`` in ms."""

    def __init__(self, name: str, events: Events) -> None:
        self.name, self._events = name, events
        self.memory = State("member", f"first-{name}")
        self.disk = copied(self.memory)
        self.up, self.boot, self.offset = True, 0, 0
        self._waiting: list[Callable[[], None]] = []
        self._syncing = False
        #: The largest version of each key that was removed here.
        self.dropped: dict[str, str] = {}

    def clock(self) -> int:
        self._events.hit("clock jumps", self.name)
        return 1_000_000 + int(self._events.now * 10) + self.offset

    def handle(self, call: Callable[[ApNode], Any], answer: Callable[[Any], None]) -> None:
        """Answers with what ``call`` gives, or with a Refused; never if the node is or goes down before the fsync."""
        if not self.up:
            return
        try:
            result: Any = call(self)
        except Refused as refused:
            result = refused
        self._waiting.append(lambda: answer(result))
        if not self._syncing:
            self._syncing = True
            self._events.at(self._events.random.uniform(0.05, 0.5), self._synced, self.boot)

    def _synced(self, boot: int) -> None:
        if boot == self.boot and self.up:
            self._syncing = False
            self.disk = copied(self.memory)
            waiting, self._waiting = self._waiting, []
            for answer in waiting:
                answer()

    def crash(self) -> None:
        self.up, self._syncing = False, False
        self._waiting.clear()
        if self.memory.sequence != self.disk.sequence:
            self._events.fault("last writes lost", self.name)
        self.memory = copied(self.disk)

    def start(self) -> None:
        self.boot += 1
        self.up = True

    def replace(self, state: State) -> None:
        self.memory, self.disk = state, copied(state)
        self._waiting.clear()

    def write(self, key: str, value: str | None, floor: tuple[int, int]) -> tuple[str, int, str]:
        """(version, sequence, incarnation)."""
        m = self.memory
        if m.state != "member":
            raise Refused("not a member")
        now = self.clock()
        milliseconds, counter = max(m.hlc, (now, 0), min(floor, (now + DRIFT_MS, 0)), self._held(key))
        m.hlc = (milliseconds, counter + 1)
        version = str(Version(EPOCH, milliseconds, counter + 1, self.name))
        m.sequence += 1
        m.outbox.append(Entry(m.sequence, key, version, value))
        m.values[key] = (version, value)
        return version, m.sequence, m.incarnation

    def _held(self, key: str) -> tuple[int, int]:
        if key not in self.memory.values:
            return (0, 0)
        held = Version.parse(self.memory.values[key][0])
        return (held.milliseconds, held.counter)

    def read(self, key: str) -> tuple[str | None, str, int, dict[str, Position], int]:
        """(version, incarnation, own sequence, positions, parked entries)."""
        m = self.memory
        if m.state != "member":
            raise Refused("not a member")
        return m.values.get(key, (None,))[0], m.incarnation, m.sequence, self.positions(), len(m.parked)

    def positions(self) -> dict[str, Position]:
        parsed = {origin: Position.parse(text) for origin, text in self.memory.peers.items()}
        return {origin: position for origin, position in parsed.items() if position is not None}

    def status(self) -> tuple[str, int, dict[str, str]]:
        return self.memory.incarnation, self.clock(), dict(self.memory.peers)

    def pull(self, after: int, reader: str) -> tuple[str, int, str, list[Entry]]:
        m = self.memory
        if m.state != "member" and reader != "repair":
            raise Refused("what a recovering node lacks is not known yet")
        entries = [e for e in m.outbox if e.sequence > after][:5]
        return m.incarnation, m.sequence, m.peers.get(reader, ""), entries

    def scan(self) -> tuple[str, int, int, list[Entry]]:
        """All values and parked entries at once: pages and restarts in between are simulated for CP."""
        m = self.memory
        entries = [Entry(0, k, v, x) for k, (v, x) in m.values.items()]
        entries += [Entry(0, k, v, x) for (v, k), x in m.parked.items()]
        return m.incarnation, m.sequence, self.boot, entries

    def apply(
        self, incarnation: str, origin: str, expected: str, position: str, entries: list[Entry], mark: int | None = None
    ) -> int:
        """``expected`` '*': a page of a full merge, asked for under ``mark``. Returns how many entries were news."""
        m = self.memory
        if m.incarnation != incarnation:
            raise Refused("guard")
        if expected != "*" and m.peers.get(origin, "") != expected:
            raise Refused("cursor")
        if expected == "*" and mark is not None and m.marks.mark != mark:
            self._events.count("page refused by its mark")
            raise Refused("mark")
        changed = 0
        for entry in entries:
            changed += self._merge(entry.key, entry.version, entry.value)
        if expected != "*":
            m.peers[origin] = position
        return changed

    def _merge(self, key: str, version: str, value: str | None) -> int:
        m, parsed = self.memory, Version.parse(version)
        if parsed.milliseconds > self.clock() + DRIFT_MS:
            if (version, key) not in m.parked:
                self._events.fault("entry parked", self.name)
            m.parked[version, key] = value
            return 0
        m.hlc = max(m.hlc, (parsed.milliseconds, parsed.counter))
        if key in m.values and not newer(version, m.values[key][0]):
            return 0
        m.values[key] = (version, value)
        return 1

    def old_tombstones(self, grace: int) -> tuple[tuple[str, str], ...]:
        limit = self.clock() - grace
        held = self.memory.values.items()
        return tuple((k, v) for k, (v, x) in held if x is None and Version.parse(v).milliseconds <= limit)

    def look(self, incarnation: str, keys: tuple[str, ...]) -> Looked:
        m = self._expect(incarnation)
        held = tuple(
            (v or "", "" if not v else "d" if x is None else "v") for v, x in (m.values.get(k, ("", "")) for k in keys)
        )
        parked = frozenset(key for _, key in m.parked)
        return Looked(self.clock(), m.sequence, m.marks.mark, m.marks.done, self.positions(), held, parked)

    def raise_mark(self, incarnation: str, mark: int, floor: str) -> Done:
        m = self._expect(incarnation)
        if m.marks.mark >= mark:
            raise Refused("late")
        m.marks = Marks(mark, m.marks.done, max(m.marks.floor, floor))
        if floor:
            self._raise_hlc(floor)
        return Done()

    def drop(self, incarnation: str, mark: int, rows: tuple[tuple[str, str], ...]) -> Done:
        m = self._expect(incarnation)
        if m.marks.mark < mark:
            raise Refused("late")
        m.marks = replace(m.marks, done=max(m.marks.done, mark))
        gone = [(k, v) for k, v in rows if m.values.get(k) == (v, None)]
        for key, version in gone:
            del m.values[key]
            self.dropped[key] = max(self.dropped.get(key, ""), version)
        return Done(len(gone))

    def take_tombstones(self, incarnation: str, mark: int, rows: tuple[tuple[str, str], ...]) -> Done:
        self.apply(incarnation, "", "*", "", [Entry(0, k, v, None) for k, v in rows], mark)
        self._events.count("tombstone sent again")
        return Done()

    def purge(self, incarnation: str, floor: str, record: str, origins: list[str]) -> int:
        """All at once: pages are simulated for CP."""
        m = self.memory
        if m.incarnation != incarnation:
            raise Refused("guard")
        m.peers.update(dict.fromkeys(origins, record))
        old = [k for k, (v, _) in m.values.items() if not newer(v, floor)]
        for key in old:
            del m.values[key]
        m.parked = {(v, k): x for (v, k), x in m.parked.items() if newer(v, floor)}
        return len(old)

    def settle(self, incarnation: str, marks: Marks) -> Done:
        if self.memory.incarnation != incarnation:
            raise Refused("guard")
        self.memory.marks = highest([self.memory.marks, marks])
        if marks.floor:
            self._raise_hlc(marks.floor)
        return Done()

    def _expect(self, incarnation: str) -> State:
        if self.memory.incarnation != incarnation or self.memory.state != "member":
            raise Refused("guard")
        return self.memory

    def _raise_hlc(self, version: str) -> None:
        parsed = Version.parse(version)
        self.memory.hlc = max(self.memory.hlc, (parsed.milliseconds, parsed.counter))

    def unpark(self) -> None:
        for (version, key), value in list(self.memory.parked.items()):
            if Version.parse(version).milliseconds <= self.clock() + DRIFT_MS:
                del self.memory.parked[version, key]
                self._merge(key, version, value)

    def trim(self, point: int) -> None:
        outbox = [e for e in self.memory.outbox if e.sequence > point]
        if len(outbox) > OUTBOX_CAP:
            self._events.fault("outbox trimmed past a peer", self.name)
        self.memory.outbox = outbox[-OUTBOX_CAP:]

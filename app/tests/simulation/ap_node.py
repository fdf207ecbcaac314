"""A simulated node's AP side: what the ap_*.lua scripts do, one at a time, with fsync before every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from events import Events

from holdfast import divergence
from holdfast.ap_collect import Done, Looked
from holdfast.ap_marks import Marks, highest
from holdfast.divergence import Digest
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
    #: Versions of the future that were written anew, as this entry or as one before it.
    replaces: frozenset[str] = frozenset()


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
    parked: dict[tuple[str, str], tuple[str | None, frozenset[str]]] = field(default_factory=dict)
    replaced: dict[str, frozenset[str]] = field(default_factory=dict)
    digests: dict[int, Digest] = field(default_factory=dict)
    marks: Marks = field(default_factory=Marks)


def copied(state: State) -> State:
    return replace(
        state,
        values=dict(state.values),
        outbox=list(state.outbox),
        peers=dict(state.peers),
        parked=dict(state.parked),
        replaced=dict(state.replaced),
        digests=dict(state.digests),
    )


def content(value: str | None) -> tuple[bytes, bytes]:
    """Kind and value as a node has them."""
    return (b"d", b"") if value is None else (b"v", value.encode())


def newer(one: str, other: str) -> bool:
    return one > other  # names of one length: the order of the texts is that of the versions


class Refused(Exception):
    """The guard or the cursor is another one."""


class ApNode:
    """A call that raises Refused changes nothing. The clock may be wrong and may jump: ``offset`` in ms."""

    def __init__(self, name: str, events: Events) -> None:
        self.name, self._events = name, events
        self.memory = State("member", f"first-{name}")
        self.disk = copied(self.memory)
        self.up, self.boot, self.offset, self.epoch = True, 0, 0, EPOCH
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
        version = self._mint(key, milliseconds, counter)
        m.sequence += 1
        m.outbox.append(Entry(m.sequence, key, version, value))
        m.values[key] = (version, value)
        return version, m.sequence, m.incarnation

    def _mint(self, key: str, milliseconds: int, counter: int) -> str:
        """The next version after these that was not replaced."""
        while True:
            counter += 1
            version = str(Version(self.epoch, milliseconds, counter, self.name))
            if version not in self.memory.replaced.get(key, ()):
                self.memory.hlc = (milliseconds, counter)
                return version

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
        entries = [Entry(0, k, v, x, r) for (v, k), (x, r) in m.parked.items()]
        return m.incarnation, m.sequence, self.boot, entries + self.some(m.values)

    def some(self, keys: Iterable[str]) -> list[Entry]:
        m = self.memory
        return [Entry(0, k, *m.values[k], m.replaced.get(k, frozenset())) for k in keys if k in m.values]

    def future(self) -> list[Entry]:
        """What `holdfast parked` lists: parked here, or held although it is of the future."""
        limit = self.clock() + DRIFT_MS
        return [e for e in self.scan()[3] if Version.parse(e.version).milliseconds > limit]

    def restamp(self, incarnation: str, rows: list[Entry], reuse: bool) -> list[tuple[str, str, str, int]]:
        """Write ``rows`` anew: (key, replaced, version, sequence). ``reuse``: the control, under the old versions."""
        m = self.memory
        if m.incarnation != incarnation or m.state != "member":
            raise Refused("guard")
        limit, done = self.clock() + DRIFT_MS, []
        m.hlc = (limit, m.hlc[1] if m.hlc[0] == limit else 0)
        for row in rows:
            value = m.values[row.key][1] if row.key in m.values else row.value
            version = row.version if reuse else self._mint(row.key, *m.hlc)
            m.sequence += 1
            gone = {row.version}
            if row.key in m.values and newer(m.values[row.key][0], version):
                gone.add(m.values[row.key][0])
            m.outbox.append(Entry(m.sequence, row.key, version, value, frozenset(gone)))
            m.values[row.key] = (version, value)
            if not reuse:
                self._note_replaced(row.key, frozenset(gone))
            done += [(row.key, old, version, m.sequence) for old in sorted(gone)]
        return done

    def _note_replaced(self, key: str, versions: frozenset[str]) -> None:
        m = self.memory
        m.replaced[key] = m.replaced.get(key, frozenset()) | versions
        for version in versions:
            m.parked.pop((version, key), None)

    def digest(self, incarnation: str, cycle: int, cutoff: int, gone: int) -> Digest:
        """Make this node's digest of a cycle and keep it. ``gone``: tombstones up to then are left out."""
        m, total = self.memory, divergence.Sum()
        if m.incarnation != incarnation or m.state != "member":
            raise Refused("guard")
        for row in self.digest_rows(cutoff, gone):
            total.add(row[3])
        m.digests = {c: d for c, d in m.digests.items() if c > cycle - 8} | {cycle: total.digest(m.incarnation)}
        return m.digests[cycle]

    def digest_rows(self, cutoff: int, gone: int) -> list[tuple[bytes, bytes, bytes, bytes]]:
        rows = []
        for key, (version, value) in self.memory.values.items():
            at = Version.parse(version).milliseconds
            if at <= cutoff and (value is not None or at > gone):
                raw, what = (key.encode(), version.encode()), content(value)
                rows.append((*raw, divergence.rank(*what), b"%016x" % divergence.entry_hash(*raw, *what)))
        return rows

    def ranks(self, keys: Iterable[str]) -> list[tuple[bytes, bytes]]:
        held = [self.memory.values.get(k) for k in keys]
        return [(h[0].encode(), divergence.rank(*content(h[1]))) if h else (b"", b"") for h in held]

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
            changed += self._merge(entry.key, entry.version, entry.value, entry.replaces)
        if expected != "*":
            m.peers[origin] = position
        return changed

    def _merge(self, key: str, version: str, value: str | None, replaces: frozenset[str]) -> int:
        m, parsed = self.memory, Version.parse(version)
        if parsed.milliseconds > self.clock() + DRIFT_MS:
            for other in replaces:
                m.parked.pop((other, key), None)
            if version in m.replaced.get(key, ()):
                return 0
            if (version, key) not in m.parked:
                self._events.fault("entry parked", self.name)
            m.parked[version, key] = (value, replaces)
            return 0
        m.hlc = max(m.hlc, (parsed.milliseconds, parsed.counter))
        if replaces:
            self._note_replaced(key, replaces)
        gone, held = m.replaced.get(key, frozenset()), m.values.get(key)
        if held is not None and held[0] == version:
            if divergence.rank(*content(value)) <= divergence.rank(*content(held[1])):
                return 0
        elif version in gone or (held is not None and held[0] not in gone and not newer(version, held[0])):
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
        for (version, key), (value, replaces) in list(self.memory.parked.items()):
            if Version.parse(version).milliseconds <= self.clock() + DRIFT_MS:
                self.memory.parked.pop((version, key), None)
                self._merge(key, version, value, replaces)

    def trim(self, point: int) -> None:
        outbox = [e for e in self.memory.outbox if e.sequence > point]
        if len(outbox) > OUTBOX_CAP:
            self._events.fault("outbox trimmed past a peer", self.name)
        self.memory.outbox = outbox[-OUTBOX_CAP:]

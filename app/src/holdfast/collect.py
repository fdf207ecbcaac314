"""Collecting tombstones of the CP face: the pure part. No I/O, no clock; driven like repair.py, by the same means.

A tombstone with tag t of a key may go only when no node can ever again hold an older tag of that key: then "nothing
there" means the same as the tombstone. One batch of tombstones, on *all* N configured nodes, each step under the
guards of one membership epoch, each complete before the next:

1. Lock: every node raises its floor to the batch's largest tag, and takes no vouched store until the lock ends.
2. Hold: every node, still locked by this batch, holds exactly t, or nothing. Other keys leave the batch.
3. Hold, once more: the locks were there all the time while step 2 looked.
4. Drop: every node removes the registers that still hold exactly t, and ends its lock.

Invariant: after step 3 no member ever holds a tag s < t of the key. At step 2 none does. Afterwards a node that has the
key holds t or more and keeps the larger tag; a node that has nothing refuses s, because its floor is >= t, except a
vouched store. Take the first vouched store of s that a node X takes after X's step 2. X named its batch at a time f, a
member Y held s at e > f, and X was not locked at f or since (a lock changes the batch). X was locked from step 1 to 3,
so f, and e, are after X's step 3 and so after Y's step 2. Y did not hold s then, so it took s in a vouched store after
its step 2: that one was earlier. Contradiction. One look (without step 3) is not enough: X's lock could be broken by
another collector after X was looked at and before Y was, while Y still held s.

A collector may therefore die anywhere. Tombstones dropped on some nodes only come back by a read's write-back and are
collected later; a lock that is left is taken over by the next batch. A delayed drop removes exactly t, which is still
right. A node that lost its data is no member, so no batch passes step 3 without it, and its repair gets the floor
(repair.py). The clock in tags and the grace decide only *when* a tombstone is looked at: with a grace of zero, delayed
stores and lagging nodes are refused more often, and nothing else happens.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from .contract import TOMBSTONE, NotDone, Register, Reply, Store
from .guard import Guard
from .repair_plan import Ask, Differs
from .tags import NO_TAG


@dataclass(frozen=True, slots=True)
class Lock:
    """Step 1. ``over``: a batch whose lock may be taken over."""

    guard: Guard
    batch: str
    floor: str
    over: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """Show what the node holds of ``keys``; only under the lock of ``batch``, or '': without one."""

    guard: Guard
    batch: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove registers that hold exactly the given tag; end the lock of ``batch``."""

    guard: Guard
    batch: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Locked:
    pass


@dataclass(frozen=True, slots=True)
class Busy:
    """Another batch holds the lock."""

    batch: str


@dataclass(frozen=True, slots=True)
class Held:
    """(tag, kind) of each key, in the order asked; empty texts for nothing."""

    registers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    count: int


CollectStep = Lock | Hold | Drop | Ask
CollectTold = Locked | Busy | Held | Dropped | Reply | Differs | NotDone
Collecting = Generator[list[tuple[str, CollectStep]], list[CollectTold], "Collected"]


@dataclass(frozen=True, slots=True)
class Collected:
    """How many tombstones went from all nodes; the batch that was in the way, if one was; what could not be done."""

    count: int = 0
    busy: str = ""
    why: str = ""


def collect(
    rows: tuple[tuple[str, str], ...],
    members: dict[str, Guard],
    names: tuple[str, ...],
    batch: str,
    over: str = "",
    enough: int = 0,
) -> Collecting:
    """One batch of (key, tag), old tombstones of one node. ``batch``: an id never used before.

    ``enough`` below the number of nodes is the negative control of the tests.
    """
    enough = enough or len(names)
    if not rows:
        return Collected()
    if len(members) < enough or len({(g.region_epoch, g.membership_epoch) for g in members.values()}) != 1:
        return Collected(why=f"waiting for all nodes: {', '.join(n for n in names if n not in members)} cannot vote")
    rows = yield from _ready(rows, members, enough)
    if not rows:
        return Collected(why="some nodes do not have these tombstones yet")
    top = max(tag for _, tag in rows)
    told = yield [(n, Lock(g, batch, top, over)) for n, g in members.items()]
    if sum(isinstance(t, Locked) for t in told) < enough:
        yield from _end(members, batch)
        busy = next((t.batch for t in told if isinstance(t, Busy)), "")
        return Collected(busy=busy, why="not all nodes could be locked")
    for _look in range(2):
        told = yield [(n, Hold(g, batch, tuple(k for k, _ in rows))) for n, g in members.items()]
        holds = [t.registers for t in told if isinstance(t, Held)]
        if len(holds) < enough:
            yield from _end(members, batch)
            return Collected(why="a node was lost, or its lock")
        rows = tuple(
            (key, tag)
            for i, (key, tag) in enumerate(rows)
            if all(h[i][0] == NO_TAG or h[i] == (tag, TOMBSTONE) for h in holds)
        )
    yield [(n, Drop(g, batch, rows)) for n, g in members.items()]
    return Collected(len(rows))


def _ready(
    rows: tuple[tuple[str, str], ...], members: dict[str, Guard], enough: int
) -> Generator[list[tuple[str, CollectStep]], list[CollectTold], tuple[tuple[str, str], ...]]:
    """A look without locks: the keys that may be collected. Nodes that missed a delete are sent the tombstone."""
    keys = tuple(k for k, _ in rows)
    told = yield [(n, Hold(g, "", keys)) for n, g in members.items()]
    held = {n: t.registers for n, t in zip(members, told, strict=True) if isinstance(t, Held)}
    if len(held) < enough:
        return ()
    ready: list[tuple[str, str]] = []
    stores: list[tuple[str, CollectStep]] = []
    for i, (key, tag) in enumerate(rows):
        behind = [n for n, h in held.items() if NO_TAG < h[i][0] < tag]
        stores += [(n, Ask(members[n], key, Store(Register(tag, TOMBSTONE, None)))) for n in behind]
        if all(h[i][0] == NO_TAG or h[i] == (tag, TOMBSTONE) for h in held.values()):
            ready.append((key, tag))
    if stores:
        yield stores
    return tuple(ready)


def _end(members: dict[str, Guard], batch: str) -> Generator[list[tuple[str, CollectStep]], list[CollectTold], None]:
    yield [(n, Drop(g, batch, ())) for n, g in members.items()]

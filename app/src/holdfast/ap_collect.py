"""Collecting tombstones of the AP face: the pure part. No I/O, no clock; driven like collect.py.

A tombstone of version t of a key may go only when no node can ever again take an older version of that key. One batch,
on *all* N configured nodes, each step complete before the next, each under the guards of step 1 (member, one epoch, the
same incarnation):

1. Look, one atomic step on each node: it holds exactly t, nothing of the key is parked, its own clock says that t is
   older than the grace, and its outbox ends at a sequence number, its head.
2. Wait: each node's position in each other's outbox is at or beyond that other's head of step 1.
3. Mark: every node's mark grows to the batch's, which is above every mark seen; its HLC grows to t at least. From then
   on it refuses each page of a copy (full merge, repair, comparison of digests) that was asked for under an older mark.
4. Drop: every node removes the key if it still has exactly t, so a newer write of the key wins.

Nobody is judged by how long it was silent: while one node is away nothing is collected, however old a tombstone is.

Invariant: once step 4 has begun, no node takes a version s < t of the key, applied or parked. Take the first that does,
X, after its step 1 (there it held t, and until its step 4 t wins). s can come

- from a client's write on X: minted above X's HLC, which is at least t.
- from the outbox of O. O held t at step 1, so what it mints later is above t, and s is at or before O's head. Then X's
  position had passed s at step 2. A batch that was under way compares the position it expects, and positions go back
  only on a node that becomes *recovering*, under a new incarnation, which ends this batch or comes after it (below).
- from a page of a copy, read from O. Read after O's step 1: then O held s after it and X is not the first. Read before:
  X was asked for its mark before that page was asked for, so before X's step 3 (step 1 is complete by then), and now
  refuses the page. This is what bounds a full merge: not time, but the mark at its beginning.
- from X's parked entries: there was none at step 1, and parking s counts as taking it.
- from X's disk, restored. That is why ``done`` is noted in step 4: all nodes were marked before, so data whose mark is
  below another node's ``done`` is of before. Repair removes from it what is at or below the floor before anybody reads
  it (repair_ap.py): at step 2 every node had applied what X held then, so nothing is lost that was not superseded. A
  full merge, a comparison and this module refuse a node whose mark is below another's ``done``.
- from a restamp, the one step that takes an HLC back: to the clock plus the drift, on a node whose clock the others
  confirm. t is behind every node's clock by the grace.

A collector may therefore die anywhere, and two may run: a mark that is not above the one held is refused, so of two
batches with one mark at most one gets past step 3. A delayed drop removes exactly t, which is still right. Nodes remove
at different moments; a node that lacks t while others hold it (a lost drop) is sent t again and all collect it later.
The digests leave out tombstones that may have been collected (divergence.py). Clocks and the grace decide only when.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum

from .contract import TOMBSTONE
from .guard import Guard
from .hlc import Version
from .multiprimary import Position

#: Looks at the positions before a batch is put off, and the rest before each in seconds.
LOOKS, LOOK_REST_SEC = 12, 0.15


class Reason(Enum):
    """Why a batch, or part of it, waits."""

    MEMBER_AWAY = "member_away"
    OLD_DATA = "old_data"
    NOT_EVERYWHERE = "not_everywhere"
    PARKED = "parked"
    CLOCK = "clock"
    LAG = "lag"
    OVERTAKEN = "overtaken"


@dataclass(frozen=True, slots=True)
class Look:
    """Steps 1 and 2. ``rest_sec``: how long to wait before it is sent."""

    guard: Guard
    keys: tuple[str, ...]
    rest_sec: float = 0.0


@dataclass(frozen=True, slots=True)
class Send:
    """Tombstones for a node that lacks them, as a page of a copy that was read under ``mark``."""

    guard: Guard
    mark: int
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Mark:
    guard: Guard
    mark: int
    floor: str


@dataclass(frozen=True, slots=True)
class Drop:
    guard: Guard
    mark: int
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """``held``: (version, kind) of each key asked for, empty texts for nothing. ``more_parked``: not all are named."""

    now_ms: int
    sequence: int
    mark: int
    done: int
    positions: dict[str, Position]
    held: tuple[tuple[str, str], ...] = ()
    parked: frozenset[str] = frozenset()
    more_parked: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """A Send, Mark or Drop took place; ``count``: tombstones removed."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer, another guard, or the mark was refused."""

    why: str


Step = Look | Send | Mark | Drop
Told = Looked | Done | Failed
Round = list[tuple[str, Step]]
Collecting = Generator[Round, list[Told], "Collected"]


@dataclass(frozen=True, slots=True)
class Collected:
    """How many tombstones went from all nodes; what held up the others, if anything did."""

    count: int = 0
    reason: Reason | None = None
    why: str = ""


def collect(
    rows: tuple[tuple[str, str], ...],
    members: dict[str, Guard],
    names: tuple[str, ...],
    grace_ms: int,
    enough: int = 0,
    wait_for_positions: bool = True,
) -> Collecting:
    """One batch of (key, version), tombstones of one node. ``members``: the nodes that vote, with their guards.

    ``enough`` below the number of nodes and no waiting for positions are negative controls of the tests.
    """
    enough = enough or len(names)
    away = ", ".join(n for n in names if n not in members)
    if len(members) < enough or len({(g.region_epoch, g.membership_epoch) for g in members.values()}) != 1:
        return Collected(0, Reason.MEMBER_AWAY, f"all nodes are needed, and {away or 'some'} cannot vote")
    told = yield [(n, Look(g, tuple(k for k, _ in rows))) for n, g in members.items()]
    looks = {n: t for n, t in zip(members, told, strict=True) if isinstance(t, Looked)}
    if len(looks) < enough:
        return _silent(members, told)
    members = {n: members[n] for n in looks}
    done = max(look.done for look in looks.values())
    before = ", ".join(n for n, look in looks.items() if look.mark < done)
    if before:
        return Collected(0, Reason.OLD_DATA, f"data from before a collection: holdfast repair {before} --suspect")
    ready, waits = _ready(rows, looks, members, grace_ms)
    behind = _behind(rows, looks)
    if behind:
        yield [(n, Send(members[n], looks[n].mark, part)) for n, part in behind.items()]
    if not ready:
        return waits
    heads = {n: Position(members[n].incarnation, look.sequence, None) for n, look in looks.items()}
    for attempt in range(LOOKS + 1):
        late = lagging(heads, {n: look.positions for n, look in looks.items()}) if wait_for_positions else ""
        if not late:
            break
        if attempt == LOOKS:
            return Collected(0, Reason.LAG, late)
        told = yield [(n, Look(g, (), LOOK_REST_SEC)) for n, g in members.items()]
        # A node that did not answer this time is asked again; its guard is compared in step 3 in any case.
        looks |= {n: t for n, t in zip(members, told, strict=True) if isinstance(t, Looked)}
    mark = max(*(look.mark + 1 for look in looks.values()), min(look.now_ms for look in looks.values()))
    floor = max((v for _, v in ready), key=lambda v: Version.parse(v).order())
    told = yield [(n, Mark(g, mark, floor)) for n, g in members.items()]
    if not all(isinstance(t, Done) for t in told):
        return Collected(0, Reason.OVERTAKEN, "a node changed meanwhile, or another collector was faster")
    told = yield [(n, Drop(g, mark, ready)) for n, g in members.items()]
    counts = [t.count for t in told if isinstance(t, Done)]
    if len(counts) < len(members):
        return _silent(members, told)
    return Collected(min(counts), waits.reason, waits.why)


def _silent(members: dict[str, Guard], told: list[Told]) -> Collected:
    why = ", ".join(f"{n}: {t.why}" for n, t in zip(members, told, strict=True) if isinstance(t, Failed))
    return Collected(0, Reason.MEMBER_AWAY, f"all nodes are needed; {why}")


def _ready(
    rows: tuple[tuple[str, str], ...], looks: dict[str, Looked], members: dict[str, Guard], grace_ms: int
) -> tuple[tuple[tuple[str, str], ...], Collected]:
    """The rows that pass step 1, and what holds up the others (the last reason found)."""
    ready: list[tuple[str, str]] = []
    waits = Collected()
    limit = min(look.now_ms for look in looks.values()) - grace_ms
    epoch = min(g.region_epoch for g in members.values())
    for i, (key, raw) in enumerate(rows):
        version = Version.parse(raw)
        if any(look.more_parked or key in look.parked for look in looks.values()):
            waits = Collected(0, Reason.PARKED, "entries of the future are parked: see holdfast parked list")
        elif version.milliseconds > limit or version.region_epoch > epoch:
            waits = Collected(0, Reason.CLOCK, "a node's clock says that the tombstone is younger than the grace")
        elif any(look.held[i] != (raw, TOMBSTONE) for look in looks.values()):
            waits = Collected(0, Reason.NOT_EVERYWHERE, "some nodes do not have these tombstones, or have newer writes")
        else:
            ready.append((key, raw))
    return tuple(ready), waits


def _behind(rows: tuple[tuple[str, str], ...], looks: dict[str, Looked]) -> dict[str, tuple[tuple[str, str], ...]]:
    """For each node the rows it holds nothing of, or something older."""
    behind: dict[str, tuple[tuple[str, str], ...]] = {}
    for node, look in looks.items():
        old = tuple(
            row
            for row, (held, _) in zip(rows, look.held, strict=True)
            if not held or Version.parse(held).order() < Version.parse(row[1]).order()
        )
        if old:
            behind[node] = old
    return behind


def lagging(heads: dict[str, Position], positions: dict[str, dict[str, Position]]) -> str:
    """Who has not applied an origin's outbox up to its head, as text; '' if all have. Same incarnations only."""
    for node, known in positions.items():
        for origin, head in heads.items():
            position = known.get(origin)
            if origin != node and (
                position is None or position.incarnation != head.incarnation or position.sequence < head.sequence
            ):
                return f"{node} has not applied all that {origin} wrote"
    return ""

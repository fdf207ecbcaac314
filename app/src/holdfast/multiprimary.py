"""AP: the decisions of multi-primary replication and of reads, as pure functions (no I/O, no clock).

Staleness is replication lag, not the age of a value: for each other node, the time since this zone was last known to
hold everything that node had. ``caught_up_ms`` is that moment on the *reading* node's own clock, stored in the same
script that applied the data, so no two clocks are compared and a dead replicator shows as growing lag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from .sessions import Session


@dataclass(frozen=True, slots=True)
class Position:
    """How far a node has applied one origin's outbox. ``caught_up_ms`` is None if it never was caught up."""

    incarnation: str
    sequence: int
    caught_up_ms: int | None

    def __str__(self) -> str:
        return f"{self.incarnation} {self.sequence} {'-' if self.caught_up_ms is None else self.caught_up_ms}"

    @staticmethod
    def parse(text: str) -> Position | None:
        parts = text.split(" ")
        if len(parts) != 3 or not parts[1].isdigit():
            return None
        return Position(parts[0], int(parts[1]), int(parts[2]) if parts[2].isdigit() else None)


def staleness(node: str, nodes: Iterable[str], peers: Mapping[str, Position], now_ms: int) -> dict[str, int | None]:
    """For each other node the lag of ``node`` behind it in ms; None is unknown (also when the clock went back)."""
    lags: dict[str, int | None] = {}
    for other in nodes:
        if other == node:
            continue
        position = peers.get(other)
        caught_up = position.caught_up_ms if position is not None else None
        lags[other] = now_ms - caught_up if caught_up is not None and caught_up <= now_ms else None
    return lags


def worst(lags: Mapping[str, int | None]) -> int | None:
    """The largest lag, unknown if any is; 0 only when there is no other node."""
    known = [lag for lag in lags.values() if lag is not None]
    return max(known, default=0) if len(known) == len(lags) else None


def unmet(
    session: Session, node: str, incarnation: str, own_sequence: int, peers: Mapping[str, Position], parked: int = 0
) -> set[str]:
    """The origins of the session's writes that ``node`` cannot be shown to hold.

    ``parked``: entries the node keeps without applying them. Its positions are beyond those, so while there are any
    nothing of another origin is sure to be seen. Writes under a dead incarnation are missing for good.
    """
    missing = set(session.dead)
    for origin, (wanted_incarnation, wanted) in session.writes.items():
        position = Position(incarnation, own_sequence, None) if origin == node else peers.get(origin)
        hidden = parked > 0 and origin != node
        if hidden or position is None or position.incarnation != wanted_incarnation or position.sequence < wanted:
            missing.add(origin)
    return missing


class Next(Enum):
    """What a replicator does after it looked at an origin's outbox."""

    APPLY = "apply"
    IDLE = "idle"
    FULL_MERGE = "full_merge"


def judge(cursor: Position | None, incarnation: str, head: int, sequences: Sequence[int]) -> Next:
    """Decide from the cursor and what a pull returned.

    ``head``: the last sequence number the origin minted; ``sequences``: those of the entries returned, which must
    follow the cursor without a gap. No cursor, another incarnation, a head behind the cursor (history was cut) and a
    gap (the outbox was trimmed past us) all lead to the one full merge.
    """
    if cursor is None or cursor.incarnation != incarnation or head < cursor.sequence:
        return Next.FULL_MERGE
    if not sequences:
        return Next.IDLE if head == cursor.sequence else Next.FULL_MERGE
    first = cursor.sequence + 1
    # Comparing ranges is cheap: a batch without a gap comes as one (see dense).
    if range(first, first + len(sequences)) != (sequences if isinstance(sequences, range) else dense(sequences)):
        return Next.FULL_MERGE
    return Next.APPLY


def dense(sequences: Sequence[int]) -> Sequence[int]:
    """Growing ``sequences`` as a range if none is missing between the first and the last, otherwise as they are."""
    return between(sequences[0], sequences[-1], len(sequences)) if sequences else range(0)


def between(first: int, last: int, count: int) -> Sequence[int]:
    """``count`` growing numbers from ``first`` to ``last``: the range, or only the two ends if some are missing."""
    return range(first, last + 1) if last - first + 1 == count else (first, last)


def trim_point(incarnation: str, acknowledged: Iterable[Position | None]) -> int:
    """The sequence up to which every peer has applied this outbox; 0 (trim nothing) if any peer is unknown."""
    slowest: int | None = None
    for position in acknowledged:
        if position is None or position.incarnation != incarnation:
            return 0
        slowest = position.sequence if slowest is None else min(slowest, position.sequence)
    return slowest or 0

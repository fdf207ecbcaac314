"""What `holdfast repair` may say to nodes and hear from them, and which nodes may be believed. Pure: no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from .contract import NotDone, Query, Reply, Store
from .guard import FENCED, MEMBER, PROMOTED, Guard


class Code(IntEnum):
    """How a repair ended; the command's exit code."""

    OK = 0
    UNREACHABLE = 3
    DATA_WITHOUT_GUARD = 4
    WRONG_NODE = 5
    NO_MAJORITY = 6
    MUST_EMPTY = 7
    FENCED = 8
    OVERTAKEN = 9
    UNSETTLED = 10


class Stopped(Exception):
    """The repair cannot go on; nothing is broken by that. ``str`` says why and what to do."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Look:
    """Show the guard, whether the node holds nothing else, and the server's run id."""


@dataclass(frozen=True, slots=True)
class Move:
    """Replace the guard ``expected`` by ``new`` in one step. Expected None: only on a node that holds nothing at all.

    Becoming *recovering* also forgets how far the node had applied the others' AP writes, and ends what a collection
    had begun there; the fresh incarnation becomes the batch under which only this repair vouches.

    ``history``: that of the nodes it is healed from; the node's own is raised to it.
    """

    expected: Guard | None
    new: Guard
    history: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A page of SCAN: keys and tags. Executed only under exactly this guard."""

    guard: Guard
    cursor: str


@dataclass(frozen=True, slots=True)
class Compare:
    """Which of these registers are older on the node than in ``rows`` (key, tag), or are not there. Executed only under
    exactly this guard."""

    guard: Guard
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A register's request, executed only under exactly this guard (also when it says *recovering*)."""

    guard: Guard
    key: str
    request: Query | Store


@dataclass(frozen=True, slots=True)
class Seen:
    guard: Guard | None
    empty: bool
    run_id: str
    #: The node's floor: the largest tag a collection has named there.
    floor: str = ""
    #: The region epoch from which on its history was cut back (region_adopt.py); 0: it never was.
    history: int = 0
    #: A copy that a promotion (or an adoption) marked *recovering* and never made a voter.
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Floor:
    """Raise the node's floor of collection; executed only under exactly this guard."""

    guard: Guard
    floor: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove registers that hold exactly the given tag; executed only under exactly this guard."""

    guard: Guard
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Moved:
    pass


@dataclass(frozen=True, slots=True)
class Rows:
    run_id: str
    cursor: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Older:
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Differs:
    """Refused: the guard is another one (None: there is none)."""

    guard: Guard | None


Step = Look | Move | Page | Compare | Ask | Floor | Forget
Told = Seen | Moved | Rows | Older | Reply | Differs | NotDone
Round = list[tuple[str, Step]]
T = TypeVar("T")
Steps = Generator[Round, list[Told], T]
#: Called with (phase, source, keys looked at, keys copied).
Progress = Callable[[str, str, int, int], None]


def majority(names: tuple[str, ...]) -> int:
    return len(names) // 2 + 1


def look(names: tuple[str, ...]) -> Steps[dict[str, Seen]]:
    """All nodes that answer. Stops if two names are one server."""
    told = yield [(n, Look()) for n in names]
    seen = {n: t for n, t in zip(names, told, strict=True) if isinstance(t, Seen)}
    twice = [n for n, s in seen.items() if Counter(o.run_id for o in seen.values())[s.run_id] > 1]
    if twice:
        raise Stopped(Code.WRONG_NODE, f"{', '.join(twice)}: one server under several names; correct NODES")
    return seen


def valid(seen: dict[str, Seen], names: tuple[str, ...], region: str, without: frozenset[str]) -> dict[str, Guard]:
    """The members that kept their data. A member behind the majority's epoch is stale: it must be healed itself.

    Where no epoch has a majority, a raise was interrupted: those one epoch behind the highest count as well.
    """
    top = top_region_epoch(seen, region)
    members = {
        n: s.guard
        for n, s in seen.items()
        if s.guard is not None and s.guard.state == MEMBER and ours(s.guard, region, n) and s.guard.region_epoch == top
    }
    epochs = Counter(g.membership_epoch for g in members.values())
    agreed = [e for e, count in epochs.items() if count >= majority(names)]
    lowest = agreed[0] if agreed else max(epochs, default=1) - 1
    return {n: g for n, g in members.items() if g.membership_epoch >= lowest and n not in without}


def check_settled(seen: dict[str, Seen], region: str) -> None:
    """Stops while the copies of a promotion are not settled: then only settle.py may move data and guards."""
    held = [s.guard for n, s in seen.items() if s.guard is not None and ours(s.guard, region, n)]
    top = max((g.region_epoch for g in held), default=0)
    states = {g.state for g in held if g.region_epoch == top}
    if PROMOTED in states and MEMBER not in states:
        raise Stopped(Code.UNSETTLED, "the region was promoted and is not settled yet; see holdfast region status")


def top_region_epoch(seen: dict[str, Seen], region: str) -> int:
    return max((s.guard.region_epoch for n, s in seen.items() if s.guard and ours(s.guard, region, n)), default=1)


def split(able: dict[str, Guard], names: tuple[str, ...]) -> bool:
    """Valid nodes enough, but no epoch has a majority: a raise was interrupted, nobody can vote until it is ended."""
    epochs = Counter(g.membership_epoch for g in able.values())
    return len(able) >= majority(names) and max(epochs.values()) < majority(names)


def check_target(name: str, seen: dict[str, Seen], region: str) -> Seen:
    """Stops unless the node may be healed by merging."""
    if name not in seen:
        raise Stopped(Code.UNREACHABLE, f"{name}: does not answer; bring it up and run this again")
    guard = seen[name].guard
    if guard is None:
        if not seen[name].empty:
            raise Stopped(Code.DATA_WITHOUT_GUARD, f"{name}: holds data but no guard; find out whose data it is")
        return seen[name]
    if not ours(guard, region, name):
        raise Stopped(Code.WRONG_NODE, f"{name}: its guard names node {guard.node} of region {guard.region}")
    if guard.state == FENCED:
        raise Stopped(Code.FENCED, f"{name}: fenced, this region must not serve")
    if (guard.state == PROMOTED or seen[name].marked) and not seen[name].empty:
        raise Stopped(
            Code.MUST_EMPTY,
            f"{name}: a promoted copy that was set aside must not be merged; empty the node and run this again",
        )
    if guard.region_epoch < top_region_epoch(seen, region) and not seen[name].empty:
        raise Stopped(
            Code.MUST_EMPTY,
            f"{name}: its data is of an older region epoch and must not be merged; empty the node and run this again",
        )
    return seen[name]


def ours(guard: Guard, region: str, name: str) -> bool:
    return guard.region == region and guard.node == name

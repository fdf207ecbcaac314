"""Which files, and how much of them, give the state at one moment. Pure: sets in, plan or refusal out.

The moment T is a whole second of the node's clock. Invariant of a plan: every write that ran before T is in, none that
began after T (with clocks that are right within a second: every write acknowledged a second before T is in, none begun
a second after T is). It holds because

- the cut is at the first mark of T or later, and marks stand before the first command of their second;
- a base is used only for moments not before it began to be written, so it holds nothing younger;
- a file is replayed after another only if one of Redis's own manifests listed them so, and the first is there whole;
- a chain answers for T only if a mark of T or later is in it, or the node said after T that all it had run was there.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from . import moments
from .backup_sets import Base, Piece, Set
from .refusals import Refused

Marks = Callable[[Piece], tuple[tuple[int, int], ...]]


@dataclass(frozen=True, slots=True)
class Part:
    """The first ``take`` bytes of an incremental file, in pieces."""

    incr: str
    take: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """``moment``: what was asked for. ``newest``: nothing is cut off; all that was backed up."""

    moment: float
    newest: bool
    line: str
    base: Base | None
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        return (self.base.bytes if self.base else 0) + sum(p.take for p in self.parts)

    def told(self) -> dict[str, Any]:
        """What a restored directory says of itself."""
        return {
            "moment": self.moment,
            "newest": self.newest,
            "line": self.line,
            "base": self.base.name if self.base else None,
            "parts": [[p.incr, p.take] for p in self.parts],
        }

    def made(self, told: dict[str, Any]) -> bool:
        """``told`` is of this plan, or of one on an older base that ends in the same place."""
        mine, theirs = self.told(), told.get("parts")
        if any(told.get(word) != mine[word] for word in ("moment", "newest", "line")) or not isinstance(theirs, list):
            return False
        ours, theirs = ([part for part in parts if part[1:] != [0]] for parts in (mine["parts"], theirs))
        both = min(len(ours), len(theirs))
        return ours == theirs or (both > 0 and ours[-both:] == theirs[-both:])


@dataclass(slots=True)
class Run:
    """Incremental files that follow one another without a hole. ``last``: it tells all up to that second."""

    parts: list[Part] = field(default_factory=list)
    last: float = -math.inf


@dataclass(slots=True)
class Chain:
    """A base, and the run that is replayed on it from ``at`` on. Answers for moments from ``first`` to ``last``."""

    line: str
    base: Base | None
    run: Run
    at: int
    first: float
    last: float

    @property
    def parts(self) -> list[Part]:
        return self.run.parts[self.at :]

    def cut(self, to: int, marks: Marks) -> tuple[int, int] | None:
        """Where the first mark of ``to`` or later is: number of the part, offset in its file. Of each piece the highest
        mark is enough, but for the one in which that is."""
        for number, part in enumerate(self.parts):
            for piece in part.pieces:
                if any(second >= to for second, _ in piece.marks):
                    return number, next(at for second, at in marks(piece) if second >= to)
        return None


@dataclass(slots=True)
class _Line:
    name: str
    begins: float
    ends: float = math.inf
    bases: dict[str, Base] = field(default_factory=dict)
    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)
    heads: dict[str | None, str] = field(default_factory=dict)  # base -> the first file after it
    follows: dict[str, str] = field(default_factory=dict)
    checks: list[tuple[float, str, int]] = field(default_factory=list)

    def note(self, base: str | None, incrs: tuple[str, ...]) -> None:
        if incrs:
            self.heads[base] = incrs[0]
        self.follows.update(pairwise(incrs))

    def runs(self) -> list[Run]:
        found: list[Run] = []
        for incr in (i for i in self.incrs() if i not in self.follows.values()):
            run, going, name = Run(), False, incr
            while True:
                pieces = _without_hole(self.pieces.get(name, []))
                size = pieces[-1].end if pieces else 0
                if not going:
                    run = Run()
                    found.append(run)
                run.parts.append(Part(name, size, tuple(pieces)))
                # If it may go on with what is not here, nothing behind it can be replayed on it.
                going = self.closed.get(name) == size
                if name not in self.follows:
                    break
                name = self.follows[name]
        for run in found:
            takes = {part.incr: part.take for part in run.parts}
            seconds = [s for part in run.parts for p in part.pieces for s, _ in p.marks]
            seconds += [math.floor(moment) for moment, incr, reach in self.checks if takes.get(incr, -1) >= reach]
            run.last = max(seconds, default=-math.inf)
        return found

    def incrs(self) -> set[str]:
        return {*self.heads.values(), *self.follows, *self.follows.values()}


def chains(sets: Sequence[Set], without: frozenset[str] = frozenset()) -> list[Chain]:
    """Every chain that answers for some moment, oldest first. ``without``: paths of bases that are damaged."""
    return [c for c in _all(sets, without) if c.first <= c.last]


def _all(sets: Sequence[Set], without: frozenset[str]) -> list[Chain]:
    found = []
    for line in _lines(sets):
        places = {part.incr: (run, at) for run in line.runs() for at, part in enumerate(run.parts)}
        for name, head in line.heads.items():
            base = line.bases.get(name) if name else None
            if name and (base is None or base.made is None or base.path in without):
                continue
            run, at = places[head]
            first = max(line.begins, base.made if base and base.made else 0)
            found.append(Chain(line.name, base, run, at, first, min(run.last, line.ends)))
    return sorted(found, key=lambda c: (c.line, c.first))


def _lines(sets: Sequence[Set]) -> list[_Line]:
    found: dict[str, _Line] = {}
    for made in sorted(sets, key=lambda s: s.moment):
        for base in made.bases:
            _line(found, base.line).bases[base.name] = base
        for piece in made.pieces:
            _line(found, piece.line).pieces.setdefault(piece.incr, []).append(piece)
        for name, incr, size in made.closed:
            _line(found, name).closed[incr] = size
        for name, first, listed in (*made.seen, made.listing):
            _line(found, name).note(first, listed)
        incrs = made.listing[2]
        _line(found, made.listing[0]).checks.append((made.moment, incrs[-1] if incrs else "", made.reach))
    lines = [found[name] for name in sorted(found)]
    lines[0].begins = math.floor(moments.from_stamp(lines[0].name))
    for older, newer in pairwise(lines):
        older.ends = newer.begins  # a restored node replays marks of long ago: they are the older line's
    return lines


def _line(found: dict[str, _Line], name: str) -> _Line:
    if name not in found:
        found[name] = _Line(name, math.ceil(moments.from_stamp(name)))
    return found[name]


def _without_hole(pieces: list[Piece]) -> list[Piece]:
    kept: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: (p.start, -p.end)):
        at = kept[-1].end if kept else 0
        if piece.start == at and piece.end > at:
            kept.append(piece)
    return kept


def choose(
    sets: Sequence[Set],
    to: int | None,
    without: frozenset[str] = frozenset(),
    marks: Marks = operator.attrgetter("marks"),
) -> Plan:
    """``to``: a moment in whole seconds, None: the newest there is. ``marks``: all those of a piece, where ``sets`` has
    only the highest. Raises Refused."""
    usable = chains(sets, without)
    if to is None:
        newest = max(sets, key=lambda s: s.moment)
        good = [c for c in _all(sets, without) if c.line == newest.listing[0] and c.last >= math.floor(newest.moment)]
        if not good:
            raise Refused("the newest backup is not whole", f"choose a moment in {_windows(usable) or 'another store'}")
        return Plan(newest.moment, True, good[-1].line, good[-1].base, tuple(good[-1].parts))
    for made in sets:
        if made.doubt and made.doubt[0] < to <= made.doubt[1]:
            raise Refused(
                f"between {moments.shown(made.doubt[0])} and {moments.shown(made.doubt[1])} moments cannot be told "
                "apart: the node's clock went back, or it ran without aof-timestamp-enabled",
                "choose a moment before or after",
            )
    if not usable:
        raise Refused("no moment in these backups can be restored", "restore the newest, or collect again")
    good = [c for c in usable if c.first <= to <= c.last]
    if not good:
        where = "before the first" if to < usable[0].first else "not"
        if to > max(c.last for c in usable):
            where = "after the last"
        raise Refused(
            f"{moments.shown(to)} is {where} in the backups", f"choose a moment in {_windows(usable)}, or collect again"
        )
    # The newest base has the least to replay; one that began in this very second may hold some of it: rather not.
    chain = max(good, key=lambda c: (c.line, c.first < to, c.first))
    cut = chain.cut(to, marks)
    if cut is None:
        return Plan(to, False, chain.line, chain.base, tuple(chain.parts))
    parts = [*chain.parts[: cut[0]], _shortened(chain.parts[cut[0]], cut[1])]
    return Plan(to, False, chain.line, chain.base, tuple(parts))


def _shortened(part: Part, at: int) -> Part:
    return Part(part.incr, at, tuple(p for p in part.pieces if p.start < at))


def windows(sets: Sequence[Set]) -> str:
    """What can be restored, for people: "2026-05-01T10:00:00Z to 2026-05-01T10:20:00Z, ..."."""
    return _windows(chains(sets))


def _windows(usable: Sequence[Chain]) -> str:
    return ", ".join(f"{moments.shown(a)} to {moments.shown(b)}" for a, b in _spans(usable))


def spans(sets: Sequence[Set]) -> list[tuple[float, float]]:
    """(first, last) second of each stretch in which every moment can be restored."""
    return _spans(chains(sets))


def _spans(usable: Sequence[Chain]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for chain in sorted(usable, key=lambda c: c.first):
        if merged and chain.first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], chain.last))
        else:
            merged.append((chain.first, chain.last))
    return merged

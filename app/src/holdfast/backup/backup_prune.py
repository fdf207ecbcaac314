"""`holdfast backup prune`: forgets what no moment of the last hours needs.

Of before the limit the newest usable base stays, with the files that lead from it to the limit. Sets are rewritten
nowhere and go whole: a set goes when nothing it brought is needed any more. The newest set always stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import backup_plan, backup_sets
from .backup_sets import Set
from .census import Census


def needed(sets: Sequence[Set], limit: float) -> set[str]:
    """Paths under files/ that some moment from ``limit`` on needs. Pure."""
    usable = backup_plan.chains(sets)
    keep = [c for c in usable if c.first >= limit]
    newest = {id(c.run): c for c in usable if c.first < limit <= c.last}  # of each run the last one
    keep += newest.values()
    kept = {p.path for c in keep for part in c.parts for p in part.pieces} | {c.base.path for c in keep if c.base}
    for made in sets:
        census = Census.of(made)
        if made.moment >= limit:  # also what is of no use yet: a chain may still come of it
            kept |= {p.path for p in made.pieces} | {b.path for b in made.bases} | ({census.path} if census else set())
    return kept


def left(sets: Sequence[Set], limit: float) -> list[Set]:
    """The sets that stay. Pure."""
    kept = needed(sets, limit)
    staying = []
    for made in sets:
        brought = {p.path for p in made.pieces} | {b.path for b in made.bases}
        if made.moment >= limit or made is sets[-1] or brought & kept or _tells(made, sets, kept):
            staying.append(made)
    return staying


def prune(store: Path, limit: float) -> tuple[int, int]:
    """(sets, files) that went."""
    sets = backup_sets.load(store)
    staying = left(sets, limit)
    for path, made in zip(backup_sets.paths(store), sets, strict=True):
        if made not in staying:
            path.unlink()  # first what names the files, so that a set never names what is not there
    named = {p.path for s in staying for p in s.pieces} | {b.path for s in staying for b in s.bases}
    named |= {c.path for c in map(Census.of, staying) if c}
    files = 0
    for file in sorted((store / "files").rglob("*")):
        if file.is_file() and str(file.relative_to(store / "files")) not in named:
            file.unlink()
            files += 1
    return len(sets) - len(staying), files


def _tells(made: Set, sets: Sequence[Set], kept: set[str]) -> bool:
    """It is the one that says that a kept file ended: without that nothing could be replayed after it."""
    names = {(p.line, p.incr) for s in sets for p in s.pieces if p.path in kept}
    return any((line, incr) in names for line, incr, _ in made.closed)

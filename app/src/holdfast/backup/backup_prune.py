"""`holdfast backup prune`: forgets what no moment of the last hours needs.

Of before the limit the newest usable base stays, with the files that lead from it to the limit. Sets are rewritten
nowhere and go whole: a set goes when nothing it brought is needed any more. The newest set always stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from . import backup_plan, backup_sets, moments
from .backup_sets import Set
from .census import Census
from .refusals import Damaged


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
        wanted = made.moment >= limit or (made.doubt is not None and made.doubt[1] >= limit) or made is sets[-1]
        if wanted or brought & kept or _tells(made, sets, kept):
            staying.append(made)
    return staying


def prune(store: Path, limit: float, tell: Callable[[Damaged], None]) -> tuple[int, int]:
    """(sets, files) that went. Raises Refused if there is no backup.

    Nothing goes while a set of after the limit is damaged: what it named, and what moments need that it told of, must
    still be there when it is brought back. One of before the limit goes.
    """
    damaged: list[Path] = []

    def note(why: Damaged) -> None:
        damaged.append(Path(why.path))
        tell(why)

    named = backup_sets.load_named(store, note, brief=True)
    if not named:
        backup_sets.load(store, tell)  # says why
    if any(moments.from_stamp(path.name) >= limit for path in damaged):
        return 0, 0
    sets = [made for _, made in named]
    staying = left(sets, limit)
    stays = {id(made) for made in staying}
    for path in [path for path, made in named if id(made) not in stays] + damaged:
        path.unlink()  # first what names the files, so that a set never names what is not there
    kept = _files(staying)
    files = 0
    for file in sorted((store / "files").rglob("*")):
        if file.is_file() and str(file.relative_to(store / "files")) not in kept:
            file.unlink()
            files += 1
    return len(sets) - len(staying), files


def _files(sets: Sequence[Set]) -> set[str]:
    named = {p.path for s in sets for p in s.pieces} | {b.path for s in sets for b in s.bases}
    return named | {c.path for c in map(Census.of, sets) if c}


def _tells(made: Set, sets: Sequence[Set], kept: set[str]) -> bool:
    """It is the one that says that a kept file ended: without that nothing could be replayed after it."""
    names = {(p.line, p.incr) for s in sets for p in s.pieces if p.path in kept}
    return any((line, incr) in names for line, incr, _ in made.closed)

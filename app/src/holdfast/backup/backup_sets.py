"""A backup set: one JSON file that says what a backup added to the store, and when and of what it was made.

    store/sets/<moment>.json      one a backup, with its own checksum
    store/files/<line>/<name>     a base: a hard link to the node's own file, which never changes
    store/files/<line>/<incr>.<from>-<to>   a piece of an incremental file: whole commands, never changed afterwards
    store/held/                   hard links to what the next backup needs (aof_hold.py); not part of a backup

Everything under sets/ and files/ is written once, so a tool that copies it off the host copies only what is new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import moments
from .refusals import Damaged, Refused

FORMAT = 1
BLOCK = 1024 * 1024
CURE = "bring this file back from another copy of the backup; moments that do not need it can still be restored"


@dataclass(frozen=True, slots=True)
class Base:
    """``made``: the second at which Redis began to write it; None: it does not say."""

    line: str
    name: str
    bytes: int
    sha256: str
    made: int | None

    @property
    def path(self) -> str:
        return f"{self.line}/{self.name}"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start`` to ``end`` of an incremental file; ``marks``: (second, offset in the whole file)."""

    line: str
    incr: str
    start: int
    end: int
    sha256: str
    marks: tuple[tuple[int, int], ...]

    @property
    def path(self) -> str:
        return f"{self.line}/{self.incr}.{self.start}-{self.end}"

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Set:
    """``moment``: the node's clock in seconds; all that it ran before is in the store. ``listing``: (line, base, incrs)
    by which Redis would have loaded it then, the last one of them up to ``reach``. ``seen``: the same of every manifest
    since the last set. ``closed``: (line, incr, bytes) of files that will not grow any more. ``doubt``: (from, to) in
    which the node's clock went back or it wrote no timestamps, so that moments cannot be told apart. ``facts``: of the
    node, for people and for verify."""

    moment: float
    node: str
    listing: tuple[str, str | None, tuple[str, ...]]
    reach: int
    seen: tuple[tuple[str, str | None, tuple[str, ...]], ...]
    bases: tuple[Base, ...]
    pieces: tuple[Piece, ...]
    closed: tuple[tuple[str, str, int], ...]
    doubt: tuple[float, float] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def write(store: Path, name: str, made: Set) -> Path:
    body = json.dumps(asdict(made), sort_keys=True)
    text = json.dumps({"format": FORMAT, "sha256": hashlib.sha256(body.encode()).hexdigest()}) + "\n" + body + "\n"
    (store / "sets").mkdir(exist_ok=True, mode=0o700)
    path, draft = store / "sets" / f"{name}.json", store / "sets" / f".{name}.new"
    while path.exists():  # a clock that went back
        path = path.with_name(f"{path.stem}x.json")
    with draft.open("w", encoding="ascii") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)
    sync_directory(path.parent)
    return path


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, brief: bool = False) -> Set:
    """``brief``: of the marks of each piece only the highest. Raises Damaged if the file is not what was written."""
    try:
        head, body, rest = path.read_text(encoding="ascii").split("\n")
        about = json.loads(head)
        if rest or about["sha256"] != hashlib.sha256(body.encode()).hexdigest():
            raise ValueError
        if about["format"] != FORMAT:
            raise Refused(f"{path} has format {about['format']}", "use the version of holdfast that wrote it")
        data: dict[str, Any] = json.loads(body)
    except (ValueError, KeyError, TypeError):
        raise Damaged(f"the set {path} is damaged", CURE, str(path)) from None
    except OSError as problem:
        raise Damaged(f"the set {path}: {problem.strerror}", CURE, str(path)) from None
    if brief:
        for piece in data["pieces"]:
            piece["marks"] = [max(piece["marks"])] if piece["marks"] else []
    line, base, incrs = data["listing"]
    return Set(
        data["moment"],
        data["node"],
        (line, base, tuple(incrs)),
        data["reach"],
        tuple((a, b, tuple(c)) for a, b, c in data["seen"]),
        tuple(Base(**b) for b in data["bases"]),
        tuple(Piece(**{**p, "marks": tuple((s, o) for s, o in p["marks"])}) for p in data["pieces"]),
        tuple((a, b, c) for a, b, c in data["closed"]),
        tuple(data["doubt"]) if data["doubt"] else None,
        data["facts"],
    )


def paths(store: Path) -> list[Path]:
    """Oldest first."""
    return sorted((store / "sets").glob("[0-9]*.json"))


def load(store: Path, tell: Callable[[Damaged], None], brief: bool = False) -> list[Set]:
    """All sets, oldest first. Raises Refused if there is none, or they are of several nodes."""
    damaged: list[Damaged] = []

    def note(why: Damaged) -> None:
        damaged.append(why)
        tell(why)

    found = [made for _, made in load_named(store, note, brief)]
    if not found:
        if damaged:
            raise damaged[-1]
        raise Refused(f"there is no backup in {store}", "name the directory that holds sets/ and files/")
    nodes = sorted({s.node for s in found})
    if len(nodes) > 1:
        raise Refused(f"{store} holds backups of {', '.join(nodes)}", "keep a store for each node")
    return found


def load_named(store: Path, tell: Callable[[Damaged], None], brief: bool = False) -> list[tuple[Path, Set]]:
    """A set that is damaged is left out, and ``tell`` is told: it may have said that moments since the set before it
    cannot be told apart, so they are in doubt up to the next one."""
    found: list[tuple[Path, Set]] = []
    missed = False
    for path in paths(store):
        try:
            made = read(path, brief)
        except Damaged as why:
            tell(why)
            missed = True
            continue
        if missed:
            since = found[-1][1].moment if found else moments.from_stamp(made.listing[0])
            low, high = made.doubt or (since, made.moment)
            made = replace(made, doubt=(min(low, since), max(high, made.moment)))
            missed = False
        found.append((path, made))
    return found


def all_marks(store: Path) -> Callable[[Piece], tuple[tuple[int, int], ...]]:
    """Of a piece of sets that were read ``brief``. Raises Damaged if its set is gone or damaged by now."""

    def find(piece: Piece) -> tuple[tuple[int, int], ...]:
        for path in reversed(paths(store)):
            with contextlib.suppress(Damaged):
                for other in read(path).pieces:
                    if (other.path, other.sha256) == (piece.path, piece.sha256):
                        return other.marks
        raise Damaged(f"no set in {store} names {piece.path} any more", CURE)

    return find


def blocks(path: Path, size: int) -> Iterator[bytes]:
    """The first ``size`` bytes. Raises Damaged if there are fewer, or it cannot be read."""
    try:
        with path.open("rb") as source:
            while size:
                block = source.read(min(BLOCK, size))
                if not block:
                    raise Damaged(f"{path} is cut short: {size} bytes are missing", CURE, str(path))
                size -= len(block)
                yield block
    except OSError as problem:
        raise Damaged(f"{path}: {problem.strerror}", CURE, str(path)) from None


def check(path: Path, size: int, sha256: str) -> Iterator[bytes]:
    """The blocks of a file that must have exactly this content. Raises Damaged after the last one if it has not."""
    summed = hashlib.sha256()
    for block in blocks(path, size):
        summed.update(block)
        yield block
    if summed.hexdigest() != sha256:
        raise Damaged(f"{path} is not what was backed up: its checksum differs", CURE, str(path))
    if path.stat().st_size != size:
        raise Damaged(f"{path} is longer than what was backed up", CURE, str(path))

"""`holdfast backup collect`: one backup of a running node. Changes nothing on the node; safe to run at any time.

Cheap enough for every few minutes: bases are linked, of incremental files only what is new is read and copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import aof_files, backup_sets, moments
from .aof_hold import KEEP_FREE, Held, Hold
from .backup_sets import Base, Piece, Set
from .node_facts import NodeFacts
from .refusals import Refused

#: So many bytes before the place where copying goes on must still be what was copied.
TAIL_BYTES = 4096
CLOCK_SLACK_SEC = 1
#: A command is written to the file at once; only a stalled disk or a very long script puts so much in between.
STALL_SEC = 10


class Rewound(Exception):
    """An incremental file is no longer what was copied of it: Redis cut it after a failed write, or somebody did."""


@dataclass(slots=True)
class _Found:
    bases: list[Base]
    pieces: list[Piece]
    closed: list[tuple[str, str, int]]
    commands: int = 0
    reach: int = 0
    written: float = 0.0  # when the file that grows was last written to
    first_mark: int | None = None  # in force at the first new command of the current line
    last_mark: int | None = None


@contextlib.contextmanager
def alone(store: Path) -> Iterator[None]:
    """Only one of collect and prune at a time."""
    store.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (store / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"another backup works in {store}", "wait until it is through") from None
        yield


class Collect:
    def __init__(self, data: Path, store: Path, node: str, look: Callable[[], NodeFacts]) -> None:
        """``look`` asks the node."""
        self._hold, self._store, self._node, self._look = Hold(data, store), store, node, look

    def run(self) -> tuple[Set, Path]:
        with alone(self._store):
            sets = backup_sets.load(self._store) if backup_sets.paths(self._store) else []
            if sets and sets[-1].node != self._node:
                raise Refused(f"{self._store} holds backups of {sets[-1].node}", "give each node a store of its own")
            self._hold.take()
            seen = self._look()
            # Only now: files that are listed after the node's answer hold all that it ran before it.
            held = self._hold.take()
            try:
                return self._collect(sets, held, seen)
            except Rewound:
                return self._collect(sets, self._hold.take(anew=True), seen)

    def _collect(self, sets: list[Set], held: Held, node: NodeFacts) -> tuple[Set, Path]:
        found = _Found([], [], [])
        noted: list[tuple[str, str | None, tuple[str, ...]]] = []
        for line in sorted(held.names):
            noted += [(line, base, incrs) for base, incrs in held.seen[line]]
            found.last_mark = None
            self._line(line, sets, held, found)
        doubt = _doubt(sets, held, node, found)
        anew = bool(sets) and sets[-1].listing[0] != held.line
        facts: dict[str, Any] = {
            **node.facts,
            "commands": found.commands,
            "new_line": anew,
        }
        made = Set(
            node.moment,
            self._node,
            (held.line, held.listing.base, held.listing.incrs),
            found.reach,
            tuple(noted),
            tuple(found.bases),
            tuple(found.pieces),
            tuple(found.closed),
            doubt,
            facts,
        )
        path = backup_sets.write(self._store, moments.stamp(node.moment), made)
        self._hold.forget(held)
        return made, path

    def _line(self, line: str, sets: list[Set], held: Held, found: _Found) -> None:
        current = line == held.line
        bases = {b.name for s in sets for b in s.bases if b.line == line}
        closed = {incr for s in sets for name, incr, _ in s.closed if name == line}
        copied: dict[str, list[Piece]] = {}
        for piece in (p for s in sets for p in s.pieces if p.line == line):
            copied.setdefault(piece.incr, []).append(piece)
        names = held.names[line]
        listed = [n for n in held.listing.incrs if n in names] if current else []
        growing = listed[-1] if listed else ""
        for name in names:
            if ".base." in name and name not in bases:
                found.bases.append(self._base(line, name))
        incrs = [n for n in names if ".incr." in n and n not in closed]
        for name in sorted(incrs, key=_number):
            self._incr(line, name, copied.get(name, []), name == growing, found, current)

    def _base(self, line: str, name: str) -> Base:
        source, target = self._hold.path(line, name), self._store / "files" / line / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not target.exists():
            os.link(source, target)
        size, summed = source.stat().st_size, hashlib.sha256()
        head = b""
        for block in backup_sets.blocks(target, size):
            head = head or block[:512]
            summed.update(block)
        return Base(line, name, size, summed.hexdigest(), aof_files.base_made(head))

    def _incr(self, line: str, name: str, copied: list[Piece], growing: bool, found: _Found, current: bool) -> None:
        source = self._hold.path(line, name)
        last = max(copied, key=lambda p: p.end, default=None)
        start = last.end if last else 0
        with source.open("rb") as file:
            about = os.fstat(file.fileno())
            size = about.st_size
            if last and not self._same_tail(file, last, size):
                if current:
                    raise Rewound(name)
                return
            scanned = aof_files.scan(file, start, size)
        before = max((second for p in copied for second, _ in p.marks), default=found.last_mark)
        marks = [second for second, _ in scanned.marks]
        if current and scanned.commands and not found.commands:
            found.first_mark = before if scanned.unmarked else (marks[0] if marks else None)
        found.last_mark = marks[-1] if marks else before
        if scanned.end > start:
            found.pieces.append(self._piece(line, name, start, scanned.end, scanned.marks))
            found.commands += scanned.commands if current else 0
        if growing:
            found.reach, found.written = scanned.end, about.st_mtime
        elif scanned.end == size:
            found.closed.append((line, name, size))

    def _same_tail(self, file: Any, last: Piece, size: int) -> bool:
        if size < last.end:
            return False
        length = min(TAIL_BYTES, last.bytes)
        file.seek(last.end - length)
        try:
            with (self._store / "files" / last.path).open("rb") as copy:
                copy.seek(last.bytes - length)
                return bool(copy.read(length) == file.read(length))
        except FileNotFoundError:
            return True  # moved away to where backups are kept

    def _piece(self, line: str, name: str, start: int, end: int, marks: tuple[tuple[int, int], ...]) -> Piece:
        directory = self._store / "files" / line
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        space = shutil.disk_usage(directory)
        if space.free - (end - start) < space.total * KEEP_FREE:
            raise Refused(
                f"{end - start} bytes are to be copied to {directory}, which would leave less than {KEEP_FREE:.0%} "
                "free: the node would stop if its disk were full",
                "make room (`holdfast backup prune`), or a larger disk",
            )
        summed, draft = hashlib.sha256(), directory / ".piece.new"
        with self._hold.path(line, name).open("rb") as source, draft.open("wb") as out:
            source.seek(start)
            left = end - start
            while left:
                block = source.read(min(backup_sets.BLOCK, left))
                if not block:
                    raise Rewound(name)
                summed.update(block)
                out.write(block)
                left -= len(block)
            out.flush()
            os.fsync(out.fileno())
        piece = Piece(line, name, start, end, summed.hexdigest(), marks)
        draft.replace(self._store / "files" / piece.path)
        backup_sets.sync_directory(directory)
        return piece


def _number(name: str) -> tuple[int, str]:
    digits = [part for part in name.split(".") if part.isdigit()]
    return (int(digits[0]) if digits else 0, name)


def _doubt(sets: list[Set], held: Held, node: NodeFacts, found: _Found) -> tuple[float, float] | None:
    """When the moments since the last set cannot be told apart, and up to when."""
    before = [s.moment for s in sets if s.listing[0] == held.line]
    known = max((second for s in sets for p in s.pieces if p.line == held.line for second, _ in p.marks), default=None)
    since = before[-1] if before else moments.from_stamp(held.line)
    last = found.last_mark if found.last_mark is not None else known
    if last is not None and last > node.moment + CLOCK_SLACK_SEC:
        return since, last  # the clock was ahead, and went back
    first = found.first_mark if found.first_mark is not None else known
    if before and found.commands and (first is None or first < math.floor(since)):
        # Commands of after the last set, under no mark of after it: the node writes no timestamps.
        return since if first is None else min(since, first), node.moment
    if found.commands > 1 and (last is None or found.written > last + STALL_SEC):
        return since - 1 if last is None else last, node.moment
    return None

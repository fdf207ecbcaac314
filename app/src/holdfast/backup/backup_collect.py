"""`holdfast backup collect`: one backup of a running node. Changes nothing on the node; safe to run at any time.

Cheap enough for every few minutes: bases are linked, of incremental files only what is new is read and copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from . import aof_files, backup_doubt, backup_sets, moments
from .aof_files import NoCommand, Scanned
from .aof_hold import KEEP_FREE, Held, Hold
from .backup_doubt import Written
from .backup_sets import Base, Piece, Set
from .node_facts import NodeFacts
from .refusals import Damaged, Refused

#: So many bytes before the place where copying goes on must still be what was copied.
TAIL_BYTES = 4096
#: So long a backup waits for a prune, and a prune for a backup with its census.
ALONE_SEC = 30.0
CLOCK = time.CLOCK_BOOTTIME


class Rewound(Exception):
    """An incremental file is no longer what was copied of it: Redis cut it after a failed write, or somebody did."""


@dataclass(slots=True)
class _Found:
    bases: list[Base]
    pieces: list[Piece]
    closed: list[tuple[str, str, int]]
    new: Written = field(default_factory=Written)
    reach: int = 0
    highest: int | None = None  # of all marks of the line so far
    fell: tuple[int, int] | None = None  # the smallest mark that stands behind a higher one, and the highest such
    unread: set[tuple[str, str]] = field(default_factory=set)
    damaged: list[Damaged] = field(default_factory=list)


@contextlib.contextmanager
def alone(store: Path) -> Iterator[None]:
    """Only one of collect and prune at a time; waits ``ALONE_SEC``. Raises Refused."""
    deadline = time.monotonic() + ALONE_SEC
    with (store / "lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise Refused(f"another backup works in {store}", "wait until it is through") from None
            time.sleep(0.1)
        yield


def boot() -> tuple[str, float]:
    """Which start of this machine it is, and how long ago in seconds, whatever its clock says."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(), time.clock_gettime(CLOCK)


class Collect:
    def __init__(self, data: Path, store: Path, node: str, look: Callable[[], NodeFacts]) -> None:
        """``look`` asks the node."""
        self._hold, self._store, self._node, self._look = Hold(data, store), store, node, look
        self._data = data

    def run(
        self, census: Callable[[], dict[str, Any]] = dict, tell: Callable[[Damaged], None] = lambda _: None
    ) -> tuple[Set, Path]:
        """``census``: what it returns is noted with the facts. ``tell`` is told of each set that is damaged."""
        with alone(self._store):
            sets = [made for _, made in backup_sets.load_named(self._store, tell, brief=True)]
            if sets and sets[-1].node != self._node:
                raise Refused(f"{self._store} holds backups of {sets[-1].node}", "give each node a store of its own")
            self._hold.take()
            more = census()
            started = boot()
            seen = self._look()
            seen.facts.update(more, boot=boot())
            seen.refuse_unless_whole(self._data)
            # Only now: files that are listed after the node's answer hold all that it ran before it.
            held = self._hold.take()
            try:
                return self._collect(sets, held, seen, started)
            except Rewound:
                return self._collect(sets, self._hold.take(anew=True), seen, started)

    def _collect(self, sets: list[Set], held: Held, node: NodeFacts, started: tuple[str, float]) -> tuple[Set, Path]:
        found = _Found([], [], [])
        noted: list[tuple[str, str | None, tuple[str, ...]]] = []
        for line in sorted(held.names):
            noted += [(line, base, incrs) for base, incrs in held.seen[line]]
            self._line(line, sets, held, found)
        found.new.boot, found.new.uptime = started
        doubt = backup_doubt.doubt(sets, held.line, node.moment, found.new)
        anew = bool(sets) and sets[-1].listing[0] != held.line
        facts: dict[str, Any] = {
            **node.facts,
            "commands": found.new.commands,
            "new_line": anew,
            "damaged": [[d.path, d.cause, d.cure] for d in found.damaged],
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
        self._hold.forget(held, found.unread)
        return made, path

    def _line(self, line: str, sets: list[Set], held: Held, found: _Found) -> None:
        current = line == held.line
        bases = {b.name for s in sets for b in s.bases if b.line == line}
        closed = {incr for s in sets for name, incr, _ in s.closed if name == line}
        copied: dict[str, list[Piece]] = {}
        for piece in (p for s in sets for p in s.pieces if p.line == line):
            copied.setdefault(piece.incr, []).append(piece)
        known = [second for pieces in copied.values() for p in pieces for second, _ in p.marks]
        found.new.last, found.highest, found.fell = None, max(known, default=None), None
        names = held.names[line]
        listed = [n for n in held.listing.incrs if n in names] if current else []
        growing = listed[-1] if listed else ""
        for name in names:
            if ".base." in name and name not in bases:
                found.bases.append(self._base(line, name))
        incrs = [n for n in names if ".incr." in n and n not in closed]
        for name in sorted(incrs, key=_number):
            self._incr(line, name, copied.get(name, []), name == growing, found, current)
        if found.fell:
            found.new.falls += (found.fell,)

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
        source, new = self._hold.path(line, name), found.new
        last = max(copied, key=lambda p: p.end, default=None)
        start = last.end if last else 0
        with source.open("rb") as file:
            about = os.fstat(file.fileno())
            size = about.st_size
            if last and not self._same_tail(file, last, size):
                if current:
                    raise Rewound(name)
                return
            scanned, damage = _read(file, start, size)
        before = max((second for p in copied for second, _ in p.marks), default=new.last)
        marks = [second for second, _ in scanned.marks]
        if current and scanned.commands and not new.commands:
            new.first = before if scanned.unmarked else (marks[0] if marks else None)
        new.last = marks[-1] if marks else before
        for second in marks:
            if found.highest is not None and second < found.highest:
                low, top = found.fell or (second, found.highest)
                found.fell = min(low, second), max(top, found.highest)
            found.highest = second if found.highest is None else max(found.highest, second)
        if scanned.end > start:
            found.pieces.append(self._piece(line, name, start, scanned.end, scanned.marks))
            new.commands += scanned.commands if current else 0
        if growing:
            # With damage it is not known what the node ran: no backup may say that it has all of it.
            found.reach, new.at = size if damage else scanned.end, about.st_mtime
        elif scanned.end == size:
            found.closed.append((line, name, size))
        else:
            found.unread.add((line, name))
            damage = damage or f"ends within a command that begins at byte {scanned.end}"
        if damage:
            found.damaged.append(self._damage(source, damage, growing))

    def _damage(self, held: Path, what: str, growing: bool) -> Damaged:
        path = self._hold.source / held.name if growing else held
        cure = (
            "moments after it are missing until a rewrite is through: BGREWRITEAOF while the node runs writes all that "
            "it has anew; then look at its disk and log"
            if growing
            else "look at the node's disk and log; this link is all that is left of the file: once what is behind that "
            "byte is of no use any more, remove it"
        )
        return Damaged(f"{path} {what}: what is before was copied, what is behind was not", cure, str(path))

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


def _read(file: BinaryIO, start: int, size: int) -> tuple[Scanned, str]:
    """What there is, up to a damage if there is one, and what that is."""
    try:
        return aof_files.scan(file, start, size), ""
    except NoCommand as damage:
        return aof_files.scan(file, start, damage.offset), f"holds no command at byte {damage.offset}"


def _number(name: str) -> tuple[int, str]:
    digits = [part for part in name.split(".") if part.isdigit()]
    return (int(digits[0]) if digits else 0, name)

"""Holds every append-only file of a node from its birth by a hard link, so that no rewrite takes history away.

Redis deletes the incremental files of before a rewrite as soon as it is through. A link costs no space and no time, and
what Redis still appends shows through it. Redis's own manifests say which files follow one another: each one seen is
noted, and only files that stood in one manifest are ever chained (backup_plan.py). A file between two looks that was
never linked therefore is a hole that is known, never one that is jumped.

A *line* is one unbroken life of a data directory. A directory that shares no file with what is held (it was restored,
emptied, filled from another node, or rewritten while nobody watched) begins a new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import secrets
import select
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import aof_files, moments
from .aof_files import Listing
from .refusals import Refused

TRIES = 200
PAUSE_SEC = 0.01
#: Redis must not meet a full disk because of its backup: below this share of free space retired files are let go.
KEEP_FREE = 0.1
_IN_CREATE, _IN_MOVED_TO = 0x100, 0x80


@dataclass(frozen=True, slots=True)
class Held:
    """A look. ``line``: the current one; ``began``: with this look. ``names``, ``seen``: what was held, by line."""

    line: str
    listing: Listing
    began: bool
    names: dict[str, list[str]]
    seen: dict[str, list[tuple[str | None, tuple[str, ...]]]]


class Hold:
    """``data``: the node's data directory. ``store``: on the same file system, for one node."""

    def __init__(self, data: Path, store: Path) -> None:
        self.source, self.store = data / aof_files.DIRECTORY, store
        self.held = store / "held"
        if not self.source.is_dir():
            raise Refused(f"{self.source} is no directory", "name the node's data directory (its `dir`), AOF on")
        try:
            self.held.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as problem:
            raise Refused(f"{store}: {problem.strerror}", "give a store that can be written") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with (self.held / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def lines(self) -> list[str]:
        """Oldest first; the last is the current one."""
        return sorted(p.name for p in self.held.iterdir() if p.is_dir())

    def take(self, anew: bool = False) -> Held:
        """Link what the manifest lists and note the manifest. ``anew``: what is held is no longer what the node has."""
        began = ""
        with self.locked():
            for _ in range(TRIES):
                listing = aof_files.parse_manifest(self._manifest())
                line = "" if anew and not began else self._current(listing)
                if not line:
                    line = began = self._begin()
                if not self._link(line, listing):
                    time.sleep(PAUSE_SEC)
                    continue
                self._note(line, listing)
                if aof_files.parse_manifest(self._manifest()).files == listing.files:
                    lines = self.lines()
                    names, seen = {n: self.names(n) for n in lines}, {n: self.seen(n) for n in lines}
                    return Held(line, listing, line == began, names, seen)
        raise Refused(
            f"{self.source} changed {TRIES} times while it was looked at, or lists a file that is not there",
            "look at the node's log; if it runs well, run this again",
        )

    def _manifest(self) -> str:
        try:
            return (self.source / aof_files.MANIFEST).read_text(encoding="ascii", errors="replace")
        except OSError as problem:
            raise Refused(
                f"{self.source / aof_files.MANIFEST}: {problem.strerror}",
                "the node must run with appendonly yes, and this with the right to read its files",
            ) from None

    def _current(self, listing: Listing) -> str:
        """The line that goes on with ``listing``, or ''."""
        lines = self.lines()
        if not lines or not self._rows(lines[-1])[1]:
            return ""  # a note that was torn may have been the one that said what follows what: a hole that is known
        shared = 0
        for name in listing.files:
            mine = self.held / lines[-1] / name
            if not mine.exists():
                continue
            with contextlib.suppress(FileNotFoundError):
                if not mine.samefile(self.source / name):
                    return ""  # the same name, another file
                shared += 1
        return lines[-1] if shared else ""

    def _begin(self) -> str:
        """Lines sort by their names: also where the clock went back, the new one is the last."""
        for line in self.lines()[-1:]:
            with contextlib.suppress(OSError):
                (self.held / line).rmdir()  # one that came to nothing, or each try would leave one
        made = self.store / "files"
        known = [p.name for p in (made.iterdir() if made.is_dir() else ()) if p.name[0].isdigit()] + self.lines()
        newest = max((moments.from_stamp(line) for line in known), default=0.0)
        name = f"{moments.stamp(max(time.time(), newest + 0.002))}-{secrets.token_hex(3)}"
        (self.held / name).mkdir(mode=0o700)
        return name

    def _link(self, line: str, listing: Listing) -> bool:
        """False: a file that is listed is gone already; the manifest must be read again."""
        for name in (*listing.files, *listing.history):
            target = self.held / line / name
            if target.exists():
                continue
            try:
                os.link(self.source / name, target)
            except FileNotFoundError:
                if name not in listing.history:
                    return False
            except OSError as problem:
                if problem.errno == errno.EXDEV:
                    raise Refused(
                        f"{self.store} is not on the file system (or mount) of {self.source}",
                        "put the store beside the data directory; in a container mount the directory above both",
                    ) from None
                raise Refused(
                    f"{name} cannot be linked: {problem.strerror}", "run this as root or as the owner of the data"
                ) from None
        return True

    def _note(self, line: str, listing: Listing) -> None:
        entry = (listing.base, listing.incrs)
        seen = self.seen(line)
        if not seen or seen[-1] != entry:
            with (self.held / line / "seen.jsonl").open("ab", buffering=0) as out:
                before = out.tell()
                row = json.dumps(entry).encode() + b"\n"
                try:
                    if out.write(row) != len(row):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), out.name)
                except OSError:
                    out.truncate(before)  # half a note would end the line
                    raise

    def seen(self, line: str) -> list[tuple[str | None, tuple[str, ...]]]:
        """(base, incremental files) of each manifest since the last backup, in order; up to a note that was torn."""
        return self._rows(line)[0]

    def _rows(self, line: str) -> tuple[list[tuple[str | None, tuple[str, ...]]], bool]:
        """False: a note is torn, by a power cut or a full disk."""
        path = self.held / line / "seen.jsonl"
        found: list[tuple[str | None, tuple[str, ...]]] = []
        text = path.read_text(encoding="ascii", errors="replace") if path.exists() else ""
        for row in text.splitlines():
            try:
                base, incrs = json.loads(row)
                if not (base is None or isinstance(base, str)) or not all(isinstance(i, str) for i in incrs):
                    return found, False
            except (ValueError, TypeError):
                return found, False
            found.append((base, tuple(incrs)))
        return found, not text or text.endswith("\n")

    def names(self, line: str) -> list[str]:
        return sorted(p.name for p in (self.held / line).iterdir() if not p.name.startswith("seen."))

    def path(self, line: str, name: str) -> Path:
        return self.held / line / name

    def forget(self, held: Held, unread: set[tuple[str, str]]) -> None:
        """A backup has what it needs of all that ``held`` shows. What the node still has stays linked, and so do files
        that were not read to their end: ``unread``, (line, name)."""
        with self.locked():
            for line, names in held.names.items():
                kept_names = {name for where, name in unread if where == line}
                if line != held.line and not kept_names:
                    shutil.rmtree(self.held / line)
                    continue
                listed = held.listing.files if line == held.line else ()
                for name in set(names) - set(listed) - kept_names:
                    (self.held / line / name).unlink(missing_ok=True)
                if line != held.line:
                    continue
                # The last manifest stays: what follows is compared with it.
                rows = self.seen(line)[max(0, len(held.seen[line]) - 1) :]
                kept = self.held / line / "seen.new"
                kept.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
                kept.replace(self.held / line / "seen.jsonl")

    def spare_the_node(self) -> list[str]:
        """With little free space: let go what only the links keep. Returns the names; history has a hole there."""
        space = os.statvfs(self.store)
        if space.f_bavail >= space.f_blocks * KEEP_FREE:
            return []
        gone = []
        with self.locked():
            listed = aof_files.parse_manifest(self._manifest()).files
            for line in self.lines():
                for name in self.names(line):
                    if self.path(line, name).stat().st_nlink == 1 and name not in listed:
                        self.path(line, name).unlink()
                        gone.append(name)
        return gone


class Watch:
    """Wakes whenever a file appears in the directory: a link is made long before a rewrite can delete the file."""

    def __init__(self, hold: Hold) -> None:
        self._hold, self._fd = hold, -1
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._number = -1
        self._aim()

    def _aim(self) -> bool:
        """True: the directory is another one than before, even under the same name and inode. Raises Refused."""
        if self._fd < 0:
            self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        path = os.fsencode(self._hold.source)
        # For a directory that is watched already the kernel gives the number it has, for another one a new number.
        number = self._libc.inotify_add_watch(self._fd, path, _IN_CREATE | _IN_MOVED_TO) if self._fd >= 0 else -1
        if number < 0:
            problem = ctypes.get_errno()
            cure = "raise fs.inotify.max_user_instances and max_user_watches"
            if problem in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                cure = "bring the node's data directory back, or stop this watch"
            raise Refused(f"{self._hold.source} cannot be watched: {os.strerror(problem)}", cure)
        another, self._number = number != self._number, number
        return another

    def wait(self, seconds: float) -> bool:
        """True: something appeared, or the directory is another one. Raises Refused if it is away."""
        if self._aim():
            return True
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 65536)
        return bool(ready)

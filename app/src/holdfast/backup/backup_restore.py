"""`holdfast backup restore`: makes a data directory of a plan, or nothing at all.

Everything is written beside the target and checked on the way; the target's name appears when it is whole. The last
command of the restored file marks the guard *recovering* with a new incarnation: such a node does not vote and its
outbox is not followed until it was repaired, whoever starts it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import scripts
from ..guard import RECOVERING
from . import aof_files, backup_sets, moments
from .aof_files import DIRECTORY, MANIFEST
from .backup_plan import Plan
from .refusals import Damaged, Refused

#: Room for what Redis writes at its start, and for the file system's own needs.
SPARE_SHARE, SPARE_BYTES = 0.1, 16 * 1024 * 1024
#: Says of what moment the directory is; `verify` wants it.
TOLD = "restored.json"
BASE, INCR = "appendonly.aof.1.base", "appendonly.aof.{}.incr.aof"


def restore(store: Path, plan: Plan, into: Path, incarnation: str) -> int:
    """Returns the bytes written. ``into`` must not exist, or be an empty directory. Raises Refused and Damaged."""
    _check_target(into)
    _check_sizes(store, plan)
    _check_space(plan, into.parent)
    with _alone(into) as draft:
        try:
            written = _build(store, plan, draft, incarnation)
            if into.exists():
                into.rmdir()
            draft.rename(into)
        except OSError as problem:
            shutil.rmtree(draft, ignore_errors=True)
            raise Refused(
                f"{into}: {problem.strerror}", "nothing was restored; make room there or choose another place"
            ) from None
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        backup_sets.sync_directory(into.parent)
        return written


def _check_target(into: Path) -> None:
    if not into.parent.is_dir():
        raise Refused(f"{into.parent} is no directory", "make it first")
    if into.is_symlink() or (into.exists() and (not into.is_dir() or any(into.iterdir()))):
        raise Refused(
            f"{into} is there and not an empty directory", "choose another name; nothing is ever overwritten by this"
        )


def _check_sizes(store: Path, plan: Plan) -> None:
    """All that is needed is there, as long as it must be. The checksums come while it is copied."""
    wanted = [(plan.base.path, plan.base.bytes)] if plan.base else []
    wanted += [(p.path, p.bytes) for part in plan.parts for p in part.pieces]
    for name, size in wanted:
        path = store / "files" / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise Damaged(f"{path} {what}", backup_sets.CURE, str(path))


def _check_space(plan: Plan, where: Path) -> None:
    needed = int(plan.bytes * (1 + SPARE_SHARE)) + SPARE_BYTES
    free = shutil.disk_usage(where).free
    if free < needed:
        raise Refused(f"{where} has {free} bytes free, the restore needs {needed}", "make room or choose another place")


@contextlib.contextmanager
def _alone(into: Path) -> Iterator[Path]:
    """A directory to build in. What a restore that was killed left in it is removed."""
    lock_path, draft = into.parent / f".{into.name}.restore.lock", into.parent / f".{into.name}.restoring"
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"another restore into {into} is running", "wait until it is through") from None
        if draft.exists():
            shutil.rmtree(draft)
        try:
            yield draft
        finally:
            lock_path.unlink(missing_ok=True)


def _build(store: Path, plan: Plan, draft: Path, incarnation: str) -> int:
    directory = draft / DIRECTORY
    directory.mkdir(parents=True, mode=0o700)
    base, written = None, 0
    if plan.base:
        base = BASE + plan.base.name[plan.base.name.rindex(".") :]
        source = backup_sets.check(store / "files" / plan.base.path, plan.base.bytes, plan.base.sha256)
        written += _write(directory / base, source)
    names = [INCR.format(number) for number in range(1, max(len(plan.parts), 1) + 1)]
    for number, name in enumerate(names):
        chunks: Iterator[bytes] = iter(())
        if number < len(plan.parts):
            chunks = _pieces(store, plan, number)
        last = _mark(incarnation, "restored from a backup", plan.moment) if number == len(names) - 1 else b""
        written += _write(directory / name, chunks, last)
    _write(directory / MANIFEST, iter([aof_files.manifest_text(base, names).encode()]))
    backup_sets.sync_directory(directory)
    _write(draft / TOLD, iter([(json.dumps(plan.told()) + "\n").encode()]))
    return written


def plan_of(directory: Path) -> dict[str, Any]:
    """What ``restore`` wrote beside the files. Raises Refused."""
    path = directory / TOLD
    try:
        told = json.loads(path.read_text(encoding="ascii"))
        if isinstance(told, dict) and isinstance(told.get("moment"), int | float):
            return told
    except (OSError, ValueError):
        pass
    raise Refused(
        f"{directory} was not restored: {path} does not say what it holds", "run `holdfast backup restore` first"
    )


def _pieces(store: Path, plan: Plan, number: int) -> Iterator[bytes]:
    left = plan.parts[number].take
    for piece in plan.parts[number].pieces:
        for block in backup_sets.check(store / "files" / piece.path, piece.bytes, piece.sha256):
            yield block[:left]
            left -= min(left, len(block))


def mark(directory: Path, incarnation: str, reason: str) -> Path:
    """For a data directory that was put aside and comes back: the node forgot what was written since, so it must not
    vote. Appends the same command as a restore does; returns the file. May be done twice. Raises Refused and Damaged.

    The node must not run on ``directory``.
    """
    place = directory / DIRECTORY
    try:
        listing = aof_files.parse_manifest((place / MANIFEST).read_text(encoding="ascii", errors="replace"))
    except OSError as problem:
        raise Refused(f"{place / MANIFEST}: {problem.strerror}", "name a node's data directory") from None
    if not listing.incrs:
        raise Refused(f"{place / MANIFEST} lists no incremental file", "this was no node that ran; restore it instead")
    path = place / listing.incrs[-1]
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        whole = aof_files.scan(file, 0, size).end
        if whole != size:
            raise Damaged(
                f"{path} ends in the middle of a command: {size - whole} bytes after the last whole one",
                "let `redis-check-aof --fix` cut it on a copy, or restore the node from the others",
                str(path),
            )
        file.seek(size)
        file.write(_mark(incarnation, reason))
        file.flush()
        os.fsync(file.fileno())
    return path


def _write(path: Path, chunks: Iterator[bytes], last: bytes = b"") -> int:
    with path.open("wb") as out:
        for block in chunks:
            out.write(block)
        out.write(last)
        out.flush()
        os.fsync(out.fileno())
        return out.tell()


def _mark(incarnation: str, reason: str, moment: float | None = None) -> bytes:
    """The guard of a node that must not vote, as Redis writes commands to its file. ``moment``: restored to it."""
    guard = (scripts.GUARD, "state", RECOVERING, "incarnation", incarnation, "reason", reason)
    restored: tuple[str, ...] = ("HDEL", scripts.GUARD, "restored_to")
    if moment is not None:
        restored = ("HSET", scripts.GUARD, "restored_to", moments.shown(moment))
    forget = _command("HDEL", scripts.GUARD, "confirmed")
    return _command("SELECT", "0") + _command("HSET", *guard) + _command(*restored) + forget


def _command(*words: str) -> bytes:
    parts = [f"${len(w.encode())}\r\n{w}\r\n" for w in words]
    return (f"*{len(words)}\r\n" + "".join(parts)).encode()

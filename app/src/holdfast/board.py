"""What the workers of one instance tell each other: a directory of small files, each replaced in one step.

``worker-<pid>-<random>.json`` is one worker's view; ``forced.json`` holds what operators forced, for all of them. The
directory is on memory, belongs to one start of the instance and outlives its workers. Files of dead workers are ignored
and removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: A worker that has not written for so long does not count as one (its process hangs, or is another program's).
STALE_SEC = 10.0
MEMORY = Path("/dev/shm")  # noqa: S108


def make_directory() -> Path:
    """A new private directory, on memory where there is some."""
    on_memory = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else None
    return Path(tempfile.mkdtemp(prefix="holdfast-", dir=on_memory))


def shared_directory() -> Path:
    """A fresh directory for what the workers share. One that an earlier process of our id left behind is removed."""
    parent = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    prefix = f"holdfast-{os.getpid()}-"
    for old in parent.glob(prefix + "*"):
        if old.is_dir() and not old.is_symlink() and old.stat().st_uid == os.getuid():
            shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    (made / "metrics").mkdir()
    return made


@dataclass(frozen=True, slots=True)
class Force:
    """``state``: OPEN or CLOSED. ``until``: wall clock, seconds; the workers share one clock."""

    state: str
    until: float
    actor: str


class Board:
    """Only the directory's owner may write there, so what is read was written by a worker. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mine = directory / f"worker-{os.getpid()}-{secrets.token_hex(4)}.json"
        self._forced_file = directory / "forced.json"

    def publish(self, view: dict[str, Any]) -> None:
        _replace(self._mine, {"pid": os.getpid(), "at": time.time(), **view})

    def leave(self) -> None:
        self._mine.unlink(missing_ok=True)

    def workers(self) -> list[dict[str, Any]]:
        """The views of all living workers, this one's included."""
        views = []
        for path in sorted(self._directory.glob("worker-*.json")):
            pid = path.name.split("-")[1]
            if not pid.isdecimal() or not _alive(int(pid)):
                path.unlink(missing_ok=True)
                continue
            view = _read(path)
            if view is not None and abs(time.time() - view["at"]) < STALE_SEC:
                views.append(view)
        return views

    def changed(self) -> tuple[int, int]:
        """A mark that is another one whenever ``forced`` may answer differently."""
        try:
            found = self._forced_file.stat()
        except OSError:
            return (0, 0)
        return (found.st_ino, found.st_mtime_ns)

    def forced(self) -> dict[str, Force]:
        """What is forced now, by node."""
        now = time.time()
        return {n: f for n, f in self._all_forced().items() if f.until > now}

    def force(self, node: str, force: Force | None) -> Force | None:
        """Force ``node``, or (None) end that. Returns what was forced until now."""
        with self._alone():
            forced = self._all_forced()
            before = forced.pop(node, None)
            if force is not None:
                forced[node] = force
            if force is not None or before is not None:
                self._write(forced)
        return before if before is not None and before.until > time.time() else None

    def drop_expired(self) -> dict[str, Force]:
        """Take out what has ended. Of all workers exactly one is given each: it is the one to tell."""
        if all(f.until > time.time() for f in self._all_forced().values()):
            return {}
        with self._alone():
            now, forced = time.time(), self._all_forced()
            ended = {n: f for n, f in forced.items() if f.until <= now}
            if ended:
                self._write({n: f for n, f in forced.items() if n not in ended})
        return ended

    def _all_forced(self) -> dict[str, Force]:
        return {n: Force(**fields) for n, fields in (_read(self._forced_file) or {}).items()}

    def _write(self, forced: dict[str, Force]) -> None:
        _replace(self._forced_file, {n: asdict(f) for n, f in forced.items()})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One worker at a time; held for the replacing of one small file on memory."""
        with (self._directory / "forced.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _replace(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""A private redis-server on a restored directory, to look into it: no network, only a socket in a directory of its own.

It follows nobody, rewrites nothing, and loads the files as a node would: with AOF on, and a cut tail is an error.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from .refusals import Refused

_OPTIONS = (
    *("--port", "0", "--daemonize", "no", "--save", "", "--appendonly", "yes", "--appendfsync", "always"),
    *("--aof-load-truncated", "no", "--aof-timestamp-enabled", "yes", "--auto-aof-rewrite-percentage", "0"),
    *("--maxmemory-policy", "noeviction", "--unixsocketperm", "700"),
)
START_SEC, STOP_SEC = 600.0, 60.0


class PrivateTalk:
    """A connection to a Redis that listens on a socket in the file system only. Raises Refused."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._file: BinaryIO

    def _answers(self, path: Path) -> bool:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(STOP_SEC)
            made.connect(str(path))
            self._socket, self._file = made, made.makefile("rb")
            return bool(self.ask((("PING",),)) == [b"PONG"])
        except (OSError, Refused):
            made.close()
            return False

    def ask(self, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
        """The answers in order. Raises Refused on an error reply."""
        out = bytearray()
        for command in commands:
            words = [w if isinstance(w, bytes) else str(w).encode() for w in command]
            out += b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
        if self._socket is None:
            raise Refused("the scratch node does not run", "use it inside `with`")
        self._socket.sendall(out)
        return [self._reply() for _ in commands]

    def _reply(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise Refused("the scratch node closed its connection", "look at the machine's memory (dmesg)")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        if kind == b"-":
            raise Refused(f"the scratch node says {rest.decode('utf-8', 'replace')}", "look at the restored directory")
        return int(rest) if kind == b":" else rest


class ScratchNode(PrivateTalk):
    """Use it with ``with``; it is stopped at the end. ``load_sec``: what the start took. Raises Refused."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        program = shutil.which("redis-server")
        if program is None:
            raise Refused("there is no redis-server here", "install redis-server (Debian), version 7 or later")
        self._program, self._directory = program, directory
        self.load_sec = 0.0

    def __enter__(self) -> ScratchNode:
        self._private = Path(tempfile.mkdtemp(prefix="holdfast-scratch-"))
        path, log = self._private / "redis.sock", self._private / "log"
        began = time.monotonic()
        with log.open("wb") as out:
            command = [self._program, "--dir", str(self._directory.resolve()), "--unixsocket", str(path), *_OPTIONS]
            self._process = subprocess.Popen(command, stdout=out, stderr=out)  # noqa: S603 - no shell, our own words
        with contextlib.suppress(OSError):  # if memory runs out, this one goes and no node
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text("1000", encoding="ascii")
        try:
            while True:
                if self._process.poll() is not None:
                    said = log.read_text(errors="replace").strip().splitlines()[-3:]
                    raise Refused(
                        f"Redis does not load {self._directory}: {' / '.join(said)}",
                        "restore it anew, from a moment before",
                    )
                if time.monotonic() - began > START_SEC:
                    raise Refused(
                        f"Redis has not loaded {self._directory} within {START_SEC:.0f} s", "look at the disk"
                    )
                if self._answers(path):
                    break
                time.sleep(0.02)
        except BaseException:
            self._stop()
            raise
        self.load_sec = time.monotonic() - began
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._private, ignore_errors=True)


class AttachedNode(PrivateTalk):
    """A private Redis that somebody else has started, and stops: on a host whose images hold only one of the two."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def __enter__(self) -> AttachedNode:
        if not self._answers(self._path):
            raise Refused(f"no Redis answers at {self._path}", "start one on the restored directory first")
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._socket is not None:
            self._socket.close()

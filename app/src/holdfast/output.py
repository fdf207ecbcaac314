"""Lines for a file descriptor, written without ever waiting for whoever reads it.

A worker that waits inside ``write`` for a log reader that hangs does nothing else, not even what tells its master that
it lives: it would be killed between a store and its audit line. So what the pipe does not take is held here, in order,
and sent by a thread once there is room. Bounds, in bytes held: operational lines beyond LOG_BYTES are dropped and
counted. Audit lines are not dropped: from AUDIT_ROOM on ``ready`` says that no request may begin, and the rest up to
AUDIT_BYTES is for those that have begun (1000 connections, a line of at most 2.5 KB each). Only what no request
causes, such as breaker changes for days, could pass AUDIT_BYTES; that is dropped and counted too.

Nothing runs here before ``start``, which is called after the fork: until then, as in gunicorn's master, what is held
goes out with the next line.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

STREAMS = ("log", "audit")
LOG_BYTES, AUDIT_ROOM, AUDIT_BYTES = 256 * 1024, 1024 * 1024, 4 * 1024 * 1024
RETRY_SEC = 0.02
#: A pause shorter than this, in which nothing was dropped or refused, is not worth a line.
TELL_SEC = 1.0


class Output:
    """``on_drop(stream)`` is called for each line that was dropped. Thread-safe."""

    def __init__(self, fd: int) -> None:
        self._send = sender(fd)
        self._lock = threading.RLock()
        self._lines: deque[tuple[str, bytes]] = deque()
        self._held = dict.fromkeys(STREAMS, 0)
        self._limits = {"log": LOG_BYTES, "audit": AUDIT_BYTES}
        self._dropped = dict.fromkeys(STREAMS, 0)
        self._refused, self._since = 0, 0.0
        self._more: threading.Event | None = None
        self._room: threading.Event | None = None
        self.on_drop: Callable[[str], None] = lambda _stream: None
        os.register_at_fork(after_in_child=self._forget)

    def start(self, tell: Callable[[dict[str, Any]], None] = lambda _report: None) -> None:
        """``tell`` is given a report when all that was held has gone out: seconds, refused, dropped by stream."""
        self._more, self._room = threading.Event(), threading.Event()
        threading.Thread(target=self._run, args=(self._more, tell), name="output", daemon=True).start()

    def write(self, stream: str, line: str) -> None:
        """Send ``line`` or hold it. Never blocks and never raises."""
        data = line.encode("ascii", "backslashreplace")
        with self._lock:
            if self._lines and self._more is None:
                self.flush()
            sent = 0 if self._lines else self._sent(data)
            if sent == len(data):
                return
            if not sent and self._held[stream] + len(data) > self._limits[stream]:
                self._dropped[stream] += 1
                self.on_drop(stream)
                return
            if not self._lines:
                self._since = time.monotonic()
            self._lines.append((stream, data[sent:]))
            self._held[stream] += len(data) - sent
        if self._more is not None:
            self._more.set()

    def ready(self, seconds: float) -> bool:
        """May a request begin, of which there will be an audit line? Waits up to ``seconds`` for room."""
        if self._held["audit"] < AUDIT_ROOM:
            return True
        if self._room is not None and seconds > 0:
            self._room.clear()
            self._room.wait(seconds)
        if self._held["audit"] < AUDIT_ROOM:
            return True
        self._refused += 1
        return False

    @property
    def blocked(self) -> bool:
        """Would ``ready(0)`` say no?"""
        return self._held["audit"] >= AUDIT_ROOM

    @property
    def waiting(self) -> int:
        """Bytes held."""
        return sum(self._held.values())

    def flush(self) -> bool:
        """Send what is held, as far as it is taken. True if nothing is left."""
        with self._lock:
            while self._lines:
                stream, data = self._lines[0]
                sent = self._sent(data)
                self._held[stream] -= sent
                if sent < len(data):
                    self._lines[0] = (stream, data[sent:])
                    break
                self._lines.popleft()
            if self._room is not None and self._held["audit"] < AUDIT_ROOM // 2:
                self._room.set()
            return not self._lines

    def finish(self, seconds: float) -> None:
        """Wait up to ``seconds`` for what is held to go out; say on standard error how many lines did not."""
        until = time.monotonic() + seconds
        while not self.flush() and time.monotonic() < until:
            time.sleep(RETRY_SEC)
        left = {s: sum(stream == s for stream, _data in self._lines) for s in STREAMS}
        if any(left.values()):
            text = f"holdfast: nobody read standard output: {left['audit']} audit and {left['log']} log lines lost\n"
            try:
                sender(2)(text.encode())
            except OSError:
                return  # nobody reads that either

    def _run(self, more: threading.Event, tell: Callable[[dict[str, Any]], None]) -> None:
        while True:
            more.wait()
            more.clear()
            while not self.flush():
                time.sleep(RETRY_SEC)
            with self._lock:
                seconds = round(time.monotonic() - self._since, 1)
                dropped, self._dropped = self._dropped, dict.fromkeys(STREAMS, 0)
                refused, self._refused = self._refused, 0
            if refused or any(dropped.values()) or seconds >= TELL_SEC:
                tell({"seconds": seconds, "refused": refused, "dropped": dropped})

    def _sent(self, data: bytes) -> int:
        """How many bytes were taken."""
        sent = 0
        try:
            while sent < len(data):
                sent += self._send(data[sent:] if sent else data)
        except OSError:  # no room, or no reader (any more): it may come back
            return sent
        return sent

    def _forget(self) -> None:
        """What a parent holds is the parent's to send."""
        self._lines.clear()
        self._held = dict.fromkeys(STREAMS, 0)


def sender(fd: int) -> Callable[[bytes], int]:
    """A function that writes what ``fd`` takes at once, raising OSError if that is nothing.

    ``fd`` itself stays as it is: its flags are shared with every process that has it, and with the terminal.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        own = socket.socket(fileno=os.dup(fd))
        return lambda data: own.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return partial(os.write, os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
        except OSError:  # another user's pipe, or no /proc
            return _after_a_look(fd)
    return partial(os.write, fd)


def _after_a_look(fd: int) -> Callable[[bytes], int]:
    """A pipe that has room takes PIPE_BUF bytes at once, unless another process fills it after the look."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)

    def send(data: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(fd, data[: select.PIPE_BUF])

    return send

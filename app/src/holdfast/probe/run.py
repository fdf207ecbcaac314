"""`holdfast probe run`: paced writers and readers against the targets; one line for every request."""

from __future__ import annotations

import asyncio
import re
import resource
import secrets
import signal
import time
from pathlib import Path
from typing import Any, TextIO

from .. import __version__
from .face import Face
from .ledger import Written
from .options import RunOptions
from .records import FORMAT, Layout, encode, stamp
from .schedule import NORMAL, Schedule, StallWatch, Stream, precedence


class Probe:
    """One run. The file ``out`` is written line by line: a kill loses at most the line being written."""

    def __init__(self, options: RunOptions, out: TextIO) -> None:
        self._options, self._out = options, out
        self._timeout = options.access.timeout_sec
        self._layout = Layout(options.prefix, secrets.token_hex(6), Layout.registers_for(options.rate, self._timeout))
        self._requests = self._stalls = 0
        self._reason = "duration"

    async def run(self) -> dict[str, Any]:
        """Returns the ``end`` record: after the duration, or after SIGINT or SIGTERM and the answers still due."""
        options = self._options
        written = {t.writer: Written(self._layout, t.writer) for t in options.targets}
        faces = [Face(options, t, self._layout, written, self) for t in options.targets]
        self._begin(precedence() if options.realtime else NORMAL)
        for face in faces:
            face.client.start()
        watch = StallWatch(self._stalled)
        watch.start()
        schedule = Schedule(self._streams(faces))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted, schedule, number)
        try:
            await schedule.run()
            last = time.monotonic() + self._timeout + 1
            while any(face.in_flight for face in faces) and time.monotonic() < last:
                await asyncio.sleep(0.02)
        finally:
            watch.stop()
            for face in faces:
                face.client.close()
        return self._end()

    def _streams(self, faces: list[Face]) -> list[Stream]:
        """Targets are spread over the interval, and reads lie between writes, so that load is even."""
        options, streams = self._options, []
        first = time.monotonic() + 0.05
        for number, face in enumerate(faces):
            share = number / len(faces)
            for rate, phase, start in ((options.rate, 0.0, face.due_write), (options.read_rate, 0.5, face.due_read)):
                if rate > 0:
                    count = max(1, int(options.duration_sec * rate + 0.5)) if options.duration_sec else None
                    streams.append(Stream(first + (share + phase) % 1 / rate, rate, count, start))
        return streams

    def record(self, record: dict[str, Any]) -> None:
        self._requests += 1
        self._out.write(encode(record))

    def _begin(self, scheduling: str) -> None:
        options = self._options
        self._out.write(
            encode(
                {
                    "type": "run",
                    "format": FORMAT,
                    "version": __version__,
                    "run": self._layout.run,
                    "start": stamp(time.time()),
                    "m0": time.monotonic(),
                    "prefix": options.prefix,
                    "registers": self._layout.registers,
                    "rate": options.rate,
                    "read_rate": options.read_rate,
                    "duration": options.duration_sec,
                    "timeout": self._timeout,
                    "value_bytes": options.value_bytes,
                    "scheduling": scheduling,
                    "cpu_seconds": _cpu_seconds(),
                    "targets": [t.as_json() for t in options.targets],
                }
            )
        )

    def _end(self) -> dict[str, Any]:
        end = {
            "type": "end",
            "reason": self._reason,
            "end": stamp(time.time()),
            "m1": time.monotonic(),
            "requests": self._requests,
            "stalls": self._stalls,
            "cpu_seconds": _cpu_seconds(),
            "max_rss_kib": _largest_memory(),
        }
        self._out.write(encode(end))
        return end

    def _stalled(self, began: float, ended: float, jump: float) -> None:
        self._stalls += 1
        wall = time.time()
        self._out.write(
            encode(
                {
                    "type": "stall",
                    "start": stamp(wall - (ended - began) - max(jump, 0.0)),
                    "end": stamp(wall),
                    "m0": began,
                    "m1": ended,
                    "seconds": round(ended - began, 4),
                    "clock_jump": round(jump, 4) if abs(jump) > 0.001 else None,
                }
            )
        )

    def _interrupted(self, schedule: Schedule, number: int) -> None:
        self._reason = signal.Signals(number).name
        schedule.stop()


def _cpu_seconds() -> float:
    """Of this process so far, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round(used.ru_utime + used.ru_stime, 3)


def _largest_memory() -> int | None:
    """KiB; None where the system does not tell. getrusage would tell the parent's, if that was larger."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    return int(found[1]) if found else None

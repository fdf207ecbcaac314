"""Versions of CP registers: (epoch, counter, writer), as fixed-width lower-case hexadecimal text.

The counter is hybrid: the larger of (largest seen + 1) and the writer's clock in milliseconds. So a tag tells about
when it was made, and fresh tags are above those of tombstones collected after a grace time (collect.py). Only that
rests on clocks: a wrong one makes a tag unusually large, or a write refused, and never breaks the order.

Fixed width makes the text order equal to the order of the triple, in Python and in Lua, whatever the
locale (Lua compares strings with strcoll; digits and a-f keep their order everywhere).

The writer is unique per *write*: the random id of the process plus its own count. Two requests of one
process can therefore never mint the same tag with different values (multi-writer
registers of Lynch and Shvartsman need unique writers).
"""

from __future__ import annotations

import itertools
import re
import threading
from dataclasses import dataclass

_TAG = re.compile(r"[0-9a-f]{8}\.[0-9a-f]{16}\.[0-9a-f]{28}")

#: Smaller than every tag that was ever minted; the tag of a register that was never written.
NO_TAG = ""


@dataclass(frozen=True, order=True, slots=True)
class Tag:
    """One version. Field order is comparison order."""

    epoch: int
    counter: int
    writer: str

    def __str__(self) -> str:
        return f"{self.epoch:08x}.{self.counter:016x}.{self.writer}"

    @staticmethod
    def parse(text: str) -> Tag:
        """Inverse of ``str``. Raises ValueError on anything else."""
        if not _TAG.fullmatch(text):
            raise ValueError(f"not a tag: {text!r}")
        return Tag(int(text[:8], 16), int(text[9:25], 16), text[26:])


def epoch_of(tag: str) -> int:
    """The region epoch of a tag; 0 for NO_TAG."""
    return int(tag[:8], 16) if tag else 0


def next_tag(largest: str, epoch: int, writer: str, clock_ms: int = 0) -> str:
    """The tag of a new write: above ``largest`` (NO_TAG if none was found), in ``epoch``, not below ``clock_ms``.

    Raises ValueError if ``largest`` belongs to a higher epoch: such a writer is from the past and must not write.
    """
    if largest == NO_TAG:
        return str(Tag(epoch, max(1, clock_ms), writer))
    seen = Tag.parse(largest)
    if seen.epoch > epoch:
        raise ValueError(f"tag of epoch {seen.epoch} seen by a writer of epoch {epoch}")
    return str(Tag(epoch, max(seen.counter + 1, clock_ms), writer))


class WriterIds:
    """Mints writer ids: 16 hex digits of the process (random, given), 12 of its own sequence. Thread-safe."""

    def __init__(self, process_id: str) -> None:
        if not re.fullmatch(r"[0-9a-f]{16}", process_id):
            raise ValueError("process_id must be 16 lower-case hex digits")
        self._process = process_id
        self._count = itertools.count(1)
        self._lock = threading.Lock()

    def next(self) -> str:
        with self._lock:
            return f"{self._process}{next(self._count):012x}"

"""What every write of a run came to, by writer and sequence number, in a few bytes each. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .records import NEVER_READ, OK, PRESENT, STATES, SUPERSEDED, UNSENT, Layout, indefinite

_NONE, _ACKED, _INDEFINITE, _FAILED, _UNSENT = range(5)


@dataclass(slots=True)
class WriterLog:
    """One writer. ``acked_at`` is monotonic seconds of the acknowledgement, 0 where there was none."""

    mode: str
    outcome: bytearray = field(default_factory=lambda: bytearray(1))
    acked_at: array[float] = field(default_factory=lambda: array("d", [0.0]))
    state: bytearray = field(default_factory=lambda: bytearray(1))
    versions: dict[int, str] = field(default_factory=dict)  # of register writes only

    def grow(self, seq: int) -> None:
        missing = seq + 1 - len(self.outcome)
        if missing > 0:
            self.outcome.extend(bytes(missing))
            self.state.extend(bytes(missing))
            self.acked_at.extend([0.0] * missing)

    def is_acked(self, seq: int) -> bool:
        return 0 < seq < len(self.outcome) and self.outcome[seq] == _ACKED

    def is_indefinite(self, seq: int) -> bool:
        """True also for a write whose line is missing: a killed probe does not know."""
        return seq >= len(self.outcome) or self.outcome[seq] in (_INDEFINITE, _NONE)

    def acked(self) -> Iterator[int]:
        return (s for s in range(1, len(self.outcome)) if self.outcome[s] == _ACKED)

    def count(self, code: int) -> int:
        return self.outcome[1:].count(code)

    @property
    def unknown(self) -> int:
        """Writes that may or may not have happened."""
        return self.count(_INDEFINITE)

    @property
    def unrecorded(self) -> int:
        """Holes in the dense sequence: lines a killed probe did not write."""
        return self.count(_NONE)


class Acks:
    """All writers of one file. Feed every record in order; read ``writers`` and ``layout`` afterwards."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.writers: dict[str, WriterLog] = {}

    def add(self, record: dict[str, Any]) -> None:
        kind = record["type"]
        if kind == "run":
            self.layout = Layout(record["prefix"], record["run"], record["registers"])
            for target in record["targets"]:
                self.writers[target["writer"]] = WriterLog(target["mode"])
        elif kind == "request" and record["op"] == "write":
            self._write(record)
        elif kind == "final" and record["writer"] in self.writers:
            log = self.writers[record["writer"]]
            log.grow(record["seq"])
            log.state[record["seq"]] = 1 + STATES.index(record["state"])

    def _write(self, record: dict[str, Any]) -> None:
        log = self.writers.get(record["writer"])
        if log is None or self.layout is None:
            return
        seq, outcome = record["seq"], record["outcome"]
        log.grow(seq)
        if outcome == OK:
            log.outcome[seq] = _ACKED
            log.acked_at[seq] = record["m1"]
            if self.layout.is_register(seq) and "version" in record:
                log.versions[seq] = record["version"]
        elif outcome == UNSENT:
            log.outcome[seq] = _UNSENT
        else:
            log.outcome[seq] = _INDEFINITE if indefinite(outcome) else _FAILED

    def classify(self, writer: str, seq: int, seen: int, version: str | None) -> str | None:
        """What a definite read says about an acknowledged write: present, superseded, or None: it is not there.

        Superseded is a register that now holds a later write, or by its version a newer one (an unknown outcome that
        appeared, or last-writer-wins between two zones' clocks).
        """
        if seen == seq:
            return PRESENT
        held = self.writers[writer].versions.get(seq)
        if seen > seq or (seen > 0 and version is not None and held is not None and version > held):
            return SUPERSEDED
        return None


def state_name(code: int) -> str:
    """Of ``WriterLog.state``; 0 is a write nobody has read back."""
    return STATES[code - 1] if code else NEVER_READ

"""The probe's file: JSON lines, and the keys and values of its writes. Pure: no I/O, clocks are arguments.

Line types: ``run`` (first), ``request``, ``stall``, ``end`` (last of a run that was not killed), and from ``verify``:
``verify``, ``final``, ``verify_end``. The README has the table of fields.

Sequence numbers of a writer are dense, from 1. Three of four writes have a key of their own, so that a lost one cannot
hide behind a later one; every fourth overwrites one of the writer's *registers*, so that readers can meet old values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

FORMAT = 1
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
REGISTER_EVERY = 4
MIN_REGISTERS = 16

#: Outcomes that no answer of the service names. Others are the service's codes, or ``http_<status>`` without a code.
OK = "ok"
NOT_FOUND = "not_found"
UNSENT = "unsent"
NO_ANSWER = "no_answer"
REFUSED_CONNECTION = "refused_connection"
#: A write with such an outcome may or may not have happened. 5xx without a code are of this kind too.
INDEFINITE = frozenset({NO_ANSWER, "outcome_unknown", "internal"})

#: What a read saw when there was nothing, or something this run never wrote there.
ABSENT = 0
FOREIGN = -1

PRESENT, LOST, SUPERSEDED, NEVER_READ = "present", "lost", "superseded", "never_read"
STATES = (PRESENT, LOST, SUPERSEDED, NEVER_READ)


def indefinite(outcome: str) -> bool:
    """Whether a write with this outcome may or may not have happened."""
    return outcome in INDEFINITE or outcome.startswith("http_5")


def is_register(seq: int) -> bool:
    """Whether that write goes to a register, which is written again and again, or to a key of its own."""
    return seq % REGISTER_EVERY == 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Which key a writer's sequence number goes to. The same arguments give the same keys: nothing has to be stored."""

    prefix: str
    run: str
    registers: int

    @staticmethod
    def registers_for(rate: float, timeout_sec: float) -> int:
        """So many that a register is written again only when its last write has long been answered or given up."""
        return max(MIN_REGISTERS, int(rate / REGISTER_EVERY * timeout_sec * 2) + 1)

    def is_register(self, seq: int) -> bool:
        return is_register(seq)

    def slot(self, seq: int) -> int:
        return (seq // REGISTER_EVERY) % self.registers

    def key(self, writer: str, seq: int) -> str:
        name = f"r{self.slot(seq)}" if self.is_register(seq) else f"w{seq}"
        return f"{self.prefix}{self.run}:{writer}:{name}"

    def value(self, writer: str, seq: int, size: int = 0) -> str:
        """Unique in all runs; filled up to ``size`` bytes."""
        return f"{self.run}:{writer}:{seq}:".ljust(size, "x")

    def seen(self, key: str, writer: str, value: str | None) -> int:
        """The sequence number a read saw: ABSENT for None, FOREIGN if no write of this run put the value there."""
        if value is None:
            return ABSENT
        run, _, rest = value.partition(":")
        by, _, rest = rest.partition(":")
        number = rest.partition(":")[0]
        if run != self.run or by != writer or not number.isascii() or not number.isdigit():
            return FOREIGN
        seq = int(number)
        return seq if seq > 0 and self.key(writer, seq) == key else FOREIGN


def stamp(wall: float) -> str:
    """Seconds since the Unix epoch as UTC text with microseconds."""
    seconds, micros = divmod(round(wall * 1_000_000), 1_000_000)
    return f"{_to_the_second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=4)  # two stamps a request, hundreds in each second
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def parse_time(text: str) -> float:
    """Inverse of ``stamp``; also any ISO 8601 time with a zone, and plain seconds. Raises ValueError."""
    try:
        seconds = float(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError("the time has no zone") from None
        return at.timestamp()
    if not 0 < seconds < 1e11:
        raise ValueError("not seconds since 1970")
    return seconds


def encode(record: dict[str, Any]) -> str:
    """One line, with its end. Fields that are None are left out."""
    return _ENCODE({k: v for k, v in record.items() if v is not None}) + "\n"


def decode(lines: Iterable[str]) -> Iterator[dict[str, Any] | None]:
    """The records; None for a line that is not one, as a killed probe may leave."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            yield None
        else:
            yield record if isinstance(record, dict) and "type" in record else None

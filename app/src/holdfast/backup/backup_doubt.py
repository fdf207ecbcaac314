"""When the moments since the last backup cannot be told apart: the clock went back, or there are no timestamps. Pure.

A clock that goes back shows in one of these ways: the node's clock is behind a mark or a backup of before; it has come
less far since the last backup than the machine's uptime; a mark is smaller than one before it (Redis was started again
and begins anew). Every second the clock went through twice is in doubt. How far back it went is not known for certain:
commands may have run before the first sign of it, but none longer ago than the last backup. So the doubt reaches back
from the signs by the time since then, and by a few backups more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import moments
from .backup_sets import Set

CLOCK_SLACK_SEC = 1
#: A command is written to the file at once; only a stalled disk or a very long script puts so much in between.
STALL_SEC = 10
#: Three backups of five minutes.
UNSEEN_SEC = 900


@dataclass(slots=True)
class Written:
    """What is new in the current line. ``first`` and ``last``: marks in force at its first command and at its end.
    ``at``: when the file that grows was last written to. ``falls``: (a mark, the highest before it), where it is
    smaller; of all lines. ``uptime``: of the machine just before the node was asked (a set notes it of just after), in
    seconds; ``boot`` tells its starts apart."""

    commands: int = 0
    at: float = 0.0
    first: int | None = None
    last: int | None = None
    falls: tuple[tuple[int, int], ...] = ()
    boot: str = ""
    uptime: float = 0.0


def doubt(sets: Sequence[Set], line: str, now: float, new: Written) -> tuple[float, float] | None:
    """From and to, seconds. ``now``: the node's clock."""
    before = [s.moment for s in sets if s.listing[0] == line]
    known = max((second for s in sets for p in s.pieces if p.line == line for second, _ in p.marks), default=None)
    since = max(before) if before else moments.from_stamp(line)
    last = new.last if new.last is not None else known
    # (uptime, clock) of the backups since the machine was started.
    ups = [(b[1], s.moment) for s in sets if (b := s.facts.get("boot")) and b[0] == new.boot and b[1] <= new.uptime]
    elapsed = new.uptime - max(ups)[0] if ups else new.uptime
    least = now - elapsed
    spans: list[tuple[float, float]] = []
    if ups and now < max(ups)[1] + elapsed - 2 * CLOCK_SLACK_SEC:
        spans.append((least - UNSEEN_SEC, max(ups)[1] + elapsed + STALL_SEC))
    highest = max(m for m in (since if before else None, last, known, -math.inf) if m is not None)
    if highest > now + CLOCK_SLACK_SEC:
        spans.append((min(since, least) - UNSEEN_SEC, highest))
    spans += [(min(since, least, mark) - UNSEEN_SEC, top) for mark, top in new.falls]
    first = new.first if new.first is not None else known
    if before and new.commands and (first is None or first < math.floor(since)):
        # Commands of after the last set, under no mark of after it: the node writes no timestamps.
        spans.append((since if first is None else min(since, first), now))
    elif new.commands > 1 and (last is None or new.at > last + STALL_SEC):
        spans.append((since - 1 if last is None else last, now))
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None

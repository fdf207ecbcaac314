"""`holdfast backup verify`: does Redis load what was restored, again and again, and is every key what it was?

Compared with the newest census that ended before the moment, of the same line. A key passes if it has the same version
and content, or a younger version: it was written between the census and the moment, of which an AP version's clock must
be before the moment. One that lacks a version which the census saw, or has another content under the same version,
fails. Keys that came after the census are not looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import scripts
from ..guard import RECOVERING
from ..hlc import Version
from . import census as censuses
from . import moments
from .backup_plan import Plan
from .backup_sets import Set
from .census import BATCH, Census, Row
from .refusals import Refused
from .scratch_node import ScratchNode

STARTS = 3  # loaded, and then restarted twice
SHOWN = 20
#: A write may carry a clock that is ahead of the node's by so much (MAX_CLOCK_DRIFT_MS is 500 unless it is set).
AHEAD_SEC = 1
#: A tombstone may be collected a day after the delete: an older census can no longer say what must be there.
CENSUS_MAX_AGE_SEC = 86_400


@dataclass(slots=True)
class Verdict:
    keys: int = 0
    same: int = 0
    younger: int = 0
    collected: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    wrong_count: int = 0
    load_sec: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    census: str = ""

    def reject(self, key: bytes, why: str) -> None:
        self.wrong_count += 1
        if len(self.wrong) < SHOWN:
            self.wrong.append((key.decode("utf-8", "replace"), why))


def pick(sets: Sequence[Set], line: str, moment: float) -> Census:
    """Of the same line: what was there before the node was restored in place need not be there after it. Raises Refused
    if there is none to compare with."""
    found = [c for c in (Census.of(s) for s in sets if s.listing[0] == line) if c and c.ended <= moment]
    if not found:
        raise Refused(
            f"no census ended before {moments.shown(moment)} in this line of the node's life",
            "take one with `holdfast backup collect --census`, daily, and restore a moment after it",
        )
    newest = max(found, key=lambda c: c.ended)
    if moment - newest.ended > CENSUS_MAX_AGE_SEC:
        raise Refused(
            f"the newest census before {moments.shown(moment)} ended at {moments.shown(newest.ended)}: too long ago",
            "take a census every day; choose a moment within a day after one",
        )
    return newest


def verify(store: Path, sets: Sequence[Set], plan: Plan, directory: Path) -> Verdict:
    """Starts Redis ``STARTS`` times on ``directory``; the first and the last time every key is looked at."""
    census = pick(sets, plan.line, plan.moment)
    seen_beats = [s.facts["sentinel"] for s in sets if s.moment <= plan.moment and s.listing[0] == plan.line]
    before = math.inf if plan.newest else (math.floor(plan.moment) + AHEAD_SEC) * 1000
    verdict = Verdict(census=census.path)
    for number in range(STARTS):
        with ScratchNode(directory) as node:
            verdict.load_sec.append(round(node.load_sec, 3))
            verdict.sizes.append(_lasting(node.ask((("INFO", "keyspace"),))[0]))
            if number in (0, STARTS - 1):
                seen = Verdict()
                _compare(node, censuses.rows(store, census), before, seen)
                _guard(node, plan, seen_beats[-1] if seen_beats else None, seen)
                verdict.keys, verdict.same, verdict.younger = seen.keys, seen.same, seen.younger
                verdict.collected = seen.collected
                verdict.wrong += [w for w in seen.wrong if w not in verdict.wrong]
                verdict.wrong_count = max(verdict.wrong_count, seen.wrong_count)
    if len(set(verdict.sizes)) > 1:
        verdict.reject(b"", f"the number of keys changes from start to start: {verdict.sizes}")
    return verdict


def _lasting(keyspace: bytes) -> int:
    """How many keys there are that do not expire: sessions and rate limits go by themselves."""
    found = re.search(rb"db0:keys=(\d+),expires=(\d+)", keyspace)
    return int(found[1]) - int(found[2]) if found else 0


def _compare(node: ScratchNode, expected: Iterator[Row], before: float, verdict: Verdict) -> None:
    """``before``: milliseconds that no AP version may have reached."""
    batch: list[Row] = []
    for row in expected:
        batch.append(row)
        if len(batch) == BATCH:
            _judge(node, batch, before, verdict)
            batch = []
    if batch:
        _judge(node, batch, before, verdict)


def _judge(node: ScratchNode, batch: list[Row], before: float, verdict: Verdict) -> None:
    for was, now in zip(batch, censuses.look(node, [r.key for r in batch]), strict=True):
        verdict.keys += 1
        if now == was:
            verdict.same += 1
        elif not now.version:
            if was.kind == "d":
                verdict.collected += 1
            else:
                verdict.reject(was.key, "is missing")
        elif now.version > was.version:  # fixed width: the order of the text is the order of versions
            written = _milliseconds(now)
            if written >= before:
                verdict.reject(was.key, f"was written at {moments.shown(written / 1000)}: not before the moment")
            else:
                verdict.younger += 1
        elif now.version < was.version:
            verdict.reject(was.key, f"is older than it was: {now.version} instead of {was.version}")
        else:
            verdict.reject(was.key, "has another content under the same version")


def _milliseconds(row: Row) -> float:
    """When an AP value was written, by its origin's clock. CP versions count, they tell no time."""
    if not row.key.startswith(b"ap:"):
        return -math.inf
    try:
        return Version.parse(row.version).milliseconds
    except ValueError:
        return -math.inf


def _guard(node: ScratchNode, plan: Plan, sentinel: str | None, verdict: Verdict) -> None:
    """``sentinel``: the heartbeat that the last backup before the moment saw on the node."""
    state, beat = node.ask((("HGET", scripts.GUARD, "state"), ("GET", scripts.HEARTBEAT)))
    if state != RECOVERING.encode():
        verdict.reject(b"", f"the guard says {_text(state)}: a restored node would vote")
    if sentinel and int(beat or 0) < int(sentinel):
        verdict.reject(b"", f"the heartbeat {_text(beat)} is older than the {sentinel} that the backup saw")
    if beat and not plan.newest and int(beat) >= math.floor(plan.moment) * 1000:
        verdict.reject(b"", f"the heartbeat is of {moments.shown(int(beat) / 1000)}: not before the moment")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "nothing"

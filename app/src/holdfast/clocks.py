"""Is a node's clock good? Judged by the other nodes' clocks, as pure functions.

A reading is the node's clock minus the asker's, taken in the middle of a round trip, and how long that took: it is
wrong by at most half the round trip. The asker's own clock cancels out. A clock is bad when it is further than
``LIMIT`` of the largest drift from the middle of at least two others that agree with each other; it is good again below
``AGAIN``.
Nobody is judged by a single other clock, or by others that disagree: which is wrong could not be told.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

LIMIT = 0.8
AGAIN = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """``ahead_ms``: the node's clock minus the asker's; ``round_trip_ms``: how long asking took."""

    ahead_ms: float
    round_trip_ms: float


def reading(sent_ms: float, received_ms: float, node_ms: float) -> Reading:
    """From the asker's clock when it asked and was answered, and the node's clock in the answer."""
    return Reading(node_ms - (sent_ms + received_ms) / 2, received_ms - sent_ms)


def shown(last: Reading, at_ms: float) -> int:
    """What the node's clock shows at the latest when the asker's shows ``at_ms``."""
    return math.ceil(at_ms + last.ahead_ms + last.round_trip_ms / 2)


def says_enough(last: Reading, drift_ms: int) -> bool:
    """Readings that took longer than a quarter of the drift do not."""
    return last.round_trip_ms <= max(drift_ms / 4, 1)


def offset(node: str, readings: Mapping[str, Reading], drift_ms: int) -> float | None:
    """How far ``node`` is ahead of the majority of the others in ms; None: cannot be judged.

    Readings that say too little do not count. The others agree when more than half of those read, and at least two, lie
    within half the drift of their median.
    """
    usable = {n: r for n, r in readings.items() if says_enough(r, drift_ms)}
    if node not in usable:
        return None
    others = [r.ahead_ms for n, r in usable.items() if n != node]
    if len(others) < 2:
        return None
    middle = statistics.median(others)
    agreeing = [a for a in others if abs(a - middle) <= drift_ms / 2]
    if len(agreeing) < 2 or len(agreeing) * 2 <= len(others):
        return None
    return usable[node].ahead_ms - statistics.median(agreeing)


def good(was_good: bool, ahead_ms: float | None, drift_ms: int) -> bool:
    """The judgement with hysteresis. What cannot be judged counts as good: nothing is better known to be."""
    if ahead_ms is None:
        return True
    return abs(ahead_ms) <= drift_ms * (LIMIT if was_good else AGAIN)

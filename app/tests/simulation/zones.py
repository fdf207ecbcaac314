"""A fast checker for one register with unique values (Gibbons and Korach, "Testing Shared Memories", 1997).

Each value has a zone between the first end and the last start of the operations that have it. A history is linearizable
if no read ends before its write starts, no two forward zones overlap, and no backward zone lies within a forward one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from linearizability import INFINITY, Op


def violation(history: Sequence[Op]) -> str | None:
    """None if there is an order that explains every answer, otherwise what is wrong."""
    first_end: dict[str | None, float] = {None: -1.0}
    last_start: dict[str | None, float] = {None: -1.0}
    written: dict[str | None, float] = {None: -1.0}
    read = {op.value for op in history if op.kind == "read"}
    for op in history:
        if op.kind == "write":
            if op.end == INFINITY and op.value not in read:
                continue  # it may have taken effect after everything else
            if op.value in written:
                return f"two writes of {op.value!r}: the test must write unique values"
            written[op.value] = op.start
        first_end[op.value] = min(first_end.get(op.value, INFINITY), op.end)
        last_start[op.value] = max(last_start.get(op.value, -1.0), op.start)
    for op in history:
        if op.kind == "read" and op.value not in written:
            return f"{op.value!r} was read and never written"
        if op.kind == "read" and op.end < written[op.value]:
            return f"{op.value!r} was read before it was written"
    forward, backward = [], []
    for value, end in first_end.items():
        start = last_start[value]
        (forward if end < start else backward).append((min(end, start), max(end, start), value))
    forward.sort(key=lambda zone: zone[:2])
    for (_, high, one), (low, _, two) in pairwise(forward):
        if low < high:
            return f"{one!r} was read after {two!r} was, and the other way round"
    for low, high, value in backward:
        for forward_low, forward_high, over in forward:
            if forward_low < low and high < forward_high:
                return f"{over!r} was still read after {value!r} had replaced it"
    return None

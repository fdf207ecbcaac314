"""A checker for one register with unique values: is there an order of the operations that explains every answer?

Wing and Gong's search with memory of the (done operations, value) pairs already tried.
"""

from __future__ import annotations

from dataclasses import dataclass

INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Op:
    """``end`` is INFINITY for writes of unknown outcome; such a write may take effect at any later time or never."""

    start: float
    end: float
    kind: str
    value: str | None


def linearizable(history: list[Op]) -> bool:
    ops = sorted(history, key=lambda o: o.start)
    must = frozenset(i for i, o in enumerate(ops) if o.end != INFINITY)
    tried: set[tuple[frozenset[int], str | None]] = set()
    stack: list[tuple[frozenset[int], str | None]] = [(frozenset(), None)]
    while stack:
        done, value = stack.pop()
        if must <= done:
            return True
        if (done, value) in tried:
            continue
        tried.add((done, value))
        first_end = min(o.end for i, o in enumerate(ops) if i not in done)
        for i, op in enumerate(ops):
            if i in done or op.start > first_end:
                continue
            if op.kind == "write":
                stack.append((done | {i}, op.value))
            elif op.value == value:
                stack.append((done | {i}, value))
    return False

"""Fences the nodes of one region, and waits until the other region's copies show that: for `holdfast region fence`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from .guard import FENCED
from .region import RegionRefused, Status, Statuses, fenced_at, majority, to_fence
from .region_nodes import CHANGED, RESTARTED, RegionNodes

#: How often a guard that settling, healing or a restart moves under the fence is looked at and fenced again.
FENCE_ATTEMPTS = 5
#: Between two looks at the copies.
PAUSE_SEC = 0.05


@dataclass(frozen=True, slots=True)
class Fenced:
    """``nodes``: how each was left; ``fenced``: those that refuse; ``left``: those that do not, where that matters."""

    nodes: dict[str, str]
    fenced: list[str]
    left: list[str]


def fence_region(
    own: RegionNodes,
    region: str,
    epoch: int,
    reason: str,
    done: Callable[[str], None],
    why_not: Callable[[Status], str],
) -> Fenced:
    """Move the guards to *fenced* at ``epoch``; ``done`` hears of each node. May be repeated. Raises RegionRefused."""
    failed: dict[str, str] = {}
    for attempt in range(FENCE_ATTEMPTS):
        seen = own.ask().wait()
        try:
            moves = to_fence(seen, region, epoch)
        except RegionRefused:
            if attempt == 0:
                raise
            break  # somebody fenced it at a higher epoch meanwhile; the last look shows where
        for node, guard in moves.items():
            if failed.get(node, CHANGED) in (CHANGED, RESTARTED):
                closed = replace(guard, state=FENCED, region_epoch=epoch)
                failed[node] = own.move(node, seen[node].run_id, guard, closed, False, reason)
                if not failed[node]:
                    done(node)
        if not any(problem in (CHANGED, RESTARTED) for problem in failed.values()):
            break
    seen = own.ask().wait()
    fenced = fenced_at(seen, region, epoch)
    # Somebody else may have fenced it, at this epoch or a higher one, before this command came to it.
    failed = {n: problem for n, problem in failed.items() if problem and n not in fenced}
    nodes = {n: "fenced" if n in fenced else failed.get(n) or why_not(s) for n, s in seen.items()}
    left = [n for n in seen if n not in fenced]
    return Fenced(nodes, fenced, left if failed or len(fenced) < majority(len(seen)) else [])


def copies_behind(peers: Statuses, region: str, epoch: int) -> list[str]:
    """Nodes of the other region that do not show, as copies, the fence of ``region`` at ``epoch``."""
    copies = {n: s.guard for n, s in peers.items() if s.reachable and s.role == "replica"}
    shown = {n for n, g in copies.items() if g and (g.state, g.region, g.region_epoch) == (FENCED, region, epoch)}
    return [n for n in peers if n not in shown]


def await_copies(peers: RegionNodes, region: str, epoch: int, seconds: float) -> list[str]:
    """Which copies of ``region`` do not show its fence at ``epoch`` after ``seconds``; none as soon as all do.

    The fence is the last thing that a fenced node wrote, so a copy that shows it has all that was ever acknowledged.
    """
    end = time.monotonic() + seconds
    while True:
        behind = copies_behind(peers.ask().wait(), region, epoch)
        if not behind or time.monotonic() >= end:
            return behind
        time.sleep(PAUSE_SEC)

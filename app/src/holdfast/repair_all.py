"""The last resort of `holdfast repair`: no majority of valid nodes is left, the largest tag over all nodes wins.

May lose acknowledged writes (those whose every remaining copy is on an absent node, or torn off), so it is run only
after the operator typed the region's name. Order: all present nodes become *recovering* under fresh incarnations, so
that no request of before can store or vote any more; one node is healed from all the others, then the others from it;
then all go to the next region epoch as *recovering*, and only then become *member*. Killed before all are at the next
region epoch: run it again, nobody has served. Killed later: those not yet there are healed by an ordinary repair, or
emptied first. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .guard import FENCED, MEMBER, RECOVERING, Guard
from .repair import copy_all, move
from .repair_doubt import doubtful
from .repair_plan import Code, Floor, Moved, Progress, Seen, Steps, Stopped, look, majority, ours, top_region_epoch


def usable(seen: dict[str, Seen], names: tuple[str, ...], region: str) -> list[str]:
    """The nodes whose data takes part. Those of an older region epoch do not once a majority has left it behind."""
    for name, s in seen.items():
        if s.guard is None and not s.empty:
            raise Stopped(Code.DATA_WITHOUT_GUARD, f"{name}: holds data but no guard; find out whose data it is")
        if s.guard is not None and not ours(s.guard, region, name):
            raise Stopped(Code.WRONG_NODE, f"{name}: its guard names node {s.guard.node} of region {s.guard.region}")
    check_unfenced(seen)
    top = top_region_epoch(seen, region)
    at_top = [n for n, s in seen.items() if s.guard is not None and s.guard.region_epoch == top]
    chosen = [n for n in seen if len(at_top) < majority(names) or n in at_top or seen[n].empty]
    if len(chosen) < majority(names):
        raise Stopped(
            Code.NO_MAJORITY,
            f"only {', '.join(chosen) or 'no node'} can take part, {majority(names)} are needed; bring the others up",
        )
    return chosen


def check_unfenced(seen: dict[str, Seen]) -> None:
    """A region was fenced because another one serves, or is about to, above its epoch."""
    fenced = {n: s.guard.region_epoch for n, s in seen.items() if s.guard is not None and s.guard.state == FENCED}
    if fenced:
        top = max(fenced.values())
        raise Stopped(
            Code.FENCED,
            f"{', '.join(fenced)}: fenced, so this region must not serve; nothing was changed. If it shall serve "
            f"again, holdfast region unfence --epoch {top} first: it says what speaks against it",
        )


def heal_all(
    names: tuple[str, ...],
    region: str,
    fresh: Callable[[], str],
    progress: Progress,
    kept: frozenset[str] = frozenset(),
    in_doubt: Callable[[list[str]], None] = lambda _keys: None,
) -> Steps[dict[str, Guard]]:
    """Up to the point where every present node holds everything; returns their guards, still *recovering*.

    ``kept``: the nodes that were valid; ``in_doubt`` is told the keys that may have been deleted (repair_doubt.py).
    """
    seen = yield from look(names)
    present = usable(seen, names, region)
    known = [s.guard for n, s in seen.items() if s.guard is not None and n in present]
    region_epoch = max((g.region_epoch for g in known), default=1)
    epoch = max((g.membership_epoch for g in known), default=1) + 1
    guards = {n: Guard(RECOVERING, region, n, region_epoch, epoch, fresh()) for n in present}
    for name, guard in guards.items():
        yield from move(name, seen[name].guard, guard, max(seen[n].history for n in present))
    # The largest floor everywhere. A register below it stays all the same: it may be the last copy of a value; so a
    # delete that was collected may come undone here, as any acknowledged write may be lost. Such keys are named.
    seen = yield from look(names)
    floor = max(s.floor for s in seen.values())
    told = yield [(n, Floor(g, floor)) for n, g in guards.items()]
    if not all(isinstance(t, Moved) for t in told):
        raise Stopped(Code.UNREACHABLE, "a node does not answer; run this again")
    in_doubt((yield from doubtful(guards, floor, kept)))
    first, *rest = present
    for source, target in [(n, first) for n in rest] + [(first, n) for n in rest]:
        done = yield from copy_all(target, guards[target], source, guards[source], progress)
        if not done:
            raise Stopped(Code.UNREACHABLE, f"{source} could not be read to the end; run this again")
    return guards


def readmit_all(guards: dict[str, Guard], elsewhere: int = 0) -> Steps[dict[str, Guard]]:
    """All to the next region epoch, then all members. ``elsewhere``: the highest one seen in the other region."""
    raised = {n: replace(g, region_epoch=max(g.region_epoch, elsewhere) + 1) for n, g in guards.items()}
    members = {n: replace(g, state=MEMBER) for n, g in raised.items()}
    for before, after in ((guards, raised), (raised, members)):
        for name in guards:
            yield from move(name, before[name], after[name])
    return members

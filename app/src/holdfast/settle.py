"""After a promotion: every CP key of every promoted copy to every other, then all become members. Pure: no I/O, no
clock.

The same kind of procedure as repair.py, driven in the same way. Order: 1. one node is given all that is newer on any
other (copy_all), then the others are given all that is newer on it. 2. Each is raised to the next membership epoch. 3.
Each becomes *member*.

Invariant kept for registers.py: no node is a member before every node holds, for each key, the largest tag that any of
them held when they were promoted. So whoever sees one member among its voters may read from majorities again:

- What was acknowledged before the promotion is in step 1's copies, on all nodes.
- What was acknowledged since, by a majority of *promoted* nodes, was acknowledged before those nodes moved: a store
  compares the guard in the same step. Any later majority meets them.
- A read that believes in *promoted* guards only must hear all nodes, and a node that was moved refuses it.

Killed in step 1 or 2: the next run starts over, all steps can be repeated. Killed in step 3: the next run finds a
member, so all copies were made, and moves the others of its membership epoch. Two at once: the slower one is refused by
the guards that the faster one moved.

A promoted node that is gone for good keeps all others waiting, and reads of keys that were not written since.
``without`` names it: what only it held is lost. It was not raised in step 2, which tells it from a node that step 3 had
left: when it comes back it must be emptied and repaired.
"""

from __future__ import annotations

from dataclasses import replace

from .guard import MEMBER, PROMOTED, Guard
from .repair import copy_all, move
from .repair_plan import Code, Floor, Move, Moved, Progress, Seen, Steps, Stopped, look, majority, ours


def promoted_at(seen: dict[str, Seen], region: str) -> tuple[dict[str, Guard], dict[str, Guard]]:
    """(the copies that are not settled, those that are) of the highest region epoch at which some node is promoted."""
    held = {n: s.guard for n, s in seen.items() if s.guard is not None and ours(s.guard, region, n)}
    top = max((g.region_epoch for g in held.values()), default=0)
    at_top = {n: g for n, g in held.items() if g.region_epoch == top}
    waiting = {n: g for n, g in at_top.items() if g.state == PROMOTED}
    return waiting, {n: g for n, g in at_top.items() if g.state == MEMBER}


def settle(
    names: tuple[str, ...],
    region: str,
    progress: Progress,
    without: frozenset[str] = frozenset(),
    copy: bool = True,
) -> Steps[dict[str, Guard]]:
    """Returns the guards of those that were made members, none if there was nothing to do.

    ``copy`` False is a negative control of the tests.
    """
    seen = yield from look(names)
    waiting, members = promoted_at(seen, region)
    waiting = {n: g for n, g in waiting.items() if n not in without}
    if not waiting:
        return {}
    if members:
        goal = max(g.membership_epoch for g in members.values())
        late = [n for n, g in waiting.items() if g.membership_epoch < goal]
        if late:
            raise Stopped(
                Code.MUST_EMPTY,
                f"{', '.join(late)}: the others were settled without it, so it must not be merged; empty and repair it",
            )
    else:
        _check_all_are_there(names, waiting, without)
        if copy:
            yield from _copy(waiting, seen, progress)
        goal = max(g.membership_epoch for g in waiting.values()) + 1
        yield from _move_all({n: (g, replace(g, membership_epoch=goal)) for n, g in waiting.items()})
    settled = {n: replace(g, state=MEMBER, membership_epoch=goal) for n, g in waiting.items()}
    yield from _move_all({n: (replace(g, state=PROMOTED), g) for n, g in settled.items()})
    return settled


def _move_all(moves: dict[str, tuple[Guard, Guard]]) -> Steps[None]:
    """All in one round: requests that meet nodes on both sides of it are refused and repeated."""
    told = yield [(n, Move(before, after)) for n, (before, after) in moves.items()]
    for (name, (before, after)), one in zip(moves.items(), told, strict=True):
        if not isinstance(one, Moved):
            yield from move(name, before, after)


def _check_all_are_there(names: tuple[str, ...], waiting: dict[str, Guard], without: frozenset[str]) -> None:
    missing = [n for n in names if n not in waiting and n not in without]
    if missing:
        raise Stopped(
            Code.UNREACHABLE,
            f"{', '.join(missing)}: all promoted nodes are needed, and it does not answer or is none. Bring it up; or, "
            f"if it is gone for good, give up what only it holds: holdfast region settle --without {missing[0]}",
        )
    if len(waiting) < majority(names):
        raise Stopped(Code.NO_MAJORITY, f"{len(waiting)} nodes are left; {majority(names)} are needed")


def _copy(guards: dict[str, Guard], seen: dict[str, Seen], progress: Progress) -> Steps[None]:
    floor = max(seen[n].floor for n in guards)
    told = yield [(n, Floor(g, floor)) for n, g in guards.items()]
    if not all(isinstance(t, Moved) for t in told):
        raise Stopped(Code.UNREACHABLE, "a node does not answer, or its guard was moved; run this again")
    first, *rest = guards
    for source, target in [(n, first) for n in rest] + [(first, n) for n in rest]:
        done = yield from copy_all(target, guards[target], source, guards[source], progress)
        if not done:
            raise Stopped(Code.UNREACHABLE, f"{source} could not be read to the end; run this again")

"""`holdfast repair`, the pure part: what to ask which node, in which order, and when a node may vote again.

No I/O, no clock. Each procedure is a generator: it yields a round of (node, request) pairs and is sent their answers
in the same order. The same code is driven by real sockets (repair_run.py) and by the simulator of the tests.

Words: N nodes, M = N // 2 + 1; the target X lost (part of) its data; a *valid* node is a member that kept its data.
Order: 1. X is made *recovering* under a fresh incarnation. 2. After that, M valid others are moved to a membership
epoch above every one any of them had. 3. Every key of M others, each read under the raised epoch, is stored on X
where it is newer. 4. X becomes *member* under the epoch the others have then, if its guard is still the one of step
1.

Invariant: a node that votes holds a tag >= t for every operation with tag t that it once helped to complete.
Majorities intersect, so every majority of voters finds t. Why step 4 keeps it, for an operation completed by the
majority Q:

- X not in Q: nothing to show. That is every operation completed between 1 and 4, because a recovering node's answer
  is never counted: it has M acknowledgements among the others, and any later majority that contains X has M - 1
  others; M + (M - 1) > N - 1, so it meets Q outside X. A write that runs during the heal is therefore not lost,
  whether X got it or not. (X is sent current stores meanwhile so that it comes back fresh; they are not needed for
  safety, and since X keeps them a write that only X may have taken is answered *unknown*, not *no quorum*.)
- X in Q, acknowledged before step 1 under the epoch c. Then M - 1 others were members at c before, and step 2 looks
  after step 1: the M nodes it raises meet those, so the new epoch is above c. With k amnesiacs in Q (X among them), Q
  has M - k valid nodes of N - k, and M + (M - k) > N - k: some source Y is in Q. Y acknowledged under c, hence before
  it was raised (the guard is compared in the same step), hence before step 3 reads Y: X gets it. Without the raise,
  Y's store could be delayed until after Y was read and complete a majority with an acknowledgement that X has
  forgotten.
- SCAN returns each key that is there from its beginning to its end; only tombstones are ever removed (collect.py), and
  while X is no member no new collection comes to its end. A cursor means nothing to another process, so a pass over a
  source that was restarted (another run id) begins again.

Deletes that were collected stay deleted. Every collection that removed anything had raised the floor of all nodes
before, those that step 2 raises under their old epoch; so their largest floor, read after step 2, is not below anything
collected. X gets it (``_settle_floor``): from then on no delayed store can bring such a key back. What X holds at or
below it while none of M sources has that key (an old disk, a store that came before the floor) is removed: it
was collected or, like everything only X has, never completed. What the sources have is stored below the floor by
vouching: X's batch is the fresh incarnation, which nobody else uses while X is *recovering*.

A killed repair leaves X recovering; the next run starts over (all steps are idempotent). A kill in step 2 leaves some
valid nodes one epoch behind the others: the next run evens that out first. Two repairs of one node: the later one
changes the incarnation, and the earlier one is refused by X from then on.

No majority of valid nodes: only the largest tag over all nodes is left (``heal_all``), which may have lost
acknowledged writes. That is a whole restore: the region epoch grows, so later tags are above all lost ones, and a
node that was absent stays at the lower region epoch: it is never merged, it must be emptied first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .contract import Query, Register, Reply, Store
from .guard import MEMBER, RECOVERING, Guard
from .repair_plan import (
    Ask,
    Code,
    Compare,
    Differs,
    Floor,
    Forget,
    Look,
    Move,
    Moved,
    Older,
    Page,
    Progress,
    Rows,
    Seen,
    Steps,
    Stopped,
    Told,
    check_target,
    look,
    majority,
    valid,
)
from .tags import NO_TAG

#: Values fetched and stored in one round; bounds the memory (a value has at most MAX_VALUE_BYTES).
CHUNK = 16
#: How often a step is tried when nodes change or do not answer meanwhile.
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Healed:
    """The target's guard as *recovering*; and the epoch that M others had reached before they were read."""

    guard: Guard
    epoch: int


def heal(
    target: str,
    names: tuple[str, ...],
    region: str,
    fresh: str,
    progress: Progress,
    raise_epoch: bool = True,
    suspects: frozenset[str] = frozenset(),
    take_floor: bool = True,
) -> Steps[Healed]:
    """Steps 1 to 3 for one node. ``fresh``: a new incarnation; ``suspects``: members that are not valid all the same.

    ``raise_epoch`` and ``take_floor`` False are negative controls of the tests.
    """
    without = suspects | {target}
    seen = yield from look(names)
    before = check_target(target, seen, region)
    able = valid(seen, names, region, without)
    if len(able) < majority(names):
        raise Stopped(
            Code.NO_MAJORITY,
            f"only {', '.join(able) or 'none'} of the other nodes can vote and answers; {majority(names)} are needed",
        )
    guard = _recovering(target, region, able, fresh)
    # Or, when all have been healed one by one, nobody would know any more that the region was put back to a moment.
    yield from move(target, before.guard, guard, max(seen[n].history for n in able))
    epoch = 0
    if raise_epoch:
        epoch = yield from raise_epoch_of_majority(names, region, without)
    if take_floor:
        yield from _settle_floor(target, guard, names, region, without, epoch)
    guard = yield from _copy_from_majority(target, guard, names, region, without, epoch, progress)
    return Healed(guard, epoch)


def move(target: str, expected: Guard | None, new: Guard, history: int = 0) -> Steps[None]:
    """Change one guard; a lost answer is looked up."""
    for _attempt in range(ATTEMPTS):
        (told,) = yield [(target, Move(expected, new, history))]
        if isinstance(told, Moved) or (isinstance(told, Differs) and told.guard == new):
            return
        if isinstance(told, Differs):
            raise Stopped(Code.OVERTAKEN, f"{target}: its guard was changed by somebody else; run this again")
    raise Stopped(Code.UNREACHABLE, f"{target}: does not answer")


def raise_epoch_of_majority(names: tuple[str, ...], region: str, without: frozenset[str]) -> Steps[int]:
    """Step 2. Returns the epoch that a majority of ``names``, all valid and none of ``without``, has reached."""
    goal = 0
    for _attempt in range(ATTEMPTS):
        seen = yield from look(names)
        able = valid(seen, names, region, without)
        if len(able) < majority(names):
            continue
        top = max(g.membership_epoch for g in able.values())
        if goal and sum(g.membership_epoch >= goal for g in able.values()) >= majority(names):
            return goal
        behind = {n: g for n, g in able.items() if g.membership_epoch < top}
        if behind:  # an interrupted raise: nobody may ever be two behind
            yield [(n, Move(g, replace(g, membership_epoch=top))) for n, g in behind.items()]
            continue
        goal = goal or top + 1
        if top >= goal:
            continue
        # All in one round: requests that meet nodes at two epochs are refused and repeated.
        yield [(n, Move(g, replace(g, membership_epoch=goal))) for n, g in able.items()]
    raise Stopped(Code.NO_MAJORITY, "the membership epoch could not be raised on a majority; run this again")


def _settle_floor(
    target: str, guard: Guard, names: tuple[str, ...], region: str, without: frozenset[str], epoch: int
) -> Steps[None]:
    """The others' floor for the target; then away with what it holds below them and no source has."""
    for _attempt in range(ATTEMPTS):
        seen = yield from look(names)
        sources = {n: g for n, g in valid(seen, names, region, without).items() if g.membership_epoch >= epoch}
        if len(sources) < majority(names):
            continue
        floor = max(seen[n].floor for n in sources)
        told = yield [(target, Floor(guard, floor))]
        _still_ours(target, told)
        if isinstance(told[0], Moved) and (yield from _sweep(target, guard, floor, sources)):
            return
    raise Stopped(Code.NO_MAJORITY, f"{target}: the floors of {majority(names)} others are needed; run this again")


def _sweep(target: str, guard: Guard, floor: str, sources: dict[str, Guard]) -> Steps[bool]:
    cursor, run_id = "0", ""
    while True:
        told = yield [(target, Page(guard, cursor))]
        _still_ours(target, told)
        page = told[0]
        if not isinstance(page, Rows) or (run_id and page.run_id != run_id):
            return False
        old = [(key, tag) for key, tag in page.rows if tag <= floor]
        asked = [(n, key) for key, _ in old for n in sources]
        if asked:
            told = yield [(n, Ask(sources[n], key, Query(want_value=False, bare=True))) for n, key in asked]
            if not all(isinstance(t, Reply) for t in told):
                return False
        held = {k for (_, k), t in zip(asked, told, strict=False) if isinstance(t, Reply) and t.register.tag != NO_TAG}
        gone = tuple((key, tag) for key, tag in old if key not in held)
        if gone:
            told = yield [(target, Forget(guard, gone))]
            _still_ours(target, told)
            if not isinstance(told[0], Moved):
                return False
        cursor, run_id = page.cursor, page.run_id
        if cursor == "0":
            return True


def _copy_from_majority(
    target: str,
    guard: Guard,
    names: tuple[str, ...],
    region: str,
    without: frozenset[str],
    epoch: int,
    progress: Progress,
) -> Steps[Guard]:
    passed: list[str] = []
    for attempt in range(ATTEMPTS):
        seen = yield from look(names)
        able = valid(seen, names, region, without)
        for source, held in able.items():
            if source not in passed and held.membership_epoch >= epoch:
                done = yield from copy_all(target, guard, source, held, progress)
                if done:
                    passed.append(source)
            if len(passed) >= majority(names):
                return guard
        progress(f"waiting for sources, try {attempt + 1}", "", 0, 0)
    raise Stopped(
        Code.NO_MAJORITY,
        f"only {', '.join(passed) or 'no node'} could be read to the end; {majority(names)} are needed; run this again",
    )


def copy_all(target: str, guard: Guard, source: str, held: Guard, progress: Progress) -> Steps[bool]:
    """One pass over ``source``: every key of it that is newer is stored on ``target``. False: the pass did not end."""
    cursor, run_id, looked, copied, failures = "0", "", 0, 0, 0
    while failures < ATTEMPTS:
        (page,) = yield [(source, Page(held, cursor))]
        if isinstance(page, Differs) and _raised(held, page.guard):
            held = page.guard or held
            continue
        if isinstance(page, Differs):
            return False
        if not isinstance(page, Rows):
            failures += 1
            continue
        if run_id and page.run_id != run_id:  # restarted: the cursor belongs to a process that is gone
            cursor, run_id, failures = "0", "", failures + 1
            continue
        behind = yield from _behind(target, guard, page.rows)
        for start in range(0, len(behind), CHUNK):
            chunk = behind[start : start + CHUNK]
            if not (yield from _copy(target, guard, source, held, chunk)):
                break
        else:
            run_id, cursor = page.run_id, page.cursor
            looked, copied = looked + len(page.rows), copied + len(behind)
            progress("heal", source, looked, copied)
            if cursor == "0":
                return True
            continue
        failures += 1  # this page again
        (told,) = yield [(source, Look())]
        if isinstance(told, Seen) and _raised(held, told.guard):
            held = told.guard or held
    return False


def _behind(target: str, guard: Guard, rows: tuple[tuple[str, str], ...]) -> Steps[list[str]]:
    """The keys of ``rows`` whose tag is newer than the target's; if it does not answer, all of them."""
    if not rows:
        return []
    told = yield [(target, Compare(guard, rows))]
    _still_ours(target, told)
    return list(told[0].keys) if isinstance(told[0], Older) else [key for key, _ in rows]


def _copy(target: str, guard: Guard, source: str, held: Guard, keys: list[str]) -> Steps[bool]:
    told = yield [(source, Ask(held, key, Query(want_value=True))) for key in keys]
    found: list[tuple[str, Register]] = [
        (k, t.register) for k, t in zip(keys, told, strict=True) if isinstance(t, Reply)
    ]
    if len(found) < len(keys):
        return False
    told = yield [(target, Ask(guard, key, Store(register, guard.incarnation))) for key, register in found]
    _still_ours(target, told)
    return all(isinstance(t, Reply) for t in told)


def readmit(target: str, healed: Healed, names: tuple[str, ...], region: str) -> Steps[Guard]:
    """Step 4. Returns the target's guard as member; goes along if the others' epoch is raised meanwhile."""
    held = healed.guard
    for _attempt in range(ATTEMPTS):
        seen = yield from look(names)
        able = valid(seen, names, region, frozenset({target}))
        if len(able) < majority(names):
            continue
        epoch = max(g.membership_epoch for g in able.values())
        member = replace(held, state=MEMBER, membership_epoch=max(epoch, healed.epoch))
        if held == member:
            return member
        yield from move(target, held, member)
        held = member
    if held.state == MEMBER:
        return held
    raise Stopped(Code.NO_MAJORITY, f"{target} is healed but the others cannot vote now; run this again")


def _recovering(target: str, region: str, able: dict[str, Guard], fresh: str) -> Guard:
    some = max(able.values(), key=lambda g: g.membership_epoch)
    return Guard(RECOVERING, region, target, some.region_epoch, some.membership_epoch, fresh)


def _raised(held: Guard, now: Guard | None) -> bool:
    """The same unbroken history under a higher membership epoch."""
    return (
        now is not None
        and now != held
        and now.membership_epoch > held.membership_epoch
        and replace(now, membership_epoch=held.membership_epoch) == held
    )


def _still_ours(target: str, told: list[Told]) -> None:
    if any(isinstance(t, Differs) for t in told):
        raise Stopped(
            Code.OVERTAKEN,
            f"{target}: its guard changed during the repair (emptied again, or another "
            "repair took over); run this again",
        )

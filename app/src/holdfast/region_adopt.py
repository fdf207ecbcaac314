"""All nodes of a region were put back to one moment: how they become voters again. Pure: no I/O, no clock.

`holdfast backup restore` leaves nodes that do not vote: *recovering*, with the moment in the guard's ``restored_to``.
Repairing them one by one is impossible (no majority is left) and would be wrong. ``region adopt`` treats them as a
promotion treats copies (region_promotion.py): all become *recovering* at a new region epoch under fresh incarnations,
then *promoted*, and settle.py makes them members. Before, the region is fenced at an epoch of its own, and its nodes
are stopped. The inverse is the same with the data of before, whose guards say that they were fenced at that epoch.

Why nothing of after the moment T comes back, and nothing of before it is lost:

- Only nodes that say that they were restored to T (or, for the inverse, that they are fenced at the given epoch) are
  taken; all but those set aside. A node that was away holds data of an older region epoch: it never votes, no request
  believes in it, replicators and digests skip whoever is below the highest epoch, and repair wants it emptied first. It
  is not taken either if it came back, was fenced or was backed up: its data is of before an earlier restore
  (``history``), or was fenced from a lower epoch than that of the others. Nobody joins those that serve already.
- The nodes' clocks differ, so a write acknowledged before T may be on some restored nodes only. Reads hear all of them
  until they are settled, as after a promotion; AP data is merged in full, because every incarnation is fresh and all
  positions were forgotten. So sessions of before count as not seen: "read_your_writes": false, whatever their numbers.
- The epoch is above every epoch that any guard shows, of the other region's copies as well; the first write after it
  is above every version that was ever minted, also above those that were undone.
- ``history`` in the guard says from which epoch on the region's data is the restored one. Copies of the other region
  that were last written below it are not mixed with others by a promotion, and `region compare` calls what only an old
  region holds *undone*, which nobody writes back by itself: the restore was there to undo it.

Several regions cannot be put back at once, and only the one that serves may be: the other one follows it. That it was
not promoted while this one was fenced must be seen of a majority of its nodes, or typed by somebody who knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .guard import FENCED, MEMBER, PROMOTED, RECOVERING, VOTING, Guard
from .region import RegionRefused, Status, Statuses, majority, superseded_by
from .region_promotion import Promotion, check_ages, check_histories, check_nodes, giving_up


@dataclass(frozen=True, slots=True)
class PutBack:
    """What each node must show: ``moment``, the one that it was restored to; or for the inverse ``fenced_at``, the
    epoch at which it was fenced before the restore. One of them is given."""

    moment: str = ""
    fenced_at: int = 0

    def lacks(self, status: Status, node: str) -> str:
        """'' if the node is one of those that were put back, or why it is none."""
        guard = status.guard
        if guard is None:
            return "has no guard"
        if guard.node != node:
            return f"holds data of {guard.node}"
        if self.fenced_at:
            # `holdfast backup mark` makes *recovering* of it, and leaves that it was fenced.
            kept = guard.state == FENCED or (
                guard.state == RECOVERING and status.fenced_from and not status.restored_to
            )
            ok = kept and guard.region_epoch == self.fenced_at
            return "" if ok else f"is {guard.state} at {guard.region_epoch}, not fenced at {self.fenced_at}"
        if guard.state in VOTING or not status.restored_to:
            return f"was not restored ({guard.state} at {guard.region_epoch})"
        return "" if status.restored_to == self.moment else f"was restored to {status.restored_to}"


def adopt_plan(
    own: Statuses,
    peers: Statuses,
    without: frozenset[str],
    region: str,
    epoch: int,
    put_back: PutBack,
    grace_sec: float,
    confirmed: bool = False,
) -> Promotion:
    """What is left to do, begun before or not. Raises RegionRefused. ``confirmed``: the operator typed the region's
    name, and knows that the other region was not promoted."""
    taken = [n for n in own if n not in without]
    if len(taken) < majority(len(own)):
        raise RegionRefused(
            f"without {', '.join(sorted(without))} there are {len(taken)} nodes; {majority(len(own))} are needed"
        )
    _check_epoch(own, peers, region, epoch)
    ours = {n: g for n in taken if (g := own[n].original(region, n)) is not None and _adopted(own[n], g, epoch)}
    promoted = {n: g for n, g in ours.items() if g.state == PROMOTED}
    done = any(g.state == MEMBER for g in ours.values())
    if done or promoted:
        _check_none_is_late(own, taken, ours, epoch)
    if done:
        return Promotion({}, {}, promoted, True)
    check_nodes(own, taken)
    mark: dict[str, Guard] = {}
    for node in taken:
        if node in ours:
            continue
        why, guard = put_back.lacks(own[node], node), own[node].guard
        if why or guard is None:
            wanted = f"fenced at {put_back.fenced_at}" if put_back.fenced_at else f"restored to {put_back.moment}"
            raise RegionRefused(
                f"{node} {why}; all nodes must be {wanted}, or it would bring back what is to be undone: put it back "
                f"as well, or give it up with {giving_up(node)}; then it must be emptied before it returns"
            )
        mark[node] = guard
    check_histories(own, taken, mark, cure="")
    if put_back.fenced_at:
        _check_served_last(own, mark)
    check_ages({n: own[n].adopted_ms if n in ours else own[n].heartbeat_ms for n in taken}, grace_sec)
    marked = {n: g for n, g in ours.items() if g.state == RECOVERING}
    wrong = [n for n in ours if n not in marked and n not in promoted]
    if wrong:
        raise RegionRefused(
            f"{', '.join(wrong)}: {ours[wrong[0]].state} at {epoch}; this epoch is over, use a higher one"
        )
    if not confirmed and (mark or marked):
        # What is marked does not tell any more when it served last; when all are, that was asked before.
        served = max((own[n].served_at for n in mark if own[n].history_before is None), default=0) if mark else epoch
        _check_peers_stood_by(peers, region, served)
    return Promotion(mark, marked, promoted, not mark and not marked)


def _check_none_is_late(own: Statuses, taken: list[str], ours: Mapping[str, Guard], epoch: int) -> None:
    """The region serves without it, or is about to: its data was not heard, and may not be any more."""
    late = {n: g for n in taken if n not in ours and (g := own[n].guard) is not None}
    if late:
        found = ", ".join(f"{n} ({g.state} at {g.region_epoch})" for n, g in late.items())
        raise RegionRefused(
            f"{found} is none of those that serve at region epoch {epoch}, and cannot join them: give it up with "
            f"{giving_up(next(iter(late)))}; then empty it and repair it"
        )
    bare = [n for n in taken if n not in ours]
    check_nodes(own, bare)
    if bare:
        raise RegionRefused(f"{', '.join(bare)}: has no guard; holdfast bootstrap and holdfast repair make it a member")


def _check_served_last(own: Statuses, mark: Mapping[str, Guard]) -> None:
    """A fence also raises a node that was away while the others went on: what it was fenced from tells."""
    top = max((own[n].served_at for n in mark), default=0)
    old = [n for n in mark if own[n].served_at < top]
    if old:
        raise RegionRefused(
            f"{', '.join(old)}: its data is of region epoch {own[old[0]].served_at}, that the others' of {top}; it was "
            f"away before the fence. Give it up with {giving_up(old[0])}; then it must be emptied before it returns"
        )


def _check_peers_stood_by(peers: Statuses, region: str, served: int) -> None:
    """While this region is fenced the other one may be promoted, out of our sight. Our epoch would be the higher one:
    what it acknowledged since would be lost when the two meet. ``served``: the epoch at which this one served last."""
    quiet = [n for n, s in peers.items() if _stood_by(s, region, n, served)]
    if peers and len(quiet) < majority(len(peers)):
        raise RegionRefused(
            f"only {', '.join(quiet) or 'no node'} of the other region shows that it was not promoted while this one "
            f"was fenced; bring the others up, or, if you know that no promotion was begun, add --confirm {region} "
            f"(of the runbook: -e accept_unseen={region})"
        )


def _stood_by(status: Status, region: str, node: str, served: int) -> bool:
    """Stricter than for `region unfence`: a copy that was cut loose may be promoted in the next second."""
    if status.role == "replica":
        return status.reachable
    if not status.reachable or status.reason or status.trouble == "loading":
        return False
    guard = status.guard
    if guard is None:
        return True
    if guard.region == region or guard.node != node or guard.state != FENCED:
        return False
    return status.fenced_from not in VOTING or (status.fenced_epoch or 0) <= served


def _adopted(status: Status, guard: Guard, epoch: int) -> bool:
    """Its data belongs to the history that began with ``epoch``: the mark and that were written in one step."""
    return guard.region_epoch == epoch and status.history == epoch


def _check_epoch(own: Statuses, peers: Statuses, region: str, epoch: int) -> None:
    serving, who = superseded_by(peers, region)
    if serving:
        raise RegionRefused(
            f"{who} of the other region serves at region epoch {serving}: put the region back that serves, and let "
            "this one follow it"
        )
    top, name = 0, ""
    for node, status in (*own.items(), *peers.items()):
        guard = status.guard
        if guard is None:
            continue
        # A copy of the other region's is a copy of what was adopted here, if it shows our epoch.
        begun = guard.region == region and status.history == epoch and guard.state in (*VOTING, RECOVERING)
        if guard.region_epoch > epoch or (guard.region_epoch == epoch and not begun):
            top, name = max((top, name), (guard.region_epoch, node))
    if top:
        raise RegionRefused(f"--epoch {epoch}: {name} is at region epoch {top}; use {top + 1} or more")

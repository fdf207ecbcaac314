"""What a promotion of this region's copies has to do, and what forbids it; region.py says why. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .guard import FENCED, MEMBER, PROMOTED, RECOVERING, Guard
from .region import RegionRefused, Statuses, majority, served_by, superseded_by


def giving_up(node: str) -> str:
    """How a node that is gone for good is given up: by this command, and by the runbook that runs it."""
    return f'--without {node} (of the runbook: -e \'{{"without": ["{node}"]}}\')'


@dataclass(frozen=True, slots=True)
class Promotion:
    """``mark``: copies to be made *recovering*; ``marked``: those that are; ``done``: nothing is left to do."""

    mark: dict[str, Guard]
    marked: dict[str, Guard]
    promoted: dict[str, Guard]
    done: bool


def promote_plan(
    own: Statuses, peers: Statuses, without: frozenset[str], region: str, epoch: int, grace_sec: float
) -> Promotion:
    """What a promotion to ``epoch`` has to do, begun before or not. Raises RegionRefused.

    ``grace_sec``: TOMBSTONE_GRACE_SEC, the age from which deletes may have been collected.
    """
    taken = [n for n in own if n not in without]
    if len(taken) < majority(len(own)):
        raise RegionRefused(
            f"without {', '.join(sorted(without))} there are {len(taken)} nodes; {majority(len(own))} are needed"
        )
    ours = {n: g for n in taken if (g := own[n].original(region, n)) is not None and g.region_epoch == epoch}
    settled = [n for n, g in ours.items() if g.state == MEMBER]
    promoted = {n: g for n, g in ours.items() if g.state == PROMOTED}
    if settled:
        return Promotion({}, {}, promoted, True)
    check_nodes(own, taken)
    copies = {n: g for n in taken if n not in ours and (g := own[n].guard) is not None}
    _check_copies(own, copies, taken, ours, region, epoch)
    check_histories(own, taken, copies)
    _check_moments({n: own[n].restored_to for n in taken if n not in promoted})
    # A guard that is a copy holds copied_ms of another promotion.
    check_ages({n: own[n].copied_ms if n in ours else own[n].heartbeat_ms for n in taken}, grace_sec)
    _check_peers(peers, region, epoch)
    marked = {n: g for n, g in ours.items() if g.state == RECOVERING}
    wrong = [n for n in ours if n not in marked and n not in promoted]
    if wrong:
        raise RegionRefused(
            f"{', '.join(wrong)}: {ours[wrong[0]].state} at {epoch}; this epoch is over, use a higher one"
        )
    return Promotion(copies, marked, promoted, not copies and not marked)


def check_nodes(own: Statuses, taken: list[str]) -> None:
    away = [n for n in taken if not own[n].reachable]
    if away:
        raise RegionRefused(
            f"{', '.join(away)}: does not answer ({own[away[0]].reason}). An acknowledged write may be there only: "
            f"bring it up, or give it up with {giving_up(away[0])}"
        )
    replicas = [n for n in taken if own[n].role == "replica"]
    if replicas:
        raise RegionRefused(f"{', '.join(replicas)}: is still a replica; run REPLICAOF NO ONE there first")
    unread = [n for n in taken if own[n].reason or own[n].trouble]
    if unread:
        raise RegionRefused(f"{', '.join(unread)}: {own[unread[0]].trouble or own[unread[0]].reason}; cure that first")


def _check_copies(
    own: Statuses, copies: dict[str, Guard], taken: list[str], ours: dict[str, Guard], region: str, epoch: int
) -> None:
    bare = [n for n in taken if n not in copies and n not in ours]
    if bare:
        raise RegionRefused(f"{', '.join(bare)}: has no guard, so it is no copy; give it up with {giving_up(bare[0])}")
    not_copies = [n for n, g in copies.items() if g.region == region]
    if not_copies:
        held = copies[not_copies[0]]
        raise RegionRefused(
            f"{', '.join(not_copies)}: its guard is this region's own ({held.state} at {held.region_epoch}), "
            "not a copy of the other region's; a fenced region comes back by region unfence"
        )
    misnamed = [n for n, g in copies.items() if g.node != n]
    if misnamed:
        raise RegionRefused(f"{misnamed[0]}: is a copy of {copies[misnamed[0]].node}; correct NODES or its primary")
    donors = {g.region for g in copies.values()}
    if len(donors) > 1:
        raise RegionRefused(f"the nodes are copies of several regions ({', '.join(sorted(donors))})")
    for node, guard in copies.items():
        # At the very epoch at which the other region was fenced nobody has written; unless it closed by itself there.
        written = guard.state != FENCED or (own[node].fenced_epoch or 0) >= epoch
        if guard.region_epoch > epoch or (guard.region_epoch == epoch and written):
            raise RegionRefused(
                f"--epoch {epoch}: {node} is a copy of epoch {guard.region_epoch}; use {guard.region_epoch + 1} or more"
            )


def check_histories(
    own: Statuses, taken: list[str], copies: Mapping[str, Guard], cure: str = "let it follow again, or "
) -> None:
    """Data of before a restore of the whole region (region_adopt.py) would bring back what that has undone."""
    cut = max((own[n].data_history for n in taken), default=0)
    before = [n for n in copies if own[n].served_at < cut]
    if before:
        raise RegionRefused(
            f"{', '.join(before)}: its data is of before the region was restored (region epoch {cut}), and would "
            f"bring back what that has undone: {cure}give it up with {giving_up(before[0])}; then it must be "
            "emptied before it returns"
        )


def _check_moments(restored_to: Mapping[str, str]) -> None:
    """The other region was in the middle of a restore: some copies are of a moment, the others of now (or of another).
    Together they would bring back part of what the restore was to undo. Any of the two is whole."""
    kinds: dict[str, list[str]] = {}
    for node, moment in restored_to.items():
        kinds.setdefault(moment, []).append(node)
    if len(kinds) > 1:
        said = "; ".join(
            f"{', '.join(nodes)}: " + (f"restored to {moment}" if moment else "not restored")
            for moment, nodes in kinds.items()
        )
        fewest = min(kinds.values(), key=len)
        raise RegionRefused(
            f"the other region was in the middle of a restore ({said}), and a mixture would bring back part of what it "
            f"undoes: give up {', '.join(fewest)} with {giving_up(fewest[0])}"
        )


def check_ages(beats: Mapping[str, int | None], grace_sec: float) -> None:
    """A copy may lack a delete that has been collected on another one: settling would bring the value back.

    ``beats``: the last heartbeat that came through, in ms. Without any nothing is known, and nothing is refused.
    """
    newest = max((b for b in beats.values() if b), default=0)
    late = {n: (newest - b) / 1000 for n, b in beats.items() if b and newest - b > grace_sec * 1000}
    if late:
        node, seconds = next(iter(late.items()))
        raise RegionRefused(
            f"{', '.join(late)}: the copy ends {seconds:.0f} s before the newest one, and deletes are collected "
            f"after {grace_sec:g} s (TOMBSTONE_GRACE_SEC): it would bring deleted keys back. "
            f"Give it up with {giving_up(node)}"
        )


def _check_peers(peers: Statuses, region: str, epoch: int) -> None:
    ahead, who = superseded_by(peers, region)
    if ahead >= epoch:
        raise RegionRefused(
            f"--epoch {epoch}: {who} of the other region serves at region epoch {ahead}; fence it, and use {ahead + 1}"
        )
    served, who = served_by(peers, region)
    if served >= epoch:
        raise RegionRefused(
            f"--epoch {epoch}: {who} of the other region served at region epoch {served}; use {served + 1} or more"
        )
    above = [n for n, s in peers.items() if s.primary and s.guard is not None and s.guard.region_epoch > epoch]
    if above:
        top = max(s.guard.region_epoch for n, s in peers.items() if n in above and s.guard is not None)
        raise RegionRefused(f"--epoch {epoch}: {', '.join(above)} of the other region is at {top}; use {top} or more")


def marked_guard(region: str, node: str, epoch: int, fresh: str) -> Guard:
    """Step 1's guard. ``fresh``: a new incarnation."""
    return Guard(RECOVERING, region, node, epoch, 1, fresh)

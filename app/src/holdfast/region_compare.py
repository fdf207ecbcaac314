"""The old region comes back after a failover: which of its writes did not get into the one that serves? Pure: no I/O.

Versions begin with the region epoch, so all that the serving region wrote since its promotion is at the epoch of that
promotion or above. It may serve at a higher one by now (a fence that was taken back, a restore, a repair by hand), so
its nodes keep that epoch (``Serving.parted``). Of each key the old region's largest version is judged against the
serving region's largest:

- *same*: the serving region has it.
- *superseded*: it has a larger version of before the promotion, or it had this one and wrote over it. Nothing is lost.
- *moot*: a delete, and the serving region has no value either; or the very value was written again since.
- *safe*: it has less, and nothing of the key since the promotion: an ordinary write restores it.
- *undone*: what would be safe or a conflict, but the serving region was restored to a moment since this one served
  (``Serving.restored``, region_adopt.py): bringing it back may be the very thing that the restore was to undo.
- *conflict*: it has written a version since the promotion, and may never have had the old one. Whoever wrote that
  cannot have seen the old value, so no order between the two is right by itself: a person decides. A key that is gone
  counts as such too, where deletes of since then have been collected: it may have been written and deleted since.

Whether a value that was written over had got there is not in the registers. It is known of old ones: a promoted node
keeps the last heartbeat that its primary had sent (``copied_ms``), and what that primary had executed by then is in the
copy. An AP write was executed by its origin when its version was minted. An acknowledged CP write was executed then by
a majority, which every ``len(names) - majority + 1`` nodes meet. ``SLACK_MS`` is for clocks that differ and for the
time an operation may take. So a false conflict is possible for what was written up to a minute before the cut.

It may also be that the *old* region was promoted last, and the other one never stopped (after both had served at one
epoch, a person chose that one): ``Serving.seen_ms``. Then what the serving region wrote meanwhile is at no epoch of its
own. It counts as written since unless the copies that were promoted here surely had it, by the same heartbeats.

Guards that an older release promoted do not tell the epoch: the lowest that is possible is taken (``_parted``), and
what an adoption may have written into ``copied_ms`` is not believed. So there may be false conflicts there as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .contract import TOMBSTONE
from .guard import FENCED, VOTING, Guard
from .hlc import Version
from .region import RegionRefused, Status, Statuses, majority, superseded_by

CP, AP = "cp", "ap"
SAFE, CONFLICT, UNDONE = "safe", "conflict", "undone"
SAME, SUPERSEDED, MOOT = "same", "superseded", "moot"
SLACK_MS = 60_000
DRILL_PREFIX = "__drill:"


@dataclass(frozen=True, slots=True)
class Held:
    """What a node has of one key, without the value. ``replaced``: AP versions that lose to it whatever their size."""

    version: str
    kind: str
    replaced: str = ""


@dataclass(frozen=True, slots=True)
class Serving:
    """The serving region. ``floors``: of each face the largest version whose tombstone was collected, '' for none.
    ``restored``: its data was put back to a moment at an epoch above the old region's. ``parted``: the epoch of the
    promotion that made two histories of one. ``seen_ms``: None, or that was the old region's, and these are the last
    heartbeats that had come to its nodes by then."""

    region: str
    epoch: int
    names: tuple[str, ...]
    copied_ms: Mapping[str, int]
    parted: int
    floors: Mapping[str, str] = field(default_factory=dict)
    restored: bool = False
    seen_ms: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """``old``, ``nodes``: the old region's largest version and who has exactly that. ``acknowledged``: so many old
    nodes hold something that is not there that an acknowledged write may be lost; always True in AP."""

    verdict: str
    old: Held
    nodes: tuple[str, ...]
    there: Held | None
    there_node: str
    acknowledged: bool

    @property
    def lost(self) -> bool:
        return self.verdict in (SAFE, CONFLICT, UNDONE)


def judge(face: str, old: Mapping[str, Held], there: Mapping[str, Held], serving: Serving, silent: int = 0) -> Judged:
    """``old``, ``there``: what the nodes have that have something. ``silent``: old nodes of which nothing is known."""
    gone = {v for held in (*old.values(), *there.values()) if held.replaced for v in held.replaced.split()}
    mine = _largest(face, old, gone)
    theirs = _largest(face, there, gone) if there else None
    nodes = tuple(n for n, h in old.items() if h.version == mine.version)
    missing = [h for h in old.values() if theirs is None or _order(face, theirs.version) < _order(face, h.version)]
    if any(h.version == mine.version for h in there.values()):
        verdict = SAME if theirs is not None and theirs.version == mine.version else SUPERSEDED
    else:
        verdict = _verdict(face, mine, theirs, gone, serving)
    if verdict == CONFLICT:  # theirs may be the larger one and have missed each of these all the same
        missing = list(old.values())
    if serving.restored and verdict in (SAFE, CONFLICT):
        verdict = UNDONE
    acknowledged = face == AP or len(missing) + silent >= majority(len(serving.names))
    there_node = next((n for n, h in there.items() if theirs is not None and h.version == theirs.version), "")
    return Judged(verdict, mine, nodes, theirs, there_node, acknowledged)


def _verdict(face: str, mine: Held, theirs: Held | None, gone: set[str], serving: Serving) -> str:
    if mine.version in gone:
        return SUPERSEDED
    if mine.kind == TOMBSTONE and (theirs is None or theirs.kind == TOMBSTONE):
        return MOOT
    larger = theirs is not None and _order(face, mine.version) < _order(face, theirs.version)
    if _written_since(face, theirs.version if theirs else serving.floors.get(face, ""), serving):
        if serving.seen_ms is None:
            known = had_got_there(face, mine.version, serving.copied_ms, len(serving.names))
        else:  # it came from there, or was written here
            known = larger and epoch_of(mine.version) < serving.parted
        return SUPERSEDED if known else CONFLICT
    return SUPERSEDED if larger else SAFE


def _written_since(face: str, version: str, serving: Serving) -> bool:
    """``version``: of the serving region, '' for none."""
    if epoch_of(version) >= serving.parted:
        return True
    if not version or serving.seen_ms is None:
        return False
    return not had_got_there(face, version, serving.seen_ms, len(serving.names))


def had_got_there(face: str, version: str, copied_ms: Mapping[str, int], count: int) -> bool:
    """Surely, if it was acknowledged: it was executed long enough before the copies were cut off. ``count``: of a
    region's nodes."""
    if face == AP:
        parsed = Version.parse(version)
        return copied_ms.get(parsed.origin, -1) >= parsed.milliseconds + SLACK_MS
    made = int(version[9:25], 16)
    enough = count - majority(count) + 1
    return sum(copied >= made + SLACK_MS for copied in copied_ms.values()) >= enough


def epoch_of(version: str) -> int:
    """The region epoch of a version of either face; 0 for none."""
    return int(version[:8], 16) if version else 0


def _order(face: str, version: str) -> Any:
    return version if face == CP else Version.parse(version).order()


def _largest(face: str, held: Mapping[str, Held], gone: set[str]) -> Held:
    values = list(held.values())
    kept = [h for h in values if h.version not in gone] if gone else values
    return max(kept or values, key=lambda h: _order(face, h.version))


@dataclass(frozen=True, slots=True)
class Plan:
    """``read``: the old nodes that can be read, with their guards; ``unread``: why the others cannot."""

    read: Mapping[str, Guard]
    unread: Mapping[str, str]
    voters: Mapping[str, Guard]
    serving: Serving


def plan(own: Statuses, peers: Statuses, region: str, without: frozenset[str], without_peers: frozenset[str]) -> Plan:
    """What can be compared. Raises RegionRefused."""
    epoch, _who = superseded_by(peers, region)
    if not epoch:
        raise RegionRefused("no node of PEER_NODES votes: run this in the old region, while the other one serves")
    wrong = [n for n, s in own.items() if (g := s.original(region, n)) is not None and _serves(g, epoch)]
    if wrong:
        raise RegionRefused(
            f"{', '.join(wrong)}: at region epoch {own[wrong[0]].guard.region_epoch}, "  # type: ignore[union-attr]
            f"the other region at {epoch}: this is not the old region"
        )
    voters = _voters(peers, region, epoch)
    absent = [n for n in peers if n not in voters and n not in without_peers]
    if absent or len(voters) < majority(len(peers)):
        name = absent[0] if absent else min(without_peers)
        why = peers[name].reason or "it does not vote"
        raise RegionRefused(
            f"{', '.join(absent) or name} of the other region: {why}. A write may be there only: bring it up and "
            f"repair it, or, if it is gone for good, add --without-peer {name} (a majority is needed)"
        )
    read = {n: g for n, s in own.items() if n not in without and (g := s.original(region, n)) is not None}
    read = {n: g for n, g in read.items() if not own[n].reason}
    unread = {n: _why_unread(s, region) for n, s in own.items() if n not in read and n not in without}
    if not read and all(s.reachable for s in own.values()):
        raise RegionRefused("; ".join(f"{n}: {why}" for n, why in unread.items()) or "no node is left to be read")
    olds, news = {n: own[n] for n in read}, {n: peers[n] for n in voters}
    donor = next(iter(voters.values())).region
    cut = max(s.history for s in news.values())
    restored = any(s.served_at < cut for s in olds.values())
    parted, here = _parted(olds, news, epoch)
    serving = Serving(donor, epoch, tuple(peers), _copied(news), parted, restored=restored)
    return Plan(read, unread, voters, replace(serving, seen_ms=_copied(olds)) if here else serving)


def _parted(olds: Statuses, news: Statuses, epoch: int) -> tuple[int, bool]:
    """(the epoch of the promotion since which the two regions have histories of their own, it was the old region's)."""
    theirs = [s.promoted_epoch for s in news.values() if s.promoted_epoch]
    ours = max((s.promoted_epoch or 0 for s in olds.values()), default=0)
    if ours > min(theirs, default=0):
        return ours, True
    if theirs:
        return min(theirs), False
    # Not known: what is above the old region's epoch is not its own; and where a node was fenced it had served.
    served = max((s.served_at for s in olds.values()), default=epoch)
    return min(epoch, served + 1, *(s.fenced_epoch for s in news.values() if s.fenced_epoch)), False


def _copied(statuses: Statuses) -> dict[str, int]:
    """Where the epoch of the promotion is not kept, an adoption may have written over the heartbeat."""
    told = {n: s for n, s in statuses.items() if s.promoted_epoch or not s.history}
    return {n: s.copied_ms for n, s in told.items() if s.copied_ms is not None}


def _voters(peers: Statuses, region: str, epoch: int) -> dict[str, Guard]:
    """Those that have all; one that was given up when the copies were settled is behind the others' epoch."""
    held = {n: s.guard for n, s in peers.items() if s.primary and s.guard is not None and not s.reason}
    held = {n: g for n, g in held.items() if g.region != region and g.state in VOTING and g.region_epoch == epoch}
    top = max((g.membership_epoch for g in held.values()), default=0)
    return {n: g for n, g in held.items() if g.membership_epoch == top}


def _serves(guard: Guard, epoch: int) -> bool:
    return guard.region_epoch > epoch or (guard.region_epoch == epoch and guard.state != FENCED)


def _why_unread(status: Status, region: str) -> str:
    if not status.reachable:
        return f"unreachable: {status.reason}"
    if status.role == "replica":
        return "a replica: what only it had has been overwritten"
    if status.reason:
        return status.reason
    if status.guard is None:
        return "it has no guard: its data was lost, or is not this region's"
    return f"its guard is of {status.guard.node} of region {status.guard.region}, not of region {region}"

"""Two regions: which may serve, who may be promoted, fenced or confirmed, from what nodes show. Pure: no I/O, no clock.

Each standby node is a native replica of the active region's node of the same name, so its guard is a copy that names
the other region. A failover fences the active region where it can be reached, makes the replicas primaries and promotes
them:

1. region_promotion.py: every node (but those set aside) is a primary that holds a copy of one region's node of that
   name. Each becomes *recovering* with this region's name, the new epoch and a fresh incarnation. Nothing of before is
   accepted then.
2. When all are marked they become *promoted* and serve; not before, as a node that still takes writes of another
   history would be a copy that is not there for the reads that must hear all.
3. settle.py copies until every node holds everything, and makes them members.

Which region serves is decided by the region epoch. A region that sees that the other one votes, or voted until it was
fenced, at a higher epoch is over (``served_by``). If both did so at one epoch, which only commands behind a partition
can bring about, both are: a person must say whose history stays. It cannot see that while it is off: so a node that
was started counts only once it was *confirmed* for that run of its process (``may_confirm``): by a majority of its own
region that was up all along, or by a majority of the other region's nodes that show that they were not promoted. A
promotion needs all but the nodes set aside, of which there are less than a majority; so a majority of nodes that are
replicas, or at an epoch not above ours and not voting beside us, meets every promotion. While one of them votes, at
whatever epoch, two regions claim to serve, and a person must say which history stays. What this cannot give: a region
that was up all along and can reach nobody does not know of a promotion until it can; fencing it is the operator's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .guard import FENCED, RECOVERING, VOTING, Guard


@dataclass(frozen=True, slots=True)
class Status:
    """One node as looked at. ``reason``: why it is not reachable, or why its guard could not be read.

    ``guard`` is None if there is none or ``reason`` is not empty. Times are the node's own clock in ms; offsets are
    bytes of the replication stream; ``primary_offset`` is what a replica has read of its primary.
    """

    reachable: bool
    reason: str = ""
    role: str = "primary"
    link: str = "-"
    guard: Guard | None = None
    run_id: str = ""
    confirmed: str = ""
    fenced_from: str = ""
    keys: int | None = None
    offset: int | None = None
    primary_offset: int | None = None
    link_down_seconds: int | None = None
    heartbeat_ms: int | None = None
    clock_ms: int | None = None
    #: Why it should not be promoted although it answers: it is loading, its disk or memory is full.
    trouble: str = ""
    note: str = ""
    #: Of a node that was promoted: the last heartbeat that had come through, by its old primary's clock in ms.
    copied_ms: int | None = None
    #: Of a fenced node, also after `region unfence`: the region epoch at which it was what ``fenced_from`` says.
    fenced_epoch: int | None = None
    #: Of a replica: for how long a running instance has seen no newer heartbeat than this, by its own clock.
    unchanged_sec: float | None = None
    #: The moment to which its data was restored from a backup, as nobody has made a voter of it since; '' for none.
    restored_to: str = ""
    #: The region epoch from which on the region's whole history was cut back (region_adopt.py); 0: it never was.
    history: int = 0
    #: Of a node that is marked for such a change and not promoted yet: what ``history`` was before; None: no such node.
    history_before: int | None = None
    #: The region epoch of the promotion that made it a node of its region; None: there was none, or an older release.
    promoted_epoch: int | None = None
    #: Of a node that was adopted with its region's own data (region_adopt.py): the last heartbeat in these.
    adopted_ms: int | None = None

    @property
    def primary(self) -> bool:
        return self.reachable and self.role == "primary"

    @property
    def is_confirmed(self) -> bool:
        return bool(self.run_id) and self.run_id == self.confirmed

    @property
    def lag_seconds(self) -> float | None:
        """A replica's: how old the newest heartbeat is that came through.

        That compares the clocks of two machines. If this side's is behind, it says too little; so it is never less than
        the time for which an instance of this side has waited for the next heartbeat.
        """
        if self.role != "replica" or self.heartbeat_ms is None or self.clock_ms is None:
            return None
        return max(0.0, (self.clock_ms - self.heartbeat_ms) / 1000, self.unchanged_sec or 0.0)

    @property
    def served_at(self) -> int:
        """The region epoch at which its data was last written by the service; 0 without a guard."""
        if self.guard is None:
            return 0
        # `holdfast backup` makes *recovering* of it, and leaves that it was fenced.
        fenced = self.guard.state == FENCED or (self.guard.state == RECOVERING and self.fenced_from)
        return (self.fenced_epoch if fenced else 0) or self.guard.region_epoch

    @property
    def data_history(self) -> int:
        """``history`` of the data itself: a mark that nothing was promoted under says nothing of it."""
        return self.history if self.history_before is None else self.history_before

    def original(self, region: str, node: str) -> Guard | None:
        """Its guard, if it is a primary and no copy: of the node of that name in ``region``."""
        guard = self.guard if self.primary else None
        return guard if guard is not None and guard.region == region and guard.node == node else None


#: How long a replica may take to notice that its primary is gone: Redis's default for repl-timeout.
REPL_TIMEOUT_SEC = 60


def with_last_heartbeat(status: Status, seen_ms: int | None, unchanged_sec: float | None = None) -> Status:
    """A replica whose link is down shows no data, but its lag goes on. ``seen_ms``: the last heartbeat somebody saw
    there; ``unchanged_sec``: how long ago that one was new to them.

    If nobody did, the time since its link went down, and what it took to notice that, is the most that can have been
    lost.
    """
    if status.role != "replica" or status.clock_ms is None:
        return status
    if status.heartbeat_ms is not None:
        return replace(status, unchanged_sec=unchanged_sec) if status.heartbeat_ms == seen_ms else status
    if seen_ms is not None:
        return replace(status, heartbeat_ms=seen_ms, unchanged_sec=unchanged_sec)
    down = status.link_down_seconds
    if down is not None and down >= 0:
        seen_ms = status.clock_ms - (down + REPL_TIMEOUT_SEC) * 1000
    return replace(status, heartbeat_ms=seen_ms)


Statuses = Mapping[str, Status]


class RegionRefused(Exception):
    """Nothing was changed; ``str`` names the cause and the cure."""


def majority(count: int) -> int:
    return count // 2 + 1


def serving_epoch(own: Statuses, region: str) -> int:
    """The highest region epoch at which a node of ``region`` votes; 0 if none does. Its fence may be higher."""
    held = [s.original(region, n) for n, s in own.items()]
    return max((g.region_epoch for g in held if g is not None and g.state in VOTING), default=0)


def superseded_by(peers: Statuses, region: str) -> tuple[int, str]:
    """(the highest epoch at which a node of the other region votes, which); (0, "") if none does.

    Copies do not count: a replica's guard is its primary's, and a copy that was cut loose names this region still.
    """
    voting = [
        (s.guard.region_epoch, name)
        for name, s in peers.items()
        if s.primary and s.guard is not None and s.guard.region != region and s.guard.state in VOTING
    ]
    return max(voting, default=(0, ""))


def served_by(peers: Statuses, region: str) -> tuple[int, str]:
    """(the highest epoch at which a node of the other region votes, or voted until it was fenced, which); or (0, "").

    A node that was fenced at an epoch has not served at it; so fencing an old region higher than the one that serves
    does no harm to the latter.
    """
    fenced = [
        (s.fenced_epoch or 0, name)
        for name, s in peers.items()
        if s.guard is not None
        and s.guard.region != region
        and s.original(s.guard.region, name) is not None
        and s.guard.state == FENCED
        and s.fenced_from in VOTING
    ]
    return max(superseded_by(peers, region), *fenced, (0, ""))


def hidden(peers: Statuses) -> dict[str, str]:
    """The primaries that answer and do not show whether they have a guard, as they are loading; and why. A replica
    whose primary is away does not show its copy either, but is one for that."""
    return {n: s.reason for n, s in peers.items() if s.primary and s.reason}


def may_confirm(name: str, own: Statuses, peers: Statuses, region: str) -> str:
    """Why ``name`` may be confirmed for the run of its present process; '' if nobody is there to say so."""
    guard = own[name].original(region, name)
    if guard is None or guard.state not in VOTING:
        return ""
    if served_by(peers, region)[0] >= guard.region_epoch:
        return ""
    fellows = [
        n
        for n, s in own.items()
        if n != name
        and s.is_confirmed
        and (held := s.original(region, n)) is not None
        and held.state in VOTING
        and held.region_epoch == guard.region_epoch
    ]
    if len(fellows) >= majority(len(own)):
        return f"{', '.join(fellows)} were up all along"
    if superseded_by(peers, region)[0]:
        return ""  # at a lower epoch, but it may be the later one for all that
    quiet = [n for n, s in peers.items() if _is_not_ahead(s, guard.region_epoch)]
    if peers and len(quiet) >= majority(len(peers)):
        return f"{', '.join(quiet)} of the other region were not promoted"
    return ""


def _is_not_ahead(status: Status, epoch: int) -> bool:
    if not status.reachable:
        return False
    if status.role == "replica":
        return True
    if status.reason or status.trouble == "loading":
        return False
    guard = status.guard
    # Fenced above our epoch: it has served since we did, so our history is the older one.
    return guard is None or guard.region_epoch < epoch or (guard.state == FENCED and guard.region_epoch == epoch)


def to_fence(own: Statuses, region: str, epoch: int) -> dict[str, Guard]:
    """The guards to be moved to *fenced* at ``epoch``. Raises RegionRefused if a node is at a higher epoch already."""
    guards = {n: g for n, s in own.items() if (g := s.original(region, n)) is not None}
    above = [n for n, g in guards.items() if g.region_epoch > epoch or (g.region_epoch == epoch and g.state != FENCED)]
    if above:
        top = max(guards[n].region_epoch for n in above)
        raise RegionRefused(f"--epoch {epoch}: {', '.join(above)} is at region epoch {top}; use {top + 1} or more")
    return {n: g for n, g in guards.items() if (g.state, g.region_epoch) != (FENCED, epoch)}


def to_close(own: Statuses, region: str, epoch: int, overdue: int) -> dict[str, tuple[Guard, Guard]]:
    """{node: (its guard, fenced)} of the original nodes that must close by themselves.

    ``epoch``: at which the other region serves or served: nodes below it are behind. ``overdue``: an epoch that both
    regions served at, long enough that processes of both know why; 0: none. A node above both was decided for: it stays
    open whatever a caller believed when it last asked.
    """
    found = {}
    for node, status in own.items():
        guard = status.original(region, node)
        if guard is None or guard.state == FENCED:
            continue
        if guard.region_epoch < epoch or guard.region_epoch <= overdue:
            found[node] = guard, replace(guard, state=FENCED, region_epoch=max(epoch, guard.region_epoch))
    return found


def fenced_at(own: Statuses, region: str, epoch: int) -> list[str]:
    held = {n: s.original(region, n) for n, s in own.items()}
    return [n for n, g in held.items() if g is not None and g.state == FENCED and g.region_epoch >= epoch]


def to_unfence(
    own: Statuses, peers: Statuses, region: str, epoch: int, confirmed: bool
) -> dict[str, tuple[Guard, Guard]]:
    """What to move: (as it is, as it shall be). ``confirmed``: the operator typed the region's name."""
    ahead, who = superseded_by(peers, region)
    if ahead >= epoch:
        raise RegionRefused(f"{who} of the other region serves at region epoch {ahead}: this region stays fenced")
    fenced = {n: s.guard for n, s in own.items() if s.guard is not None and n in fenced_at(own, region, epoch)}
    above = [n for n, g in fenced.items() if g.region_epoch > epoch]
    if above:
        raise RegionRefused(
            f"--epoch {epoch}: {', '.join(above)} was fenced at {fenced[above[0]].region_epoch}; use that"
        )
    check_above(peers, region, epoch)
    quiet = [n for n, s in peers.items() if _is_not_ahead(s, epoch)]
    if peers and len(quiet) < majority(len(peers)) and not confirmed:
        raise RegionRefused(
            f"only {', '.join(quiet) or 'no node'} of the other region shows that it was not promoted; bring the "
            f"others up, or, if you know that no promotion was begun, add --confirm {region}"
        )
    _check_successor(own, peers, region, epoch, confirmed)
    back = [
        n
        for n, s in own.items()
        if (g := s.original(region, n)) is not None and g.state != FENCED and g.region_epoch == epoch
    ]
    if len({*fenced, *back}) < majority(len(own)):
        raise RegionRefused(
            f"{', '.join(fenced) or 'no node'} is fenced at {epoch}; {majority(len(own))} are needed: "
            + _fence_cure(own, region, epoch)
        )
    top = _served_last(own, {*fenced, *back})
    return {n: (g, _as_before(own[n], g, top)) for n, g in fenced.items()}


def check_above(peers: Statuses, region: str, epoch: int) -> None:
    """Whatever is typed: at or below an epoch that the other region served at this one would close again at once."""
    after, who = served_by(peers, region)
    if after >= epoch:
        raise RegionRefused(
            f"{who} of the other region served at region epoch {after}, and this one may serve above that only: "
            f"holdfast region fence --epoch {after + 1}, then unfence --epoch {after + 1}"
        )


def _served_last(own: Statuses, nodes: Iterable[str]) -> int:
    """The region epoch of before the fence; 0 if it is not known."""
    return max((own[n].fenced_epoch or 0 for n in nodes if own[n].history_before is None), default=0)


def _check_successor(own: Statuses, peers: Statuses, region: str, epoch: int, confirmed: bool) -> None:
    """To be fenced higher does not make this region the later one: the other has served since if it did so above the
    epoch at which this one served last."""
    ours = [n for n, s in own.items() if (g := s.original(region, n)) is not None and g.region_epoch == epoch]
    last, (after, who) = _served_last(own, ours), served_by(peers, region)
    if after > last and not confirmed:
        raise RegionRefused(
            f"{who} of the other region served at region epoch {after}, and this one before that, at {last or '?'}: "
            f"what the other one acknowledged since is not here. If this region's history shall stay all the same, "
            f"add --confirm {region}"
        )


def _as_before(status: Status, fenced: Guard, top: int) -> Guard:
    """What it was before counts again; a node that was being healed is no member for having been fenced.

    Nor is one that was away while the others went on, to ``top``: it gets its old epoch back as well, without a vote,
    so that it is not healed by merging but emptied first.
    """
    if status.fenced_epoch and status.fenced_epoch < top:
        return replace(fenced, state=RECOVERING, region_epoch=status.fenced_epoch)
    return replace(fenced, state=status.fenced_from if status.fenced_from in VOTING else RECOVERING)


def _fence_cure(own: Statuses, region: str, epoch: int) -> str:
    """What is wrong with the nodes that are not fenced at ``epoch``, and what helps."""
    low, away = left_below(own, region, epoch), [n for n, s in own.items() if not s.reachable]
    cures = []
    if low:
        at = ", ".join(f"{n} (at {e})" for n, e in low.items())
        cures.append(f"the fence never got to {at}: run region fence --epoch {epoch} again, then unfence")
    if away:
        cures.append(f"{', '.join(away)} does not answer: bring it up")
    return "; ".join(cures) or "no node of this region answers as a primary; see region status"


def left_below(own: Statuses, region: str, epoch: int) -> dict[str, int]:
    """This region's nodes that answer and are at a lower region epoch than ``epoch``: name -> theirs."""
    held = {n: s.original(region, n) for n, s in own.items()}
    return {n: g.region_epoch for n, g in held.items() if g is not None and g.region_epoch < epoch}

"""The guard: the record on each node that says whose history this is and whether it may vote.

Invariant: an answer counts only if the node's guard, compared by the script that produced the answer in the same
atomic step, equals what the caller believes. This module is the caller's side: what it believes, and from what.

Belief rule for CP: the pair (region epoch, membership epoch) on which a majority of all configured nodes agree, as
members. Epochs only grow, so a majority at one pair and a later majority at another intersect in a node that moved
from the first to the second; a store from before the move is refused by it. Pure: no I/O, no clock.

After a promotion of copies (region.py) the nodes are *promoted*: they vote like members, but what was acknowledged
before may be on one of them only, so reads hear all nodes (registers.py) until the copies are settled (settle.py). One
voter that is a plain *member* is enough to know that they are: no node becomes a member before every node holds
everything.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MEMBER = "member"
RECOVERING = "recovering"
FENCED = "fenced"
PROMOTED = "promoted"
#: Not on any disk: what a node is taken for that refuses as a replica does. Its guard is a copy of another node's.
REPLICA = "replica"
#: The states whose answers count.
VOTING = (MEMBER, PROMOTED)


@dataclass(frozen=True, slots=True)
class Guard:
    """A node's guard as read. Epochs are whole numbers >= 1; ``incarnation`` is random text."""

    state: str
    region: str
    node: str
    region_epoch: int
    membership_epoch: int
    incarnation: str

    @staticmethod
    def from_fields(fields: list[bytes] | list[str]) -> Guard | None:
        """From the six fields of a script's answer, in the order of the attributes. None: there is no (valid) guard."""
        text = [f.decode("utf-8", "replace") if isinstance(f, bytes) else f for f in fields]
        if len(text) != 6 or not text[0] or not text[3].isdigit() or not text[4].isdigit():
            return None
        return Guard(text[0], text[1], text[2], int(text[3]), int(text[4]), text[5])

    def expectation(self, *states: str) -> tuple[str, ...]:
        """The six arguments every guarded script begins with. ``states``: those accepted; none given: a voter's own."""
        allowed = ",".join(states or (self.state if self.state in VOTING else MEMBER,))
        return (
            self.region,
            self.node,
            str(self.region_epoch),
            str(self.membership_epoch),
            self.incarnation,
            allowed,
        )


def unsettled(voters: dict[str, Guard]) -> int:
    """The region epoch of ``voters`` if all are promoted copies; 0 if one is a member, or there are none."""
    epochs = {g.region_epoch for g in voters.values() if g.state == PROMOTED}
    return max(epochs, default=0) if all(g.state == PROMOTED for g in voters.values()) else 0


def replica_of_another(node: str) -> Guard:
    """What is believed of a node that refuses to write because it is a replica."""
    return Guard(REPLICA, "", node, 0, 0, "")


class GuardBook:
    """What one process knows of the guards of its region. Thread-safe.

    ``learn`` is called with every guard that was seen: by the monitor and by each refusal. ``learn_peer_epoch`` is told
    of the other region (region_watch.py); ``hold_back`` of nodes that have not been confirmed since they started.
    """

    def __init__(self, region: str, nodes: tuple[str, ...]) -> None:
        self._region = region
        self._nodes = nodes
        self._known: dict[str, Guard | None] = {}
        self._lock = threading.Lock()
        self._version = 0
        self._peer_epoch = self._shared_epoch = 0
        self._unconfirmed: set[str] = set()
        self._derived: dict[str, tuple[int, Any]] = {}

    @property
    def version(self) -> int:
        """Grows whenever a belief changed; a caller that was refused uses it to see if asking again makes sense."""
        return self._version

    def learn(self, node: str, guard: Guard | None) -> bool:
        """Remember ``guard`` (None: the node answered that it has none). Returns True if that was news."""
        with self._lock:
            if node in self._known and self._known[node] == guard:
                return False
            self._known[node] = guard
            self._version += 1
            return True

    def learn_peer_epoch(self, epoch: int) -> bool:
        """The other region serves, or is about to, at ``epoch``. Returns True if that is the highest so far."""
        with self._lock:
            if epoch <= self._peer_epoch:
                return False
            self._peer_epoch = epoch
            self._version += 1
            return True

    def learn_shared_epoch(self, epoch: int) -> bool:
        """Both regions served at ``epoch``: neither may go on there. Returns True if that was news."""
        with self._lock:
            if epoch <= self._shared_epoch:
                return False
            self._shared_epoch = epoch
            self._version += 1
            return True

    @property
    def foreign_epoch(self) -> int:
        """The highest epoch at which the other region is known to have served; this one may serve above it only."""
        return max(self._peer_epoch, self._shared_epoch)

    @property
    def shared_epoch(self) -> int:
        """The highest epoch at which both regions are known to have served; 0: none."""
        return self._shared_epoch

    def served_epoch(self) -> int:
        """The highest epoch at which a node of this region votes, confirmed or not; 0 if none is known to."""
        with self._lock:
            known = dict(self._known)
        return max((g.region_epoch for n, g in known.items() if g and self._is_named(n, g, VOTING)), default=0)

    def hold_back(self, node: str, unconfirmed: bool) -> bool:
        """Whether ``node`` waits to be confirmed after its start. Returns True if that was news."""
        with self._lock:
            if (node in self._unconfirmed) == unconfirmed:
                return False
            (self._unconfirmed.add if unconfirmed else self._unconfirmed.discard)(node)
            self._version += 1
            return True

    def unconfirmed(self, node: str) -> bool:
        return node in self._unconfirmed

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        """``compute()`` as of the present version: every request asks, and guards hardly ever change."""
        version = self._version
        held = self._derived.get(name)
        if held is None or held[0] != version:
            self._derived[name] = held = (version, compute())
        return held[1]

    def known(self, node: str) -> Guard | None:
        return self._known.get(node)

    def is_ours(self, node: str, guard: Guard | None) -> bool:
        """The guard says member or promoted, of this region, is really that node's, and the node does not wait."""
        return self._is_named(node, guard, VOTING) and node not in self._unconfirmed

    def _is_named(self, node: str, guard: Guard | None, states: tuple[str, ...]) -> bool:
        return guard is not None and guard.state in states and guard.region == self._region and guard.node == node

    def config(self) -> tuple[int, int] | None:
        """(region epoch, membership epoch) a majority of nodes agree on, or None."""
        found: tuple[int, int] | None = self._once("config", self._config)
        return found

    def _config(self) -> tuple[int, int] | None:
        with self._lock:
            known = dict(self._known)
        votes = Counter(
            (g.region_epoch, g.membership_epoch) for n, g in known.items() if g is not None and self.is_ours(n, g)
        )
        for pair, count in votes.items():
            if count >= len(self._nodes) // 2 + 1:
                return pair
        return None

    def raising(self) -> bool:
        """No pair has a majority, but enough members are at two membership epochs: it is being raised just now."""
        if self.config() is not None:
            return False
        with self._lock:
            known = dict(self._known)
        members = [g for n, g in known.items() if g is not None and self.is_ours(n, g)]
        return len(members) > len(self._nodes) // 2 and len({g.membership_epoch for g in members}) > 1

    def highest_region_epoch(self) -> int:
        """The highest region epoch seen in any guard whatever its state, or voting in the other region; or 0."""
        found: int = self._once("highest_region_epoch", self._highest_region_epoch)
        return max(found, self._peer_epoch)

    def _highest_region_epoch(self) -> int:
        with self._lock:
            return max((g.region_epoch for g in self._known.values() if g is not None), default=0)

    def fenced(self) -> bool:
        """This region must not serve: why, says ``withheld``."""
        return self.withheld() is not None

    def withheld(self) -> str | None:
        """None, or why this region must not serve, whoever answers.

        ``two_regions``: the other one served at the very epoch that this one's nodes are at. ``fenced``: some node, or
        the other region, knows a higher region epoch than the one a majority votes at. ``standby``: no node votes, and
        they are replicas or copies of another region's. ``unconfirmed``: no majority votes, as nodes that started
        lately wait until somebody confirms that this region is still the one.
        """
        found: str | None = self._once("withheld", self._withheld)
        return found

    def _withheld(self) -> str | None:
        config = self.config()
        with self._lock:
            known = {n: g for n, g in self._known.items() if g is not None}
        ours = [g.region_epoch for n, g in known.items() if g.region == self._region and g.node == n]
        if ours and self._shared_epoch >= max(config[0] if config else max(ours), self._peer_epoch):
            return "two_regions"
        if config is not None:
            return "fenced" if self.highest_region_epoch() > config[0] else None
        if any(g.state == FENCED and g.region == self._region for g in known.values()):
            return "fenced"
        named = [n for n, g in known.items() if self._is_named(n, g, VOTING)]
        if self._peer_epoch and self._peer_epoch > max((known[n].region_epoch for n in named), default=0):
            return "fenced" if named else "standby"
        if not named and any(g.state == REPLICA or g.region != self._region for g in known.values()):
            return "standby"
        return "unconfirmed" if any(n in self._unconfirmed for n in named) else None

    def unsettled_epoch(self) -> int:
        """The region epoch at which voters are promoted copies that have not been settled; 0 if they are settled."""
        found: int = self._once("unsettled", self._unsettled)
        return found

    def _unsettled(self) -> int:
        return unsettled(self.voters())

    def voters(self) -> dict[str, Guard]:
        """CP: the nodes whose answers may count now, with the guard each is expected to show."""
        found: dict[str, Guard] = self._once("voters", self._voters)
        return dict(found)

    def _voters(self) -> dict[str, Guard]:
        config = self.config()
        if config is None:
            return {}
        with self._lock:
            known = dict(self._known)
        return {
            n: g
            for n, g in known.items()
            if g is not None and self.is_ours(n, g) and (g.region_epoch, g.membership_epoch) == config
        }

    def healing(self, node: str) -> Guard | None:
        """CP: the guard to expect of a node that is being healed. It is sent stores; its answers never count."""
        guard, config = self.known(node), self.config()
        if guard is None or config is None or guard.state != RECOVERING:
            return None
        ours = guard.region == self._region and guard.node == node and guard.region_epoch == config[0]
        return guard if ours else None

    def usable(self, node: str) -> Guard | None:
        """AP: the guard to expect of ``node`` if it may serve: member, ours, and not below the highest epoch seen."""
        guard = self.known(node)
        if guard is None or not self.is_ours(node, guard):
            return None
        if guard.region_epoch < self.highest_region_epoch() or guard.region_epoch <= self._shared_epoch:
            return None
        return guard

"""One seeded history of the AP face in which all nodes are replaced at once by their copies, which lag differently.

What a copy never had is lost. All else must hold as ever: nodes converge, what a copy has stays, and a read that says
read_your_writes has the session's writes, whether the session began before the promotion or after it.
"""

from __future__ import annotations

from typing import Any

from ap_node import EPOCH, State, copied
from ap_world import ApWorld, Result

from holdfast.sessions import Session

WHEN = (100.0, 180.0)
KEPT = 12
#: What a test can take away, and within how many seeds the checker must have found that.
CONTROLS = {"copies under their old incarnation": 100, "dead incarnation forgotten": 400}


class PromotedApWorld(ApWorld):
    """``copies``: of each node its last states on disk, each of which its replica may have been left with."""

    def __init__(self, seed: int, controls: frozenset[str] = frozenset(), trace: bool = False) -> None:
        super().__init__(seed, controls, trace, part="neither")
        for collector in self.collectors:  # off until a region is settled; a copy that missed a collection is refused
            collector.grace = 1 << 60
        self.copies: dict[str, list[State]] = {n: [] for n in self.names}
        self.anew: set[int] = set()
        self.checked_before = -1
        self.events.at(5.0, self._copy)
        self.events.at(self.random.uniform(*WHEN), self._promote)

    def run(self) -> Result:
        result = super().run()
        if self.checked_before >= 0:
            result.seen["sessions checked after a promotion"] += result.sessions_checked - self.checked_before
        return result

    def _client(self, number: int, session: Session, *more: Any) -> None:
        """Every second client of before the promotion begins a session after it."""
        if number in self.anew:
            self.anew.discard(number)
            session, more = Session(), ({}, (0, 0))
        super()._client(number, session, *more)

    def _copy(self) -> None:
        for name, node in self.nodes.items():
            if node.up and node.disk.state == "member":
                same = [c for c in self.copies[name] if c.incarnation == node.disk.incarnation]
                self.copies[name] = [*same, copied(node.disk)][-KEPT:]
        if self.checked_before < 0 and not self.over:
            self.events.at(self.random.uniform(5, 15), self._copy)

    def _promote(self) -> None:
        if self.over:
            return
        if any(n.memory.state != "member" or not n.up for n in self.nodes.values()):
            self.events.at(3.0, self._promote)
            return
        self._copy()
        for name, node in self.nodes.items():
            state = copied(self.random.choice(self.copies[name]))
            self.events.fault("promotion", name, state.sequence, node.memory.sequence)
            if state.sequence < node.memory.sequence:
                self.events.count("a copy that lagged")
            cut = (name, state.incarnation)
            self.cut_after[cut] = min(self.cut_after.get(cut, 1 << 60), state.sequence)
            state.state = "recovering"
            if "copies under their old incarnation" not in self.controls:
                state.incarnation, state.peers = f"copy-{name}", {}
            node.crash()
            node.replace(state)
            node.epoch = EPOCH + 1
            node.start()
            self.events.at(self.random.uniform(0.5, 6), self._admit, name)
        self.snapshots, self.anew, self.checked_before = [], {0, 2}, self.result.sessions_checked

    def _admit(self, name: str) -> None:
        node = self.nodes[name]
        if node.memory.incarnation == node.disk.incarnation:
            node.memory.state = node.disk.state = "member"


def run(seed: int, controls: frozenset[str]) -> Result:
    return PromotedApWorld(seed, controls).run()

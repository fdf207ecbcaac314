"""A simulated divergence check of one zone: what divergence_check.py does, with the same pure decisions."""

from __future__ import annotations

from ap_node import ApNode
from ap_replicator import Process, Talk, need
from events import Events, Network

from holdfast import divergence
from holdfast.divergence import Digest
from holdfast.multiprimary import Position

PERIOD_MS, LAG_MS = 400, 250
#: The collectors' grace in a seed with digests: longer than the history, or digests would leave all tombstones out.
GRACE_MS = 60_000


class Digests(Process):
    def __init__(
        self,
        zone: str,
        nodes: dict[str, ApNode],
        events: Events,
        network: Network,
        controls: frozenset[str],
    ) -> None:
        super().__init__(f"d{zone}", nodes, events, network)
        self.zone, self.repaired = zone, 0
        self._blind = "digests without tombstones" in controls
        self._last = 0
        self._own: dict[int, Digest] = {}
        self._compared = {n: 0 for n in nodes if n != zone}
        self._suspects: dict[str, frozenset[int]] = {}
        self._again()

    def _again(self) -> None:
        self.events.at(self.events.random.uniform(8, 16), lambda: self.talk(self._round(), self._again))

    def _round(self) -> Talk:
        mine, now, peers = need((yield self.zone, ApNode.status))
        cycle = divergence.next_cycle(now, PERIOD_MS, self._last, 0)
        if cycle is not None:
            if cycle < self._last:
                self._own, self._compared = {}, dict.fromkeys(self._compared, 0)
            self._last, cutoff = cycle, divergence.cutoff_ms(cycle, PERIOD_MS, LAG_MS)
            gone = divergence.collected_ms(cycle, PERIOD_MS, GRACE_MS)
            made = need((yield self.zone, lambda n: n.digest(mine, cycle, cutoff, 1 << 60 if self._blind else gone)))
            self._own = {c: d for c, d in self._own.items() if c > cycle - 8} | {cycle: made}
        positions = {o: p for o, p in ((o, Position.parse(t)) for o, t in peers.items()) if p is not None}
        for other in self._compared:
            yield from self._compare(other, mine, positions)

    def _compare(self, other: str, mine: str, positions: dict[str, Position]) -> Talk:
        theirs, digests = need((yield other, lambda n: (n.memory.incarnation, dict(n.memory.digests))))
        common = [c for c in self._own if c in digests and c > self._compared[other]]
        if not common:
            return
        cycle = self._compared[other] = max(common)
        if digests[cycle].incarnation != theirs or self._own[cycle].incarnation != mine:
            self._suspects.pop(other, None)
            return
        differ = divergence.differing(self._own[cycle], digests[cycle])
        confirmed = differ & self._suspects.get(other, frozenset())
        self._suspects[other] = differ
        if confirmed:
            yield from self._repair(other, mine, cycle, confirmed, positions)

    def _repair(
        self, other: str, mine: str, cycle: int, buckets: frozenset[int], positions: dict[str, Position]
    ) -> Talk:
        cutoff = divergence.cutoff_ms(cycle, PERIOD_MS, LAG_MS)
        ours = need((yield self.zone, lambda n: n.memory.marks))
        if need((yield other, lambda n: n.memory.marks)).before(ours):
            return
        gone = 1 << 60 if self._blind else divergence.collected_ms(cycle, PERIOD_MS, GRACE_MS)
        rows = need((yield other, lambda n: n.digest_rows(cutoff, gone)))
        rows = [r for r in rows if divergence.bucket_of(int(r[3], 16)) in buckets]
        held = need((yield self.zone, lambda n: n.ranks([r[0].decode() for r in rows])))
        answering = dict.fromkeys(self._compared, True)
        keys = [
            e.key.decode()
            for e in divergence.missing(rows, held)
            if e.twin or divergence.due(e.version, self.zone, cutoff, positions, answering, LAG_MS)
        ]
        if keys:
            entries = need((yield other, lambda n: n.some(keys)))
            changed = need((yield self.zone, lambda n: n.apply(mine, other, "*", "", entries, ours.mark)))
            if changed:
                self.repaired += changed
                self.events.count("digest repair")

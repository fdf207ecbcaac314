"""A simulated operator of `holdfast parked restamp`: corrects a node's clock, then writes its entries anew."""

from __future__ import annotations

from ap_node import DRIFT_MS, ApNode, Entry, newer
from ap_replicator import Process, Talk, need
from events import Events, Network

from holdfast import clocks
from holdfast.hlc import Version


class RestampOperator(Process):
    """``executed`` and ``confirmed``: (key, version replaced) -> [(version, origin, incarnation, sequence), ...].

    What was executed may be lost in a crash before the answer; what was confirmed is on the origin's disk.
    """

    def __init__(self, nodes: dict[str, ApNode], events: Events, network: Network, controls: frozenset[str]) -> None:
        super().__init__("repair-restamp", nodes, events, network)
        self._reuse = "restamp under the old version" in controls
        self.executed: dict[tuple[str, str], list[tuple[str, str, str, int]]] = {}
        self.confirmed: dict[tuple[str, str], list[tuple[str, str, str, int]]] = {}
        self.over = False
        self._again()

    def _again(self) -> None:
        self.events.at(self.events.random.uniform(25, 80), self._begin)

    def _begin(self) -> None:
        if self.over:
            return
        origin = max(self.nodes, key=lambda n: (self.nodes[n].offset, self.events.random.random()))
        self.nodes[origin].offset = 0
        self.talk(self._restamp(origin), self._again)

    def _restamp(self, origin: str) -> Talk:
        readings, incarnation = {}, ""
        for name in self.nodes:
            sent = self._now_ms()
            found, now, _peers = need((yield name, ApNode.status))
            readings[name] = clocks.reading(sent, self._now_ms(), now)
            incarnation = found if name == origin else incarnation
        ahead = clocks.offset(origin, readings, DRIFT_MS)
        if ahead is None or abs(ahead) > DRIFT_MS:
            return
        rows: dict[tuple[str, str], Entry] = {}
        for name in self.nodes:
            for entry in need((yield name, ApNode.future)):
                if Version.parse(entry.version).origin == origin:
                    rows.setdefault((entry.version, entry.key), entry)
        if not rows:
            return
        chosen = [rows[at] for at in sorted(rows)]

        def execute(node: ApNode) -> list[tuple[str, str, str, int]]:
            done = node.restamp(incarnation, chosen, self._reuse)
            self._note(self.executed, origin, incarnation, done)
            self.events.note(origin, "restamped", done)
            return done

        self._note(self.confirmed, origin, incarnation, need((yield origin, execute)))
        self.events.count("restamp")

    def _now_ms(self) -> float:
        return 1_000_000 + self.events.now * 10

    @staticmethod
    def _note(
        where: dict[tuple[str, str], list[tuple[str, str, str, int]]],
        origin: str,
        incarnation: str,
        done: list[tuple[str, str, str, int]],
    ) -> None:
        for key, replaced, version, sequence in done:
            where.setdefault((key, replaced), []).append((version, origin, incarnation, sequence))

    def came_back(self, key: str, held: str, cut_after: dict[tuple[str, str], int]) -> bool:
        """Is ``held`` a version that was surely written anew, and that history not cut?"""
        return any(
            sequence <= cut_after.get((origin, incarnation), 1 << 60)
            for _version, origin, incarnation, sequence in self.confirmed.get((key, held), ())
        )

    def covered(self, key: str, version: str, held: str, seen: frozenset[str] = frozenset()) -> bool:
        """Is ``held`` at least ``version``, or at least what it, or one that had won over it, was written anew as?"""
        if not newer(version, held):
            return True
        anew = [v for (k, old), rows in self.executed.items() if k == key and not newer(version, old) for v, *_ in rows]
        return any(v not in seen and self.covered(key, v, held, seen | {version}) for v in anew)

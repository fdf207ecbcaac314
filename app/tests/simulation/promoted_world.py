"""One seeded history of a region whose nodes were just promoted: copies of lagging replicas, and their settling.

What was acknowledged before is the largest tag that any copy holds for a key; all that the world begins with. From then
on the register must be linearizable from that value: a read of less is an acknowledged write lost, or a stale read.
"""

from __future__ import annotations

from cp_world import KEYS, REGION, CpWorld, Result
from linearizability import Op
from operator_of_nodes import Operator

from holdfast.contract import TOMBSTONE, VALUE, Register
from holdfast.guard import MEMBER, PROMOTED, Guard
from holdfast.repair_plan import Steps
from holdfast.settle import settle
from holdfast.tags import Tag

EPOCH = 2
#: What a test can take away, and within how many seeds the checker must have found that.
CONTROLS = {
    "majority reads after a promotion": 60,
    "settled without copying": 300,
    "settled without one that is away": 300,
}


class Settler(Operator):
    """The operator of a promoted region: settles, killed now and then; nothing else is healed."""

    def not_voting(self) -> list[str]:
        return [n for n, node in self.nodes.items() if node.guard.state != MEMBER]

    def _whole(self) -> Steps[None]:
        without = frozenset[str]()
        if "settled without one that is away" in self.controls:
            without = frozenset(n for n, node in self.nodes.items() if not node.up)
        # It has seen a few reads first: at once, there would be nothing to see.
        if self.events.now < 120:
            return
        made = yield from settle(
            self.names, self.region, self._progress, without, copy="settled without copying" not in self.controls
        )
        if made:
            self.finished += 1


class PromotedWorld(CpWorld):
    def __init__(self, seed: int, controls: frozenset[str] = frozenset(), trace: bool = False) -> None:
        super().__init__(seed, controls, trace)
        rnd = self.random
        for name, node in self.nodes.items():
            node.guard = Guard(PROMOTED, REGION, name, EPOCH, 1, f"copy-{name}")
        self.operator.retire()
        self.operator = Settler(REGION, self.nodes, self.events, self.network, controls)
        for collector in self.collectors:
            collector.over = True  # off until the region is settled, and here for good
        for number, key in enumerate(KEYS):
            self._fill(key, number, rnd.randint(1, 4))

    def _fill(self, key: str, number: int, versions: int) -> None:
        """Each version reached a majority once; each copy has what its node had when the copy fell behind."""
        rnd = self.random
        newest = None
        for version in range(1, versions + 1):
            kind = TOMBSTONE if rnd.random() < 0.2 else VALUE
            tag = str(Tag(1, version, f"{number:028x}"))
            newest = Register(tag, kind, f"before-{key}-{version}" if kind == VALUE else None)
            count = 1 if version == versions else rnd.randint(1, len(self.names))
            for name in rnd.sample(self.names, count):
                self.nodes[name].registers[key] = newest
        if newest is not None:
            identity = newest.value if newest.kind == VALUE else f"deleted {newest.tag}"
            self.history[key].append(Op(-0.8, -0.5, "write", identity))

    def _lose_disk(self) -> None:
        """No disk is lost before the copies are settled; a node that dies for a while is the fault that matters."""
        node = self.nodes[self.random.choice(self.names)]
        if node.up:
            self.events.fault("dies before settling" if node.guard.state == PROMOTED else "dies", node.name)
            node.crash()
            self.events.at(self.random.uniform(20, 120), node.start)


def run(seed: int, controls: frozenset[str]) -> Result:
    return PromotedWorld(seed, controls).run()

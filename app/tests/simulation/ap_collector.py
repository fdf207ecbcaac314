"""A simulated collector of AP tombstones: what ap_tombstones.py does with the pure ap_collect.py."""

from __future__ import annotations

from typing import Any

from ap_node import EPOCH, ApNode, Refused
from ap_replicator import Process
from events import Events, Network

from holdfast.ap_collect import Collected, Collecting, Drop, Failed, Look, Mark, Send, Step, collect
from holdfast.guard import MEMBER, Guard


class ApCollector(Process):
    """Two may run at once: the lease only saves work. One that is killed leaves its batch as it is."""

    def __init__(
        self, name: str, nodes: dict[str, ApNode], events: Events, network: Network, controls: frozenset[str]
    ) -> None:
        super().__init__(name, nodes, events, network)
        self.controls, self.grace = controls, events.random.choice((50, 200, 400))
        events.at(events.random.uniform(20, 50), self._next)

    def _next(self) -> None:
        """The scan of a node; its messages are not simulated."""
        node = self.nodes[self.events.random.choice(tuple(self.nodes))]
        rows = node.old_tombstones(self.grace) if node.up else ()
        if not rows:
            self._end(Collected())
            return
        members = {
            n: Guard(MEMBER, "lab", n, EPOCH, 1, node.memory.incarnation)
            for n, node in self.nodes.items()
            if node.up and node.memory.state == "member"
        }
        enough = len(self.nodes) - 1 if "collected while a node is away" in self.controls else 0
        wait = "positions not waited for" not in self.controls
        self._drive(collect(rows, members, tuple(self.nodes), self.grace, enough, wait))

    def _drive(self, steps: Collecting, told: list[Any] | None = None) -> None:
        if self.events.random.random() < 0.005:
            self.events.fault("collector killed", self.name)
            self._end(Collected())
            return
        try:
            wanted = next(steps) if told is None else steps.send(told)
        except StopIteration as end:
            self._end(end.value)
            return
        answers: list[Any] = [None] * len(wanted)

        def heard(index: int, answer: Any) -> None:
            answers[index] = Failed("no") if answer is None or isinstance(answer, Refused) else answer
            if all(a is not None for a in answers):
                self._drive(steps, answers)

        rest = max((s.rest_sec * 100 for _, s in wanted if isinstance(s, Look)), default=0.0)
        for index, (node, step) in enumerate(wanted):
            self.events.at(rest, self.ask, node, self._call(step), lambda answer, i=index: heard(i, answer))

    def _call(self, step: Step) -> Any:
        incarnation = step.guard.incarnation
        if isinstance(step, Look):
            return lambda n: n.look(incarnation, step.keys)
        if isinstance(step, Mark):
            return lambda n: n.raise_mark(incarnation, step.mark, step.floor)
        if isinstance(step, Drop):
            return lambda n: n.drop(incarnation, step.mark, step.rows)
        assert isinstance(step, Send)
        return lambda n: n.take_tombstones(incarnation, step.mark, step.rows)

    def _end(self, result: Collected) -> None:
        if result.count:
            self.events.count("collection afterwards" if self.network.quiet else "collection")
            self.events.note(self.name, "collected", result.count)
        elif result.reason:
            self.events.count(f"collection waits: {result.reason.value}")
        self.events.at(self.events.random.uniform(2, 8), self._next)

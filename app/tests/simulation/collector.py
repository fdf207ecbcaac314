"""A simulated collector of CP tombstones: what `holdfast replicate` does in one zone with the pure collect.py."""

from __future__ import annotations

from cp_instance import Instance
from events import Events, Network
from nodes import SimNode

from holdfast.collect import Collected, Collecting, Dropped, collect
from holdfast.contract import TOMBSTONE, NotDone
from holdfast.tags import Tag

ROUND_TIMEOUT = 15.0


class Collector(Instance):
    """Scans its zone's node. Killed now and then: it then forgets everything, and its lock stays behind."""

    def __init__(
        self,
        name: str,
        region: str,
        zone: str,
        nodes: dict[str, SimNode],
        events: Events,
        network: Network,
        controls: frozenset[str],
    ) -> None:
        super().__init__(name, region, nodes, events, network, controls)
        self.zone, self.grace, self.over, self._run, self._batches = zone, events.random.choice((0, 3, 15)), False, 0, 0
        self._busy = ""
        events.at(events.random.uniform(5, 30), self._next, 0)

    def _next(self, run: int) -> None:
        if run != self._run or self.over:
            return
        rnd = self.events.random
        if rnd.random() < 0.02:
            self.events.fault("collector restarts", self.name)
            self._run += 1
            self.restart()
            self.events.at(rnd.uniform(2, 10), self._next, self._run)
            return
        rows = self._candidates()
        self._batches += 1
        enough = len(self.names) // 2 + 1 if "collected before all nodes hold it" in self.controls else 0
        steps = collect(rows, self.book.voters(), self.names, f"{self.name}/{self._batches}", self._busy, enough)
        self._drive(steps, self._run)

    def _candidates(self) -> tuple[tuple[str, str], ...]:
        """The scan of the zone's own node; its messages are not simulated."""
        node = self.nodes[self.zone]
        limit = self.events.now - self.grace
        rows = [
            (key, r.tag)
            for key, r in node.registers.items()
            if r.kind == TOMBSTONE and Tag.parse(r.tag).counter <= limit
        ]
        return tuple(rows) if node.up else ()

    def _drive(self, steps: Collecting, run: int, told: list[object] | None = None) -> None:
        if run != self._run or self.over:
            return
        if self.events.random.random() < 0.02:  # killed between two rounds: what it has locked stays so
            self.events.fault("collector killed", self.name)
            self._end(Collected())
            return
        try:
            wanted = next(steps) if told is None else steps.send(told)
        except StopIteration as end:
            self._end(end.value)
            return
        answers: list[object] = [None] * len(wanted)
        finished = False

        def finish() -> None:
            nonlocal finished
            if not finished:
                finished = True
                given = [NotDone("timeout", False) if a is None else a for a in answers]
                if any(isinstance(a, Dropped) and a.count for a in given):
                    self.events.count("collection")
                self._drive(steps, run, given)

        def heard(index: int, answer: object) -> None:
            if answers[index] is None:
                answers[index] = answer
                if all(a is not None for a in answers):
                    finish()

        for index, (node, request) in enumerate(wanted):
            self.ask(node, request, lambda answer, i=index: heard(i, answer))
        self.events.at(ROUND_TIMEOUT, finish)

    def _end(self, result: Collected) -> None:
        if result.count:
            self.events.note(self.name, "collected", result.count)
        self._busy = result.busy
        self.events.at(self.events.random.uniform(2, 8), self._next, self._run)

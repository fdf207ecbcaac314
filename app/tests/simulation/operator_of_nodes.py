"""The simulated operator: sees nodes that do not vote and runs `holdfast repair` for them, killed now and then."""

from __future__ import annotations

from collections.abc import Callable

from events import Events, Network
from nodes import SimNode

from holdfast.contract import NotDone
from holdfast.repair import heal, raise_epoch_of_majority, readmit
from holdfast.repair_plan import Round, Seen, Steps, Stopped, Told, look, majority, split, valid

ROUND_TIMEOUT = 12.0


class Operator:
    """``kill`` is a fault; what the killed repair has sent is still on its way."""

    def __init__(
        self, region: str, nodes: dict[str, SimNode], events: Events, network: Network, controls: frozenset[str]
    ) -> None:
        self.name = "repair"
        self.region, self.nodes, self.events, self.network = region, nodes, events, network
        self.names = tuple(nodes)
        self.controls = controls
        self.finished = 0
        self._run = 0
        self._busy = False
        self._fresh = 0
        events.at(4.0, self._watch)

    def kill(self) -> None:
        if self._busy:
            self.events.fault("repair killed")
            self._run += 1
            self._busy = False

    def retire(self) -> None:
        """Another operator takes over before anything has happened."""
        self._run, self._busy = self._run + 1, True

    def not_voting(self) -> list[str]:
        seen = {n: Seen(node.guard, not node.registers, node.run_id) for n, node in self.nodes.items()}
        voting = valid(seen, self.names, self.region, frozenset())
        return [n for n in self.names if n not in voting] or (["split"] if split(voting, self.names) else [])

    def _watch(self) -> None:
        if not self._busy and self.not_voting():
            self._busy = True
            self._drive(self._whole(), self._run)
        self.events.at(self.events.random.uniform(2, 10), self._watch)

    def _whole(self) -> Steps[None]:
        seen = yield from look(self.names)
        voting = valid(seen, self.names, self.region, frozenset())
        if split(voting, self.names):
            yield from raise_epoch_of_majority(self.names, self.region, frozenset())
            return
        for target in [n for n in self.names if n in seen and n not in voting]:
            if len([n for n in voting if n != target]) < majority(self.names):
                continue
            self._fresh += 1
            healed = yield from heal(
                target,
                self.names,
                self.region,
                f"repair-{self._fresh}-{target}",
                self._progress,
                raise_epoch="epoch not raised" not in self.controls,
                take_floor="floor not taken by repair" not in self.controls,
            )
            yield from readmit(target, healed, self.names, self.region)
            self.finished += 1
            self.events.note("repair", target, "is a member")

    def _progress(self, phase: str, source: str, looked: int, copied: int) -> None:
        self.events.note("repair", phase, source, looked, copied)

    def _drive(self, steps: Steps[None], run: int, told: list[Told] | None = None) -> None:
        if run != self._run:
            return
        try:
            wanted = next(steps) if told is None else steps.send(told)
        except (StopIteration, Stopped) as end:
            self.events.note("repair ends", end)
            self._busy = False
            return
        self._ask_all(wanted, lambda answers: self._drive(steps, run, answers))

    def _ask_all(self, wanted: Round, then: Callable[[list[Told]], None]) -> None:
        answers: list[Told | None] = [None] * len(wanted)
        left = len(wanted)
        over = False

        def finish() -> None:
            nonlocal over
            if not over:
                over = True
                then([NotDone("timeout", False) if a is None else a for a in answers])

        def heard(index: int, told: Told) -> None:
            nonlocal left
            if answers[index] is None:
                answers[index] = told
                left -= 1
                if left == 0:
                    finish()

        def send(index: int) -> None:
            node, request = wanted[index]

            def back(told: Told) -> None:
                self.network.carry(self.name, node, heard, index, told)

            self.network.carry(self.name, node, self.nodes[node].receive, request, self.name, back)

        for index in range(len(wanted)):
            send(index)
        self.events.at(ROUND_TIMEOUT, finish)

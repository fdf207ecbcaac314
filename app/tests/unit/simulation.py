"""A small seeded simulation of one CP register: long delays, loss, duplicates, a node that loses its disk."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from linearizability import INFINITY, Op

from holdfast.contract import VALUE, NotDone, Query, Register, Reply, Request
from holdfast.registers import EMPTY, Read, Send, Verdict, Write

DEADLINE = 40.0


@dataclass
class Outcome:
    history: list[Op] = field(default_factory=list)
    verdicts: dict[Verdict, int] = field(default_factory=dict)
    faults: int = 0
    never_stored: set[str] = field(default_factory=set)
    read_values: set[str] = field(default_factory=set)


class Simulation:
    def __init__(
        self, seed: int, nodes: int = 3, write_back: bool = True, guard: bool = True, wipe: bool = True
    ) -> None:
        self.random = random.Random(seed)
        self.names = tuple(f"n{i}" for i in range(nodes))
        self.registers: dict[str, Register] = dict.fromkeys(self.names, EMPTY)
        self.lost_data: set[str] = set()
        self.write_back, self.guard, self.wipe = write_back, guard, wipe
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.outcome = Outcome()

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + delay, self.count, action))

    def run(self, clients: int = 4, operations: int = 4) -> Outcome:
        for client in range(clients):
            self.at(self.random.uniform(0, 5), self.client(client, operations))
        if self.wipe:
            self.at(self.random.uniform(10, 60), self.lose_disk)
        while self.events:
            self.now, _, action = heapq.heappop(self.events)
            action()
        return self.outcome

    def lose_disk(self) -> None:
        victim = self.random.choice(self.names)
        self.registers[victim] = EMPTY
        self.lost_data.add(victim)
        self.outcome.faults += 1

    def client(self, number: int, left: int) -> Callable[[], None]:
        def go() -> None:
            if left:
                writes = self.random.random() < 0.4
                self.operation(
                    f"c{number}.{left}",
                    writes,
                    lambda: self.at(self.random.expovariate(0.5), self.client(number, left - 1)),
                )

        return go

    def operation(self, name: str, writes: bool, finished: Callable[[], None]) -> None:
        start = self.now
        writer = f"{self.count:028x}"
        operation: Write | Read
        operation = Write(self.names, 1, writer, VALUE, name) if writes else Read(self.names, self.write_back)
        over = False

        def end() -> None:
            nonlocal over
            if operation.decision is None or over:
                return
            over = True
            verdict = operation.decision.verdict
            self.outcome.verdicts[verdict] = self.outcome.verdicts.get(verdict, 0) + 1
            if writes:
                if verdict is Verdict.NO_QUORUM:
                    self.outcome.never_stored.add(name)
                else:
                    stop = self.now if verdict is Verdict.SUCCESS else INFINITY
                    self.outcome.history.append(Op(start, stop, "write", name))
            elif verdict is Verdict.SUCCESS:
                value = operation.decision.register.value
                self.outcome.read_values.add(value or "")
                self.outcome.history.append(Op(start, self.now, "read", value))
            finished()

        def deliver(node: str, phase: int, reply: Reply | NotDone) -> None:
            following = operation.on_reply(node, phase, reply)
            if following is not None:
                dispatch(following)
            end()

        def dispatch(send: Send) -> None:
            for node in send.to:
                for _copy in range(2 if self.random.random() < 0.05 else 1):
                    self.travel(
                        lambda n=node: self.execute(
                            n, send.request, lambda r, n=n: self.travel(lambda: deliver(n, send.phase, r))
                        )
                    )

        def expire() -> None:
            operation.on_deadline()
            end()

        dispatch(operation.start())
        self.at(DEADLINE, expire)

    def travel(self, action: Callable[[], None]) -> None:
        if self.random.random() < 0.05:
            self.outcome.faults += 1
            return
        slow = self.random.random() < 0.25
        self.at(self.random.uniform(15, 60) if slow else self.random.uniform(0.5, 3), action)

    def execute(self, node: str, request: Request, answer: Callable[[Reply | NotDone], None]) -> None:
        if self.guard and node in self.lost_data:
            answer(NotDone("guard", True))
            return
        held = self.registers[node]
        if isinstance(request, Query):
            answer(Reply(held))
            return
        if request.register.tag > held.tag:
            self.registers[node] = request.register
        answer(Reply(request.register))

"""One seeded history of the CP face: clients, faults, blank nodes and their repair. ``run`` gives what happened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice, product

from collector import Collector
from cp_instance import Instance, Operation
from events import Events, Network
from linearizability import INFINITY, Op
from nodes import SimNode
from operator_of_nodes import Operator
from zones import violation

from holdfast.guard import MEMBER, RECOVERING, Guard
from holdfast.registers import Verdict

REGION = "lab"
KEYS = ("x", "y", "z")
LENGTH = 420.0
#: A seed counts only with at least this many answered operations and of faults other than single messages.
LEAST_OPERATIONS, LEAST_FAULTS = 20, 5
#: What a test can take away, and within how many seeds the checker must have found that.
CONTROLS = {
    "one-node reads": 50,
    "repeated tags": 50,
    "voting blank node": 100,
    "no write-back": 150,
    "answers before the disk": 300,
    "guard checked when connecting": 1000,
    "epoch not raised": 2500,
    "collected before all nodes hold it": 1500,
    "no floor": 1500,
    "floor not taken by repair": 1500,
    "vouching without asking": 1500,
}


@dataclass
class Result:
    problem: str | None = None
    operations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    repairs: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def large_faults(self) -> int:
        """Faults that hit something, single messages left out."""
        return sum(count for kind, count in self.faults.items() if not kind.startswith("message"))

    @property
    def quiet(self) -> bool:
        return self.operations < LEAST_OPERATIONS or self.large_faults < LEAST_FAULTS


class CpWorld:
    def __init__(self, seed: int, controls: frozenset[str] = frozenset(), trace: bool = False) -> None:
        self.events = Events(seed, trace)
        self.controls = controls
        rnd = self.random = self.events.random
        self.network = Network(self.events)
        self.names = tuple(f"n{i}" for i in range(5 if rnd.random() < 0.15 else 3))
        guards = {n: Guard(MEMBER, REGION, n, 1, 1, f"first-{n}") for n in self.names}
        self.nodes = {n: SimNode(n, guards[n], self.events, controls) for n in self.names}
        self.instances = [Instance(f"i{i}", REGION, self.nodes, self.events, self.network, controls) for i in range(2)]
        self.operator = Operator(REGION, self.nodes, self.events, self.network, controls)
        self.collectors = [
            Collector(f"collect-{n}", REGION, n, self.nodes, self.events, self.network, controls)
            for n in self.names[: 1 + (rnd.random() < 0.4)]
        ]
        self.history: dict[str, list[Op]] = {key: [] for key in KEYS}
        self.never: set[str] = set()
        self.result = Result()
        self.old_disks: dict[str, tuple[dict[str, object], tuple[str, str, bool]]] = {}
        self.values = 0
        self.over = False

    def run(self) -> Result:
        rnd = self.random
        for client in range(rnd.randint(4, 6)):
            self.events.at(rnd.uniform(6, 20), self._client, client)
        self.events.at(rnd.uniform(15, 40), self._next_fault)
        self.events.at(rnd.uniform(20, 60), self._keep_disk)
        self.events.run(LENGTH)
        self.over = True
        for collector in self.collectors:
            collector.over = True
        self._settle()
        self._final_reads()
        self.result.faults = self.events.faults
        self.result.repairs = self.operator.finished
        self.result.seen = self.events.seen
        self.result.problem = self._check()
        return self.result

    def _client(self, number: int) -> None:
        rnd = self.random
        if self.over:
            return
        key = rnd.choice(KEYS)
        draw = rnd.random()
        kind = "read" if draw < 0.55 else "delete" if draw < 0.7 else "write"
        self.values += 1
        value = f"v{self.values}" if kind == "write" else None
        instance = self.instances[number % len(self.instances)]
        self.events.note(instance.name, kind, key, value or "")

        def done(operation: Operation) -> None:
            self._record(operation)
            self.events.at(rnd.expovariate(0.25), self._client, number)

        operation = instance.operate(key, kind, value, done)
        if not operation.over:  # a dead instance never calls a reader back
            self.events.at(130.0, self._revive, operation, number)

    def _revive(self, operation: Operation, number: int) -> None:
        if operation.over and operation.inner.decision is None:
            self._client(number)

    def _record(self, operation: Operation) -> None:
        decision, now = operation.inner.decision, self.events.now
        history, register = self.history[operation.key], decision.register
        self.events.note(
            operation.instance.name,
            operation.kind,
            operation.key,
            operation.value or "",
            "->",
            decision.verdict.value,
            register.value,
            register.tag[-8:],
            decision.acks,
        )
        identity = register.value if register.value is not None else register.tag and f"deleted {register.tag}"
        if decision.verdict is Verdict.SUCCESS:
            self.result.operations += 1
            kind = "read" if operation.kind == "read" else "write"
            history.append(Op(operation.started, now, kind, identity or None))
        elif operation.kind != "read":
            if decision.verdict is Verdict.NO_QUORUM:
                self.never.add(operation.value or identity)
            elif identity:
                history.append(Op(operation.started, INFINITY, "write", identity))

    def _next_fault(self) -> None:
        if not self.over:
            rnd = self.random
            rnd.choice(
                (
                    self._crash,
                    self._crash,
                    self._pause,
                    self._pause_instance,
                    self._restart_instance,
                    self._cut,
                    self._lag,
                    self._clock,
                    self._stall,
                    self._lose_disk,
                    self._lose_disk,
                    self._lose_disk,
                    self.operator.kill,
                )
            )()
            self.events.at(rnd.uniform(10, 50), self._next_fault)

    def _crash(self) -> None:
        node = self.nodes[self.random.choice(self.names)]
        if node.up:
            self.events.fault("crash", node.name)
            node.crash()
            self.events.at(self.random.uniform(3, 60), node.start)

    def _pause(self) -> None:
        node = self.nodes[self.random.choice(self.names)]
        self.events.arm("pause", [node.name], node.name)
        node.paused_until = self.events.now + self.random.uniform(5, 50)

    def _stall(self) -> None:
        node = self.nodes[self.random.choice(self.names)]
        self.events.arm("disk stalls", [node.name], node.name)
        node.disk_stalls_until = self.events.now + self.random.uniform(5, 40)

    def _pause_instance(self) -> None:
        instance = self.random.choice(self.instances)
        self.events.arm("instance pauses", [instance.name], instance.name)
        instance.paused_until = self.events.now + self.random.uniform(5, 60)

    def _restart_instance(self) -> None:
        instance = self.random.choice(self.instances)
        self.events.fault("instance restarts", instance.name)
        instance.restart()

    def _clock(self) -> None:
        instance = self.random.choice(self.instances)
        if instance.jump_clock():
            self.events.fault("clock jumps", instance.name)

    def _cut(self) -> None:
        processes = [i.name for i in self.instances] + [c.name for c in self.collectors] + [self.operator.name]
        pairs = {(p, n) for p in processes for n in self.names if self.random.random() < 0.3}
        if pairs:
            self.events.arm("partition", pairs, sorted(pairs))
            self.network.cut |= pairs
            self.events.at(self.random.uniform(10, 60), self.network.cut.difference_update, pairs)

    def _lag(self) -> None:
        node = self.random.choice(self.names)
        self.events.arm("lag", [node], node)
        self.network.lagging.add(node)
        self.events.at(self.random.uniform(20, 80), self.network.lagging.discard, node)

    def _keep_disk(self) -> None:
        name = self.random.choice(self.names)
        self.old_disks[name] = self.nodes[name].kept()
        if not self.over:
            self.events.at(self.random.uniform(15, 50), self._keep_disk)

    def _lose_disk(self) -> None:
        """A voter's data goes: with the machine, or by FLUSHALL under open connections. A majority of voters stays."""
        away = self.operator.not_voting()
        members = [n for n in self.nodes.values() if n.name not in away]
        if len(members) - 1 < len(self.names) // 2 + 1:
            return
        node = self.random.choice(members)
        votes_on = "voting blank node" in self.controls
        if node.up and self.random.random() < 0.4:
            self.events.fault("emptied", node.name)
            node.erase(node.guard if votes_on else None)
        elif node.up and node.name in self.old_disks and self.random.random() < 0.5 and not votes_on:
            self.events.fault("older data", node.name)
            guard = Guard(RECOVERING, REGION, node.name, 1, 1, f"restored-{self.events.now}")
            node.crash()
            node.restore(self.old_disks[node.name], guard)
            self.events.at(self.random.uniform(1, 15), node.start)
        elif node.up:
            self.events.fault("blank", node.name)
            node.crash()
            node.erase(node.guard if votes_on else None)
            self.events.at(self.random.uniform(1, 15), node.start)

    def _settle(self) -> None:
        """No more faults; running operations end, nodes come back, the operator finishes."""
        self.network.quiet = True
        self.network.cut.clear()
        self.network.lagging.clear()
        for node in self.nodes.values():
            node.disk_stalls_until = 0.0
        for _step in range(12):
            self.events.run(self.events.now + 25.0)
            if not self.operator.not_voting() and not any(i.running for i in self.instances):
                break

    def _final_reads(self) -> None:
        """Each key by majorities that leave out one node after the other: what is missing somewhere is seen."""
        reader = self.instances[0]
        for absent in self.names:
            self.network.cut = {(reader.name, absent)}
            for key in KEYS:
                reader.operate(key, "read", None, self._record)
            self.events.run(self.events.now + 20.0)
        self.network.cut.clear()

    def _judge(self, key: str, history: list[Op]) -> str | None:
        """A read of "nothing" saw the state never written, or, once the key was collected, a delete.

        Which one: the newest that was collected when the read began, or any that was collected while it ran.
        """
        drops = sorted((tag, at) for (k, tag), at in self.events.dropped.items() if k == key)
        choices: list[list[Op]] = []
        for op in history:
            if op.kind == "read" and op.value is None and drops:
                before = [f"deleted {tag}" for tag, at in drops if at <= op.start][-1:] or [None]
                during = [f"deleted {tag}" for tag, at in drops if op.start < at <= op.end]
                choices.append([replace(op, value=value) for value in before + during])
            else:
                choices.append([op])
        found = None
        for chosen in islice(product(*choices), 256):
            problem = violation(chosen)
            if problem is None:
                return None
            found = found or problem
        return found

    def _check(self) -> str | None:
        if not self.controls and (waiting := self.operator.not_voting()):
            return f"not repaired in the end: {waiting}"
        for key, history in self.history.items():
            refused = {op.value for op in history if op.kind == "read"} & self.never
            if refused:
                return f"{key}: {refused} was answered no_quorum and read later"
            problem = violation(history) and self._judge(key, history)
            if problem:
                return f"{key}: {problem}"
        return None

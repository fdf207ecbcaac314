"""One seeded history of the AP face: sessions, replication, crashes, older data, clock jumps; then quiet and checks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ap_collector import ApCollector
from ap_digests import GRACE_MS, Digests
from ap_node import ApNode, Refused, State, copied, newer
from ap_replicator import Process, Replicator, Talk, need
from ap_restamp import RestampOperator
from events import Events, Network

from holdfast.ap_marks import highest
from holdfast.hlc import Version
from holdfast.multiprimary import Position, unmet
from holdfast.sessions import Session

#: Written all the time; and now and then, so that tombstones get old.
BUSY_KEYS, CALM_KEYS = ("x", "y", "z", "w"), ("a", "b", "c", "d", "e", "f")
KEYS = BUSY_KEYS + CALM_KEYS
LENGTH = 400.0
PAUSE = (200.0, 330.0)
LEAST_OPERATIONS, LEAST_FAULTS = 25, 5
INJECTED = ("crash", "partition", "clock jumps", "lag", "older data", "blank")
#: What a test can take away, and within how many seeds the checker must have found that.
CONTROLS = {
    "cursors kept across a new incarnation": 100,
    "gaps not noticed": 200,
    "parked entries not looked at": 300,
    "older data under its old incarnation": 300,
    "cut history not closed": 4000,
    "dead incarnation forgotten": 4000,
    "collected while a node is away": 500,
    "positions not waited for": 500,
    "pages not marked": 6000,
    "restored data not purged": 4000,
    "digests without tombstones": 300,
    "restamp under the old version": 300,
    "replaced versions not copied": 1000,
}
#: What a seed has beside: most of them neither, for the digests need a grace in which nothing is collected.
MIX = ("digests",) * 3 + ("restamp",) * 3 + ("neither",) * 14
#: What a seed with the control has.
PARTS = {
    "digests without tombstones": "digests",
    "restamp under the old version": "restamp",
    "replaced versions not copied": "restamp",
}


@dataclass
class Result:
    problem: str | None = None
    operations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    repairs: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    sessions_checked: int = 0

    @property
    def large_faults(self) -> int:
        """Injected faults that hit something; not what came of them, and not single messages."""
        return sum(self.faults[kind] for kind in INJECTED)

    @property
    def quiet(self) -> bool:
        return self.operations < LEAST_OPERATIONS or self.large_faults < LEAST_FAULTS


@dataclass
class Acknowledged:
    version: str
    key: str
    value: str | None
    origin: str
    sequence: int
    incarnation: str
    lost: bool = False


class ApWorld:
    def __init__(
        self, seed: int, controls: frozenset[str] = frozenset(), trace: bool = False, part: str | None = None
    ) -> None:
        events = self.events = Events(seed, trace)
        self.random, self.controls = events.random, controls
        self.network = Network(events)
        self.nodes = {f"n{i}": ApNode(f"n{i}", events) for i in range(3)}
        self.names = tuple(self.nodes)
        self.replicators = [
            Replicator(f"r{n}{i}", n, self.nodes, events, self.network, controls)
            for n in self.names
            for i in range(2 if self.random.random() < 0.3 else 1)
        ]
        self.collectors = [
            ApCollector(f"collect{i}", self.nodes, events, self.network, controls)
            for i in range(2 if self.random.random() < 0.3 else 1)
        ]
        # Digests would hide what the other controls break.
        part = part or next((PARTS.get(c, "neither") for c in controls), self.random.choice(MIX))
        # With restamps too: a write that a node refused beside a version of the future may be above what replaced that
        # one, and comes back to it by the digests only.
        compares = part != "neither"
        self.digests = [Digests(n, self.nodes, events, self.network, controls) for n in self.names if compares]
        self.damages = part == "digests"
        if self.digests:
            for collector in self.collectors:
                collector.grace = GRACE_MS
        self.operator = RestampOperator(self.nodes, events, self.network, controls) if part == "restamp" else None
        self.damaged: tuple[str, str] | None = None
        self.rotten: set[tuple[str, str]] = set()
        self.repair = Process("repair", self.nodes, events, self.network)
        self.acknowledged: list[Acknowledged] = []
        #: The sequence numbers from which on a history was cut: (node, incarnation) -> last one that survived.
        self.cut_after: dict[tuple[str, str], int] = {}
        self.snapshots: list[tuple[str, State]] = []
        self.fresh = self.values = 0
        #: In every second seed faults rest for a while, so that tombstones are collected before the next ones.
        self.pauses, self.paused, self.slow = self.random.random() < 0.5, False, 0.0
        self.length = LENGTH + (PAUSE[1] - PAUSE[0] if self.pauses else 0.0)
        self.over = False
        self.result = Result()

    def run(self) -> Result:
        for client in range(4):
            self.events.at(self.random.uniform(1, 10), self._client, client, Session(), {}, (0, 0))
        self.events.at(30.0, self._snapshot)
        self.events.at(self.random.uniform(15, 40), self._next_fault)
        if self.damages:
            self.events.at(self.random.uniform(40, 100), self._damage)
        if self.pauses:
            self.events.at(PAUSE[0], self._pause)
            self.events.at(PAUSE[1], self._resume)
        self.events.run(self.length)
        self.over = True
        self._settle()
        self.result.faults, self.result.seen = self.events.faults, self.events.seen
        self.result.repairs += sum(r.merges for r in self.replicators)
        self.result.repairs += sum(d.repaired for d in self.digests)
        self.result.problem = self.result.problem or self._check()
        return self.result

    def _client(self, number: int, session: Session, written: dict[str, str], floor: tuple[int, int]) -> None:
        """One session; it writes and reads through whatever node it happens to reach."""
        if self.over:
            return
        process = Process(f"i{number}", self.nodes, self.events, self.network)
        calm = self.random.random() < 0.25
        key, node = self.random.choice(CALM_KEYS if calm else BUSY_KEYS), self.random.choice(self.names)
        state = [session, written, floor]
        self.values += 1
        writes = self.random.random() < 0.5
        value = None if self.random.random() < (0.5 if calm else 0.2) else f"v{self.values}"
        talk = self._write(node, key, value, state) if writes else self._read(node, key, session, written)
        process.talk(talk, lambda: self.events.at(self.random.expovariate(0.3), self._client, number, *state))

    def _write(self, node: str, key: str, value: str | None, state: list[Any]) -> Talk:
        version, sequence, incarnation = need((yield node, lambda n: n.write(key, value, state[2])))
        self.events.note(node, "wrote", key, value, version, sequence, incarnation)
        self.result.operations += 1
        self.acknowledged.append(Acknowledged(version, key, value, node, sequence, incarnation))
        parsed = Version.parse(version)
        held = state[1].get(key)
        session = state[0].with_write(node, incarnation, sequence)
        state[:] = [
            Session(session.writes) if "dead incarnation forgotten" in self.controls else session,
            {**state[1], key: version if held is None or newer(version, held) else held},
            max(state[2], (parsed.milliseconds, parsed.counter)),
        ]

    def _read(self, node: str, key: str, session: Session, written: dict[str, str]) -> Talk:
        version, incarnation, sequence, peers, parked = need((yield node, lambda n: n.read(key)))
        self.result.operations += 1
        if "parked entries not looked at" in self.controls:
            parked = 0
        if unmet(session, node, incarnation, sequence, peers, parked):
            return
        if self.damaged is not None and self.damaged[1] == key:
            return
        self.result.sessions_checked += 1
        wanted = written.get(key)
        gone = wanted is not None and version is None and self._covered(key, wanted, self._dropped(key))
        if wanted is not None and not gone and (version is None or not self._covered(key, wanted, version)):
            self.result.problem = (
                f"{key} read at {node} as {version} under a session that wrote {wanted} "
                f"at {self.events.now:.2f}, and the answer said read_your_writes"
            )

    def _dropped(self, key: str) -> str:
        """The largest version of the key that a node has removed; '' for none."""
        return max(n.dropped.get(key, "") for n in self.nodes.values())

    def _covered(self, key: str, version: str, held: str) -> bool:
        return self.operator.covered(key, version, held) if self.operator else not newer(version, held)

    def _damage(self) -> None:
        if not self.over:
            self._damage_now()
            self.events.at(self.random.uniform(20, 60), self._damage)

    def _damage_now(self) -> None:
        """Behind replication's back: a key that all have is lost on one node, or has another content there.

        One at a time: a second loss before the first is repaired may take the last copy.
        """
        states = [s for n in self.nodes.values() for s in (n.memory, n.disk)]
        if self.damaged is not None:
            name, key = self.damaged
            if not all(n.up and n.memory.state == "member" for n in self.nodes.values()):
                return
            if len({s.values.get(key) for s in states}) > 1:
                return
            self.damaged = None
        common = [k for k in KEYS if k in states[0].values and len({s.values.get(k) for s in states}) == 1]
        if not common or any(s.state != "member" for s in states):
            return
        # Tombstones first: their loss is the one nobody sees.
        key = min(common, key=lambda k: states[0].values[k][1] is not None)
        name = self.random.choice(self.names)
        version, value = states[0].values[key]
        lost = value is None or self.random.random() < 0.7
        if not lost:
            self.rotten.add((key, version))
        for state in (self.nodes[name].memory, self.nodes[name].disk):
            if lost:
                state.values.pop(key, None)
            else:
                state.values[key] = (version, f"{value} rotten")
        self.damaged = (name, key)
        self.events.fault("damage", name, key, version)

    def _snapshot(self) -> None:
        node = self.nodes[self.random.choice(self.names)]
        if node.disk.state == "member":
            self.snapshots = [*self.snapshots[-3:], (node.name, copied(node.disk))]
        if not self.over:
            self.events.at(self.random.uniform(20, 60), self._snapshot)

    def _next_fault(self) -> None:
        if not self.over:
            if not self.paused:
                self.random.choice((self._crash, self._cut, self._clock, self._lag, self._older, self._older))()
            self.events.at(self.random.uniform(10, 45), self._next_fault)

    def _pause(self) -> None:
        self.paused, self.slow = True, self.network.slow
        self.network.slow = 0.02
        self.network.cut.clear()
        self.network.lagging.clear()
        for node in self.nodes.values():
            node.offset = 0

    def _resume(self) -> None:
        self.paused, self.network.slow = False, self.slow

    def _crash(self) -> None:
        node = self.nodes[self.random.choice(self.names)]
        if node.up:
            self.events.fault("crash", node.name)
            node.crash()
            self.events.at(self.random.uniform(3, 60), node.start)

    def _cut(self) -> None:
        processes = [r.name for r in self.replicators] + [f"i{i}" for i in range(4)]
        pairs = {(p, n) for p in processes for n in self.names if self.random.random() < 0.4}
        self.events.arm("partition", pairs, sorted(pairs))
        self.network.cut |= pairs
        self.events.at(self.random.uniform(20, 120), self.network.cut.difference_update, pairs)

    def _clock(self) -> None:
        node = self.nodes[self.random.choice(self.names)]
        node.offset += self.random.choice((-3000, -400, -50, 50, 400, 3000))
        self.events.arm("clock jumps", [node.name], node.name, node.offset)

    def _lag(self) -> None:
        node = self.random.choice(self.names)
        self.events.arm("lag", [node], node)
        self.network.lagging.add(node)
        self.events.at(self.random.uniform(20, 80), self.network.lagging.discard, node)

    def _older(self) -> None:
        """A node comes back empty or from older data, recovering under a new incarnation; then it is repaired."""
        if any(n.memory.state != "member" or not n.up for n in self.nodes.values()):
            return
        name, older = self.random.choice(self.snapshots or [(self.random.choice(self.names), None)])
        if older is None or self.random.random() < 0.3:
            older = State("member", "")
        node, state = self.nodes[name], copied(older)
        self.events.fault("blank" if not older.values else "older data", name, state.sequence)
        cut = (name, node.memory.incarnation)
        self.cut_after[cut] = min(
            self.cut_after.get(cut, 1 << 60), state.sequence if state.incarnation == node.memory.incarnation else 0
        )
        self._lose(name, state)
        self.snapshots = [(n, s) for n, s in self.snapshots if n != name]
        self.fresh += 1
        if "older data under its old incarnation" in self.controls:
            state.incarnation = node.memory.incarnation
        else:
            state.incarnation, state.state, state.peers = f"new-{self.fresh}-{name}", "recovering", {}
        node.crash()
        node.replace(state)
        self.events.at(self.random.uniform(1, 15), node.start)
        if state.state == "recovering":
            self.events.at(self.random.uniform(16, 40), self._heal, name, state.incarnation)

    def _lose(self, name: str, left: State) -> None:
        """Writes of the node's earlier lives that nobody had taken over when it is replaced again are lost for good."""
        states = [left] + [n.memory for n in self.nodes.values() if n.name != name]
        for write in self.acknowledged:
            if write.origin == name and write.incarnation != self.nodes[name].memory.incarnation:
                held = [s.values[write.key][0] for s in states if write.key in s.values] + [self._dropped(write.key)]
                parked = any((write.version, write.key) in s.parked for s in states)
                write.lost |= not parked and newer(write.version, max(held))

    def _heal(self, name: str, incarnation: str) -> None:
        """`holdfast repair`: a full merge from all others, then member again. Repeated until it succeeds."""

        def again() -> None:
            if self.nodes[name].memory.state == "recovering":
                self.events.at(5.0, self._heal, name, incarnation)

        self.repair.talk(self._heal_steps(name, incarnation), again)

    def _heal_steps(self, name: str, incarnation: str) -> Talk:
        others = [n for n in self.names if n != name]
        mine = need((yield name, lambda n: n.memory.marks))
        known = mine
        for origin in others:
            known = highest([known, need((yield origin, lambda n: n.memory.marks))])
        record = ""
        if mine.before(known) and "restored data not purged" not in self.controls:
            record = str(Position(f"{incarnation}-purged", 0, None))
            self.result.seen["purged"] += need(
                (yield name, lambda n: n.purge(incarnation, known.floor, record, others))
            )
        for origin in others:
            yield from self._close(origin, name, incarnation)
            _mine, now, _peers = need((yield name, ApNode.status))
            theirs, head, _ack, _none = need((yield origin, lambda n: n.pull(1 << 60, "repair")))
            again, _head, _boot, entries = need((yield origin, ApNode.scan))
            if again != theirs:
                return
            rows = entries
            need((yield name, lambda n, o=origin, rows=rows: n.apply(incarnation, o, "*", "", rows, mine.mark)))
            position = str(Position(theirs, head, now))
            # Refused: the zone's replicator was faster.
            yield name, lambda n, o=origin, p=position: n.apply(incarnation, o, record, p, [])
        need((yield name, lambda n: n.settle(incarnation, known)))

        def readmit(node: ApNode) -> None:
            if node.memory.incarnation != incarnation:
                raise Refused("guard")
            node.memory.state = "member"

        yield name, readmit
        self.result.repairs += 1

    def _close(self, origin: str, name: str, incarnation: str) -> Talk:
        """From now on ``origin`` applies nothing more of the history that was cut."""
        if "cut history not closed" in self.controls:
            return
        theirs, _now, peers = need((yield origin, ApNode.status))
        raw, closed = peers.get(name, ""), str(Position(f"{incarnation}-closed", 0, None))
        need((yield origin, lambda n: n.apply(theirs, name, raw, closed, [])))
        marks = need((yield origin, lambda n: n.memory.marks))
        need((yield origin, lambda n: n.raise_mark(theirs, marks.mark + 1, "")))

    def _settle(self) -> None:
        """No more faults, all clocks right, and enough time for every version of the future to come."""
        if self.operator:
            self.operator.over = True
        self.network.quiet = True
        self.network.cut.clear()
        self.network.lagging.clear()
        for node in self.nodes.values():
            node.offset = 0
        states = [n.memory for n in self.nodes.values()]
        versions = [held[0] for s in states for held in s.values.values()] + [p[0] for s in states for p in s.parked]
        latest = max((Version.parse(v).milliseconds for v in versions), default=0)
        clock = next(iter(self.nodes.values())).clock()
        more = 0.0
        if self.digests:
            more = 120.0
        if self.damages:  # once more, when most is quiet and all have the same
            self.events.at(90.0, self._damage_now)
        self.events.run(self.events.now + 150.0 + more + max(0, latest - clock) / 10)
        # One that no node had yet, as it was on its way just then.
        late = [Version.parse(version).milliseconds for n in self.nodes.values() for version, _ in n.memory.parked]
        if late:
            clock = next(iter(self.nodes.values())).clock()
            self.events.run(self.events.now + 50.0 + max(0, max(late) - clock) / 10)

    def _check(self) -> str | None:
        first, *others = (self._visible(n) for n in self.nodes.values())
        for other in others:
            if other != first:
                different = [k for k in KEYS if other.get(k) != first.get(k)]
                return f"not converged: {[(k, first.get(k), other.get(k)) for k in different]}"
        for key, (version, value) in first.items():
            if newer(self._dropped(key), version):
                return f"a deleted value came back: {key} {version} {value}, collected {self._dropped(key)}"
        for write in self.acknowledged:
            if write.lost or write.sequence > self.cut_after.get((write.origin, write.incarnation), 1 << 60):
                continue
            held = first.get(write.key)
            if held is None and self._covered(write.key, write.version, self._dropped(write.key)):
                continue
            if held is None or not self._covered(write.key, write.version, held[0]):
                what = "a delete came undone" if write.value is None else "a write was lost"
                return f"{what}: {write}, in the end {held}"
            if self.operator and self.operator.came_back(write.key, held[0], self.cut_after):
                return f"a version that was written anew came back: {write}, in the end {held}"
            twins = (write.key, write.version) in self.rotten
            if held[0] == write.version and held[1] != write.value and not twins:
                return f"one version, two values: {write}, in the end {held}"
        return None

    def _visible(self, node: ApNode) -> dict[str, tuple[str, str | None]]:
        """What the node holds, without tombstones that a node has removed already: the others will."""
        held = node.memory.values.items()
        return {k: (v, x) for k, (v, x) in held if x is not None or newer(v, self._dropped(k))}

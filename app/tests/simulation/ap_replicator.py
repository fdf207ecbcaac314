"""A simulated `holdfast replicate`: what replicate.py does with the same pure decisions (judge, trim_point)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from ap_node import ApNode, Refused
from events import Events, Network

from holdfast.multiprimary import Next, Position, judge, trim_point

TIMEOUT = 15.0
Call = Callable[[ApNode], Any]
#: Yields (node, call), is sent its answer; None: no answer in time.
Talk = Generator[tuple[str, Call], Any, None]


class Process:
    """Something that talks to nodes over the network, one call at a time in each conversation."""

    def __init__(self, name: str, nodes: dict[str, ApNode], events: Events, network: Network) -> None:
        self.name, self.nodes, self.events, self.network = name, nodes, events, network

    def ask(self, node: str, call: Call, then: Callable[[Any], None]) -> None:
        over = False

        def once(result: Any) -> None:
            nonlocal over
            if not over:
                over = True
                then(result)

        def back(result: Any) -> None:
            self.network.carry(self.name, node, once, result)

        self.network.carry(self.name, node, self.nodes[node].handle, call, back)
        self.events.at(TIMEOUT, once, None)

    def talk(self, talk: Talk, finished: Callable[[], None], answer: Any = None) -> None:
        try:
            node, call = talk.send(answer)
        except (StopIteration, Refused):
            finished()
            return
        self.ask(node, call, lambda result: self.talk(talk, finished, result))


def need(answer: Any) -> Any:
    if answer is None or isinstance(answer, Refused):
        raise Refused("no answer")
    return answer


class Replicator(Process):
    """One of a zone. Two may run at once: the lease only saves work."""

    def __init__(
        self,
        name: str,
        zone: str,
        nodes: dict[str, ApNode],
        events: Events,
        network: Network,
        controls: frozenset[str],
    ) -> None:
        super().__init__(name, nodes, events, network)
        self.zone, self.controls = zone, controls
        self.merges = self.applied = 0
        self._acknowledged: dict[str, Position | None] = {n: None for n in nodes if n != zone}
        for origin in self._acknowledged:
            self._again(origin)
        events.at(3.0, self._house)

    def _again(self, origin: str) -> None:
        self.events.at(
            self.events.random.uniform(1, 6), lambda: self.talk(self._step(origin), lambda: self._again(origin))
        )

    def _house(self) -> None:
        def keep(node: ApNode) -> None:
            node.unpark()
            node.trim(trim_point(node.memory.incarnation, list(self._acknowledged.values())))

        self.ask(self.zone, keep, lambda _done: None)
        self.events.at(self.events.random.uniform(8, 16), self._house)

    def _step(self, origin: str) -> Talk:
        mine, now, peers = need((yield self.zone, ApNode.status))
        raw = peers.get(origin, "")
        cursor = Position.parse(raw) if raw else None
        after = cursor.sequence if cursor else 0
        theirs, head, acknowledged, entries = need((yield origin, lambda n: n.pull(after, self.zone)))
        self._acknowledged[origin] = Position.parse(acknowledged) if acknowledged else None
        judged = cursor
        if "cursors kept across a new incarnation" in self.controls and cursor is not None:
            judged = replace(cursor, incarnation=theirs)
        sequences = [e.sequence for e in entries]
        if "gaps not noticed" in self.controls and sequences:
            sequences = list(range(after + 1, after + 1 + len(entries)))
        decision = judge(judged, theirs, head, sequences)
        if decision is Next.FULL_MERGE or cursor is None:
            yield from self._full_merge(origin, mine, raw, theirs, head, now)
        elif decision is Next.IDLE:
            position = str(Position(theirs, cursor.sequence, now))
            need((yield self.zone, lambda n: n.apply(mine, origin, raw, position, [])))
        else:
            last = entries[-1].sequence
            position = str(Position(theirs, last, now if last == head else cursor.caught_up_ms))
            self.applied += need((yield self.zone, lambda n: n.apply(mine, origin, raw, position, entries)))

    def _full_merge(self, origin: str, mine: str, raw: str, theirs: str, head: int, now: int) -> Talk:
        ours = need((yield self.zone, lambda n: n.memory.marks))
        of_origin = need((yield origin, lambda n: n.memory.marks))
        mark = None if "pages not marked" in self.controls else ours.mark
        incarnation, _head, _boot, entries = need((yield origin, ApNode.scan))
        if incarnation != theirs or of_origin.before(ours):
            return
        if "replaced versions not copied" in self.controls:
            entries = [replace(e, replaces=frozenset()) for e in entries]
        need((yield self.zone, lambda n: n.apply(mine, origin, "*", "", entries, mark)))
        position = str(Position(theirs, head, now))
        need((yield self.zone, lambda n: n.apply(mine, origin, raw, position, [])))
        self.merges += 1

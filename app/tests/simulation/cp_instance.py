"""A simulated instance of the CP face: its beliefs about guards and its running operations.

It does what cp_service.py does with the same pure code: voters of one moment, stores to nodes that are healed, one more
try after a refusal that brought news, the same tag again after a raised epoch.
"""

from __future__ import annotations

from collections.abc import Callable

from events import Events, Network
from nodes import SimNode

from holdfast.contract import TOMBSTONE, VALUE, NotDone, Query, Reply
from holdfast.guard import RECOVERING, GuardBook, unsettled
from holdfast.registers import Read, Send, Verdict, Write
from holdfast.repair_plan import Ask, Differs, Look, Seen, Step, Told
from holdfast.tags import WriterIds

DEADLINE = 100.0
LOOK_EVERY = 10.0


class OneNodeRead(Read):
    """Negative control: any one node's answer will do."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        super().__init__(nodes)
        self.majority = 1


class Instance:
    def __init__(
        self,
        name: str,
        region: str,
        nodes: dict[str, SimNode],
        events: Events,
        network: Network,
        controls: frozenset[str],
    ) -> None:
        self.name, self.region, self.nodes = name, region, nodes
        self.names = tuple(nodes)
        self.events, self.network, self.controls = events, network, controls
        self.boot = 0
        self.paused_until = 0.0
        self.running: set[Operation] = set()
        self.clock_error = 0
        self._start()

    def _start(self) -> None:
        self.boot += 1
        self.book = GuardBook(self.region, self.names)
        self.writers = WriterIds(f"{self.events.random.getrandbits(64):016x}")
        self._look(self.boot)

    def restart(self) -> None:
        """All running operations end without an answer to their clients."""
        for operation in list(self.running):
            operation.abandon()
        self.running.clear()
        self._start()

    def clock(self) -> int:
        """Whole units of the simulated time, wrong by up to this instance's error."""
        return max(1, int(self.events.now) + self.clock_error)

    def jump_clock(self) -> int:
        """All running deadlines are over at once; the clock is wrong from now on."""
        self.clock_error = self.events.random.choice((-400, -60, 0, 60, 400))
        hit = list(self.running)
        for operation in hit:
            operation.expire()
        return len(hit)

    def writer(self) -> str:
        return "0" * 28 if "repeated tags" in self.controls else self.writers.next()

    def ask(self, node: str, request: Step, answer: Callable[[Told], None]) -> None:
        boot = self.boot

        def heard(told: Told) -> None:
            if boot != self.boot:
                return
            if self.events.now < self.paused_until:
                self.events.hit("instance pauses", self.name)
                self.events.at(self.paused_until - self.events.now, heard, told)
                return
            if isinstance(told, Differs):
                self.book.learn(node, told.guard)
            answer(told)

        def back(told: Told) -> None:
            self.network.carry(self.name, node, heard, told)

        target = self.nodes[node]
        self.network.carry(self.name, node, target.receive, request, self.name, back)

    def _look(self, boot: int) -> None:
        if boot != self.boot:
            return

        def seen(node: str) -> Callable[[Told], None]:
            return lambda told: self.book.learn(node, told.guard) and None if isinstance(told, Seen) else None

        for node in self.names:
            self.ask(node, Look(), seen(node))
        self.events.at(LOOK_EVERY, self._look, boot)

    def operate(self, key: str, kind: str, value: str | None, done: Callable[[Operation], None]) -> Operation:
        return Operation(self, key, kind, value, done)


class Operation:
    """``kind``: read, write or delete. ``done`` is called once; never for an operation whose instance died."""

    def __init__(
        self, instance: Instance, key: str, kind: str, value: str | None, done: Callable[[Operation], None]
    ) -> None:
        self.instance, self.key, self.kind, self.value, self.done = instance, key, kind, value, done
        self.started = instance.events.now
        self.over = False
        self.attempt = 0
        self.inner: Read | Write
        instance.running.add(self)
        instance.events.at(DEADLINE, self.expire)
        self._begin()

    def _begin(self) -> None:
        instance = self.instance
        self.attempt += 1
        self.version = instance.book.version
        self.voters = instance.book.voters()
        epoch = next(iter(self.voters.values())).region_epoch if self.voters else 0
        if self.kind == "read":
            if "one-node reads" in instance.controls:
                self.inner = OneNodeRead(instance.names)
            else:
                self.inner = Read(
                    instance.names,
                    write_back="no write-back" not in instance.controls,
                    ask_members="vouching without asking" not in instance.controls,
                    unsettled_epoch=0
                    if "majority reads after a promotion" in instance.controls
                    else unsettled(self.voters),
                )
        else:
            kind = VALUE if self.kind == "write" else TOMBSTONE
            self.inner = Write(instance.names, epoch, instance.writer(), kind, self.value, instance.clock())
        self._send(self.inner.start())

    def _send(self, send: Send) -> None:
        inner, voters = self.inner, self.voters
        for node in send.to:
            guard = voters.get(node)
            if guard is not None:
                request = send.request_to(node)
                self.instance.ask(node, Ask(guard, self.key, request), self._hear(inner, node, send.phase))
                continue
            healing = None if isinstance(send.request, Query) else self.instance.book.healing(node)
            if healing is not None and healing.state == RECOVERING:
                self.instance.ask(node, Ask(healing, self.key, send.request), lambda _told: None)
            self._deliver(inner, node, send.phase, NotDone("not voting", healing is None))

    def _hear(self, inner: Read | Write, node: str, phase: int) -> Callable[[Told], None]:
        def heard(told: Told) -> None:
            reply = NotDone("guard", True) if isinstance(told, Differs) else told
            self._deliver(inner, node, phase, reply)

        return heard

    def _deliver(self, inner: Read | Write, node: str, phase: int, reply: Reply | NotDone) -> None:
        if self.over or inner is not self.inner:
            return
        following = inner.on_reply(node, phase, reply)
        if following is not None:
            self._send(following)
        elif inner.decision is not None:
            self._decided()

    def _decided(self) -> None:
        verdict = self.inner.decision.verdict
        news = self.instance.book.version != self.version and self.instance.events.now < self.started + DEADLINE
        if verdict is Verdict.NO_QUORUM and news and self.attempt == 1:
            self.instance.events.at(2.0, self._retry, self.inner)
        elif verdict is Verdict.UNKNOWN and news and isinstance(self.inner, Write) and self.attempt < 3:
            self.attempt = 3
            self.instance.events.at(2.0, self._confirm, self.inner)
        else:
            self._end()

    def _retry(self, inner: Read | Write) -> None:
        if not self.over and inner is self.inner:
            self._begin()

    def _confirm(self, inner: Write) -> None:
        if self.over or inner is not self.inner:
            return
        self.voters = self.instance.book.voters()
        send = inner.again() if self.voters else None
        if send is None:
            self._end()
        else:
            self._send(send)

    def expire(self) -> None:
        if not self.over:
            self.inner.on_deadline()
            self._end()

    def _end(self) -> None:
        self.over = True
        self.instance.running.discard(self)
        self.done(self)

    def abandon(self) -> None:
        self.over = True
        if self.kind != "read":
            self.inner.on_deadline()
            self.done(self)

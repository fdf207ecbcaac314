"""CP: multi-writer majority registers after Attiya, Bar-Noy and Dolev (1995), Lynch and Shvartsman (1997).

Pure state machines: replies in, requests and a decision out. No I/O, no clock, no randomness; the same code is
driven by real sockets in production and by a simulator in tests.

Write: ask every node for its tag; from a majority take the largest; store (largest + 1, value) on a majority.
Read: ask every node for (tag, value); if a majority holds the largest tag answer it, otherwise store the largest on
a majority first, then answer.

Invariant: when an operation succeeds with tag t, a majority of all nodes holds a tag >= t. Any later majority
intersects it, so later operations see at least t: linearizable per key. It rests on three things the storage must
give (``Storage`` in contract.py): a store keeps the larger tag; an acknowledged store is on disk; a node that lost
its data refuses instead of answering (the guard).

Floors: where tombstones are collected (collect.py), a node without a key cannot tell "never written" from "deleted and
forgotten"; it therefore refuses tags at or below its floor. A write asks for floors with the tags and is above them.
A read that finds a value on some nodes and must store it on one that refuses may do so when a member *vouches* for it:
after the refusal, it is asked again and still holds exactly that tag. A member never holds a tag below a collected
one (collect.py shows why), so the key was not collected up to that moment; and the refusing node takes the store only
if no collection has touched it since its refusal. Taking the refusal of a tombstone's store for an acknowledgement ("it
is gone there anyway") would be wrong: the node may have missed the key altogether while a third still holds the value.

After a promotion the nodes are copies of another region's, each behind by its own time: a write that a majority had
acknowledged there may be on one of them only. So until the copies are settled (settle.py) a read counts no majority but
all nodes: the largest tag of all is the newest that is left. A majority is enough when its largest tag carries the
present region epoch: such a tag is above every tag of before, and what is newer than it was stored on a majority of
these very nodes, which the one that answered meets. A write needs a majority only: its tag carries the present region
epoch. A read that does not hear all nodes when it must is refused; it never answers what may be old.

Decisions: ``NO_QUORUM`` is given only when no node can hold what this operation wanted to write: either no store
was ever requested, or every node said for certain that it did not execute it. ``UNKNOWN``: a store was requested and
a majority did not confirm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from .contract import VALUE, Floored, NotDone, Query, Register, Reply, Request, Store
from .tags import NO_TAG, epoch_of, next_tag

EMPTY = Register(NO_TAG, VALUE, None)
#: A read looks for somebody to vouch so often, and starts over so often when the key was collected meanwhile.
VOUCHES, RESTARTS = 10, 5


class Verdict(Enum):
    SUCCESS = "success"
    NO_QUORUM = "no_quorum"
    UNKNOWN = "outcome_unknown"


@dataclass(frozen=True, slots=True)
class Decision:
    """The end of an operation. ``register`` is what was written or read (EMPTY: never written)."""

    verdict: Verdict
    register: Register
    acks: tuple[str, ...]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """Requests to send now; ``phase`` comes back with each reply, so that late ones are told apart."""

    phase: int
    to: tuple[str, ...]
    request: Request
    #: Requests of single nodes that differ from ``request``.
    apart: tuple[tuple[str, Request], ...] = ()

    def request_to(self, node: str) -> Request:
        return dict(self.apart).get(node, self.request)


class _Operation(ABC):
    """The part both operations share: one phase at a time, each counted to a majority of *all* nodes."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        if len(set(nodes)) != len(nodes) or not nodes:
            raise ValueError("nodes must be distinct and not none")
        self._nodes = nodes
        self.majority = len(nodes) // 2 + 1
        self.decision: Decision | None = None
        self.phase = 1
        self._querying = True
        self._replies: dict[str, Register] = {}
        self._acks: list[str] = []
        self._failed: dict[str, NotDone] = {}
        self._target = EMPTY

    def on_reply(self, node: str, phase: int, reply: Reply | NotDone) -> Send | None:
        """Feed one reply. Duplicates, replies of an earlier phase and replies after the end change nothing."""
        if self.decision is not None or phase != self.phase or node not in self._nodes:
            return None
        if node in self._failed or (node in self._replies if self._querying else node in self._acks):
            return None
        if isinstance(reply, NotDone):
            self._failed[node] = reply
            if self._hopeless():
                self._fail()
            return None
        if self._querying:
            self._replies[node] = reply.register
            if self._heard_enough():
                return self._after_query()
            if self._hopeless():
                self._fail()
            return None
        self._acks.append(node)
        if len(self._acks) >= self.majority:
            self._succeed()
        return None

    def on_deadline(self) -> None:
        """Time is up: whoever has not answered counts as unknown."""
        if self.decision is None:
            self._fail()

    def _hopeless(self) -> bool:
        return len(self._nodes) - len(self._failed) < self.majority

    def _heard_enough(self) -> bool:
        return len(self._replies) >= self.majority

    def _largest(self) -> Register:
        return max(self._replies.values(), key=lambda r: r.tag)

    @abstractmethod
    def _after_query(self) -> Send | None:
        """A majority has answered the query: what to send next, or None if that decided."""

    def _begin_store(self, target: Register, to: tuple[str, ...], already: tuple[str, ...]) -> Send:
        self.phase += 1
        self._querying = False
        self._target = target
        self._acks = list(already)
        self._failed = {}
        return Send(self.phase, to, Store(target))

    def _succeed(self) -> None:
        self.decision = Decision(Verdict.SUCCESS, self._target, tuple(self._acks))

    def _fail(self) -> None:
        self.decision = Decision(self._failure(), self._target, tuple(self._acks), self._reasons())

    def _failure(self) -> Verdict:
        return Verdict.NO_QUORUM

    def _reasons(self) -> tuple[str, ...]:
        answered = self._replies if self._querying else self._acks
        silent = [f"{n}: no answer in time" for n in self._nodes if n not in self._failed and n not in answered]
        return tuple(f"{n}: {f.reason}" for n, f in sorted(self._failed.items())) + tuple(silent)


class Write(_Operation):
    """One write (a delete is a write of a tombstone). ``writer`` must never be used for another write."""

    def __init__(
        self, nodes: tuple[str, ...], epoch: int, writer: str, kind: str, value: str | None, clock_ms: int = 0
    ) -> None:
        super().__init__(nodes)
        self._epoch, self._writer, self._kind, self._value = epoch, writer, kind, value
        self._clock_ms = clock_ms
        self._attempts = 0

    def start(self) -> Send:
        return Send(1, self._nodes, Query(want_value=False))

    def _after_query(self) -> Send | None:
        tag = next_tag(self._largest().tag, self._epoch, self._writer, self._clock_ms)
        return self._begin_store(Register(tag, self._kind, self._value), self._nodes, ())

    def again(self) -> Send | None:
        """After UNKNOWN: the same tag and value once more, for callers that learned of a raised membership epoch.

        Safe at any later time: the tag was chosen from a majority while the operation was running, and it still is.
        """
        if self.decision is None or self.decision.verdict is not Verdict.UNKNOWN:
            return None
        send = self._begin_store(self._target, self._nodes, ())
        self.decision, self._attempts = None, self._attempts + 1
        return send

    def _hopeless(self) -> bool:
        # In phase 2, as long as all refusals are certain, hear every node out: if *all* refuse, nothing is stored.
        if not super()._hopeless():
            return False
        return (
            self._querying
            or self._attempts > 0
            or bool(self._acks)
            or self._any_uncertain()
            or len(self._failed) == len(self._nodes)
        )

    def _any_uncertain(self) -> bool:
        return any(not f.certain for f in self._failed.values())

    def _failure(self) -> Verdict:
        if self._querying:
            return Verdict.NO_QUORUM
        nothing_stored = self._attempts == 0 and len(self._failed) == len(self._nodes) and not self._any_uncertain()
        return Verdict.NO_QUORUM if nothing_stored else Verdict.UNKNOWN


class Read(_Operation):
    """One read. ``unsettled_epoch``: the region epoch of promoted copies that are not settled yet, otherwise 0.

    ``write_back=False`` and ``ask_members=False`` exist for the negative controls of the tests only.
    """

    def __init__(
        self, nodes: tuple[str, ...], write_back: bool = True, ask_members: bool = True, unsettled_epoch: int = 0
    ) -> None:
        super().__init__(nodes)
        self._unsettled_epoch = unsettled_epoch
        self._write_back, self._ask_members = write_back, ask_members
        self._restarts = self._rounds = self._stored_from = 0
        self._floored: dict[str, Floored] = {}
        self._vouching: dict[str, Floored] = {}
        self._members: frozenset[str] = frozenset()
        self._asked: set[str] = set()

    def start(self) -> Send:
        return Send(1, self._nodes, Query(want_value=True))

    def on_reply(self, node: str, phase: int, reply: Reply | NotDone) -> Send | None:
        if self._querying or self.decision is not None or not self._stored_from <= phase <= self.phase:
            return super().on_reply(node, phase, reply)
        if node in self._members:
            return self._on_member(node, phase, reply)
        if isinstance(reply, Floored):
            if node not in self._acks and node not in self._failed:
                self._floored[node] = reply
            return None if self._asked else self._vouch([])
        return super().on_reply(node, self.phase, reply)

    def _heard_enough(self) -> bool:
        if not super()._heard_enough():
            return False
        everybody = len(self._replies) == len(self._nodes)
        return everybody or not self._unsettled_epoch or epoch_of(self._largest().tag) >= self._unsettled_epoch

    def _hopeless(self) -> bool:
        """While querying also when nobody is left to hear and that was not enough."""
        if super()._hopeless():
            return True
        return self._querying and len(self._replies) + len(self._failed) == len(self._nodes)

    def _reasons(self) -> tuple[str, ...]:
        more = ("all nodes are needed until the promoted copies are settled",)
        return super()._reasons() + (more if self._querying and self._unsettled_epoch else ())

    def _after_query(self) -> Send | None:
        target = self._largest()
        holders = tuple(n for n, r in self._replies.items() if r.tag == target.tag)
        if len(holders) >= self.majority or not self._write_back:
            self._target, self._acks = target, list(holders)
            self._succeed()
            return None
        behind = tuple(n for n in self._nodes if n not in holders)
        send = self._begin_store(target, behind, holders)
        self._stored_from = send.phase
        return send

    def _vouch(self, stores: list[tuple[str, Request]]) -> Send | None:
        """Send ``stores``, and ask the members that hold the target for the nodes that have refused since."""
        asks: list[tuple[str, Request]] = []
        if self._floored and self._rounds == VOUCHES:
            self._give_up(self._floored)
        elif self._floored:
            self._rounds += 1
            self._members = frozenset(self._acks) if self._ask_members else frozenset()
            self._vouching, self._floored, self._asked = self._floored, {}, set(self._members)
            asks = [(n, Query(want_value=False, bare=True)) for n in self._nodes if n in self._members]
            stores = stores if self._ask_members else self._vouched_stores()
        if self.decision is not None or not (stores or asks):
            return None
        self.phase += 1
        apart = (*stores, *asks)
        return Send(self.phase, tuple(n for n, _ in apart), apart[0][1], apart)

    def _vouched_stores(self) -> list[tuple[str, Request]]:
        stores: list[tuple[str, Request]] = [(n, Store(self._target, f.batch)) for n, f in self._vouching.items()]
        self._vouching = {}
        return stores

    def _on_member(self, node: str, phase: int, reply: Reply | NotDone) -> Send | None:
        if phase != self.phase or node not in self._asked:
            return None
        if isinstance(reply, NotDone):
            self._asked.discard(node)
            if not self._asked:
                self._give_up({**self._vouching, **self._floored})
            return None
        self._asked = set()
        if reply.register.tag != self._target.tag:
            return self._start_over()
        return self._vouch(self._vouched_stores())

    def _give_up(self, refused: dict[str, Floored]) -> None:
        self._failed.update(refused)
        self._vouching, self._floored = {}, {}
        if self._hopeless():
            self._fail()

    def _start_over(self) -> Send | None:
        """The key has moved on since it was read: it was written again, or deleted and collected."""
        self._restarts += 1
        if self._restarts > RESTARTS:
            self._fail()
            return None
        self.phase += 1
        self._querying = True
        self._replies, self._acks, self._failed, self._target = {}, [], {}, EMPTY
        self._floored, self._vouching, self._members = {}, {}, frozenset()
        return Send(self.phase, self._nodes, Query(want_value=True))

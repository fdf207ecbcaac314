"""The CP face: drives the pure operations of registers.py against the nodes, within one deadline."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import scripts
from .contract import TOMBSTONE, VALUE, Floored, NotDone, Query, Register, Reply, Request
from .errors import WITHHELD, Fenced, NoQuorum, NotFound, OutcomeUnknown
from .guard import RECOVERING, Guard, unsettled
from .link import Answer
from .nodes import Nodes, Refused, Result
from .registers import Decision, Read, Send, Verdict, Write
from .tags import NO_TAG, WriterIds

#: Tries of one operation within its deadline, and the pause between them, while guards are being moved.
ATTEMPTS, RAISE_PAUSE_SEC = 6, 0.01
#: How often a write is stored once more because guards were moved while it was being stored.
CONFIRMS = 3


@dataclass(frozen=True, slots=True)
class CpAnswer:
    version: str
    acks: tuple[str, ...]
    value: str | None = None


class RedisRegisters:
    """``contract.Storage`` on Redis, under the guards believed when it was made (one instance per operation)."""

    def __init__(self, nodes: Nodes, voters: dict[str, Guard]) -> None:
        self._nodes, self._voters = nodes, voters

    def send(
        self, node: str, key: str, request: Request, deadline: float, done: Callable[[Reply | NotDone], None]
    ) -> None:
        guard = self._voters.get(node)
        if guard is None:
            self._send_to_recovering(node, key, request, deadline, done)
            return
        keys = [scripts.GUARD, scripts.cp_key(key), scripts.CP_STATE]
        if isinstance(request, Query):
            args = [*guard.expectation(), query_word(request)]
            self._nodes.send(node, scripts.CP_QUERY, keys, args, deadline, lambda r: done(_queried(r)))
        else:
            register = request.register
            args = [*guard.expectation(), register.tag, register.kind, register.value or "", request.vouched]
            self._nodes.send(node, scripts.CP_STORE, keys, args, deadline, lambda r: done(_stored(r, register)))

    def _send_to_recovering(
        self, node: str, key: str, request: Request, deadline: float, done: Callable[[Reply | NotDone], None]
    ) -> None:
        """A node that is being healed gets stores, so that it comes back fresh. Its answer never counts; as it may keep
        the value, it is not a certain refusal either."""
        reason = f"not voting ({self._nodes.guard_state(node)})"
        guard = self._nodes.guards.healing(node)
        if guard is None or isinstance(request, Query):
            done(NotDone(reason, True))
            return
        register = request.register
        args = [*guard.expectation(RECOVERING), register.tag, register.kind, register.value or "", ""]
        keys = [scripts.GUARD, scripts.cp_key(key), scripts.CP_STATE]
        self._nodes.send(node, scripts.CP_STORE, keys, args, deadline, lambda _result: None)
        done(NotDone(reason, False))


def query_word(query: Query) -> str:
    """What cp_query.lua is asked for."""
    return "held" if query.bare else "value" if query.want_value else "tag"


def _queried(result: Result) -> Reply | NotDone:
    if not isinstance(result, Answer):
        return _not_done(result)
    tag, kind, value = (field.decode() for field in result.value)
    return Reply(Register(tag, kind or VALUE, value if kind == VALUE else None))


def _stored(result: Result, register: Register) -> Reply | NotDone:
    if isinstance(result, Answer):
        return floored(result.value) or Reply(register)
    return _not_done(result)


def floored(reply: list[bytes]) -> Floored | None:
    """cp_store.lua's refusal {'FLOOR', floor, batch}, if ``reply`` is one."""
    if reply[0] != b"FLOOR":
        return None
    return Floored("floor: the key may have been deleted and collected", True, reply[1].decode(), reply[2].decode())


def _not_done(result: Result) -> NotDone:
    if isinstance(result, Refused):
        return NotDone("not voting (guard)", True)
    return NotDone(result.reason, result.certain)  # type: ignore[union-attr]


class CpService:
    def __init__(self, nodes: Nodes, timeout_sec: float) -> None:
        self._nodes = nodes
        self._timeout = timeout_sec
        self._writers = WriterIds(secrets.token_hex(8))

    def write(self, key: str, value: str) -> CpAnswer:
        """Returns when a majority has the value on disk. Raises NoQuorum, OutcomeUnknown, Fenced."""
        return self._write(key, VALUE, value)

    def delete(self, key: str) -> CpAnswer:
        """A write of a tombstone; deleting what is not there succeeds. Raises like ``write``."""
        return self._write(key, TOMBSTONE, None)

    def read(self, key: str) -> CpAnswer:
        """The latest value: linearizable. Raises NotFound, NoQuorum, Fenced."""
        names = self._nodes.names
        decision = self._decide(key, lambda _epoch, copies: Read(names, unsettled_epoch=copies))
        if decision.verdict is not Verdict.SUCCESS:
            raise NoQuorum(_explain("no majority of nodes answered", decision))
        register = decision.register
        if register.tag == NO_TAG or register.kind == TOMBSTONE:
            raise NotFound("there is no such key")
        return CpAnswer(register.tag, decision.acks, register.value)

    def not_ready(self) -> str | None:
        """None if a majority can vote now as far as the monitor knows, otherwise the reason's code."""
        withheld = self._nodes.guards.withheld()
        if withheld:
            return withheld
        voting = [n for n in self._nodes.guards.voters() if self._nodes.answering(n)]
        return None if len(voting) > len(self._nodes.names) // 2 else NoQuorum.code

    def _write(self, key: str, kind: str, value: str | None) -> CpAnswer:
        decision = self._decide(key, lambda epoch, _copies: self._new_write(epoch, kind, value))
        if decision.verdict is Verdict.NO_QUORUM:
            raise NoQuorum(_explain("no majority of nodes answered; nothing was written", decision))
        if decision.verdict is Verdict.UNKNOWN:
            raise OutcomeUnknown(_explain("a majority did not confirm in time; the value may yet appear", decision))
        return CpAnswer(decision.register.tag, decision.acks)

    def _new_write(self, epoch: int, kind: str, value: str | None) -> Write:
        # The clock makes tags comparable with time; nothing but the speed of collection rests on it.
        return Write(self._nodes.names, epoch, self._writers.next(), kind, value, time.time_ns() // 1_000_000)

    def _decide(self, key: str, begin: Callable[[int, int], Read | Write]) -> Decision:
        """Run one operation. If it found no quorum because guards had changed, run it again: nothing was stored."""
        deadline = time.monotonic() + self._timeout
        decision = None
        for attempt in range(ATTEMPTS):
            book = self._nodes.guards
            version = book.version
            _refuse_if_withheld(book.withheld())
            voters = book.voters()
            epoch = next(iter(voters.values())).region_epoch if voters else 0
            operation = begin(epoch, unsettled(voters))
            decision = self._run(key, operation, operation.start(), RedisRegisters(self._nodes, voters), deadline)
            since = version
            for _again in range(CONFIRMS):
                if not isinstance(operation, Write) or decision.verdict is not Verdict.UNKNOWN or book.version == since:
                    break
                since = book.version
                decision = self._confirm(key, operation, decision, epoch, deadline)
            remaining = deadline - time.monotonic()
            # More than once: settling moves every guard twice in a row.
            news = book.version != version
            if decision.verdict is not Verdict.NO_QUORUM or remaining <= 0 or not (news or book.raising()):
                break
            if attempt:
                time.sleep(min(RAISE_PAUSE_SEC, remaining))
            self._nodes.refresh(remaining / 4)
        if decision is None:  # the loop runs at least once
            raise NoQuorum("no attempt was made")
        if decision.verdict is Verdict.NO_QUORUM:
            _refuse_if_withheld(self._nodes.guards.withheld())
        return decision

    def _confirm(self, key: str, write: Write, decision: Decision, epoch: int, deadline: float) -> Decision:
        """The membership epoch was raised between two stores of ``write``: store the same tag under the new one."""
        remaining = deadline - time.monotonic()
        if remaining > 0:
            self._nodes.refresh(remaining / 4)
        voters = self._nodes.guards.voters()
        if time.monotonic() >= deadline or not voters or next(iter(voters.values())).region_epoch != epoch:
            return decision
        send = write.again()
        return self._run(key, write, send, RedisRegisters(self._nodes, voters), deadline) if send else decision

    def _run(self, key: str, operation: Read | Write, send: Send, storage: RedisRegisters, deadline: float) -> Decision:
        return _Run(key, operation, storage, deadline).decide(send)


class _Run:
    """One operation on its way. Replies are fed to it on whatever thread brings them, so that the next phase is sent
    at once and the waiting request wakes up for the decision only."""

    def __init__(self, key: str, operation: Read | Write, storage: RedisRegisters, deadline: float) -> None:
        self._key, self._operation, self._storage, self._deadline = key, operation, storage, deadline
        self._lock = threading.Lock()
        self._ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def decide(self, send: Send) -> Decision:
        """Raises what the operation itself raised."""
        self._send(send)
        try:
            problem = self._ended.get(timeout=max(0.0001, self._deadline - time.monotonic()))
        except queue.Empty:
            problem = None
        if problem is not None:
            raise problem
        with self._lock:
            self._operation.on_deadline()
            if self._operation.decision is None:
                raise RuntimeError("an operation must be decided at its deadline")
            return self._operation.decision

    def _send(self, send: Send) -> None:
        for node in send.to:
            self._storage.send(node, self._key, send.request_to(node), self._deadline, self._receiver(node, send.phase))

    def _receiver(self, node: str, phase: int) -> Callable[[Reply | NotDone], None]:
        def receive(reply: Reply | NotDone) -> None:
            following = None
            with self._lock:
                if self._operation.decision is not None:
                    return
                try:
                    following = self._operation.on_reply(node, phase, reply)
                except Exception as problem:
                    self._ended.put(problem)
                    return
                ended = self._operation.decision is not None
            if ended:
                self._ended.put(None)
            elif following is not None:
                self._send(following)

        return receive


def _refuse_if_withheld(why: str | None) -> None:
    if why is not None:
        raise Fenced(WITHHELD[why])


def _explain(what: str, decision: Decision) -> str:
    return f"{what} ({'; '.join(decision.reasons)})" if decision.reasons else what

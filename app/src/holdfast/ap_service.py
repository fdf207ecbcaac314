"""The AP face: one node is enough, the zone's own if it can, another zone's otherwise; last writer wins."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from . import scripts
from .contract import TOMBSTONE, VALUE
from .errors import Fenced, NotFound, OutcomeUnknown, Unavailable
from .guard import Guard
from .hlc import ZERO, Version
from .link import Answer, Failed
from .multiprimary import Position, staleness, unmet, worst
from .nodes import Nodes, Refused, Result
from .sessions import Session

#: How much of a read's time may be spent waiting for replication to bring the session's writes here.
SESSION_WAIT_SHARE = 0.25
SESSION_POLL_SEC = 0.02


@dataclass(frozen=True, slots=True)
class ApWritten:
    version: str
    acks: tuple[str, ...]
    session: Session


@dataclass(frozen=True, slots=True)
class ApRead:
    """``found`` False: never written or deleted. ``read_your_writes`` is None when the client showed no session."""

    found: bool
    value: str | None
    version: str
    staleness_ms: int | None
    stale: bool
    source: str
    read_your_writes: bool | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One ap_read answer."""

    node: str
    incarnation: str
    version: str
    kind: str
    value: str
    now_ms: int
    sequence: int
    peers: dict[str, Position]
    parked: int


class ApService:
    def __init__(
        self, nodes: Nodes, local: str, timeout_sec: float, max_staleness_ms: int, max_clock_drift_ms: int
    ) -> None:
        self._nodes = nodes
        self._order = (local, *(n for n in nodes.names if n != local))
        self._timeout = timeout_sec
        self._max_staleness = max_staleness_ms
        self._drift = max_clock_drift_ms
        self._hlc = ZERO
        self._lock = threading.Lock()

    def write(self, key: str, value: str, session: Session) -> ApWritten:
        """Durable on one disk when it returns. Raises Unavailable, OutcomeUnknown, Fenced."""
        return self._write(key, VALUE, value, session)

    def delete(self, key: str, session: Session) -> ApWritten:
        """A tombstone; deleting what is not there succeeds."""
        return self._write(key, TOMBSTONE, "", session)

    def read(self, key: str, session: Session | None, session_known: bool) -> ApRead:
        """The value here and how far behind it may be. ``session_known`` False: a token was shown and is not ours.

        Raises NotFound only through the caller's check of ``found``; Unavailable, Fenced.
        """
        deadline = time.monotonic() + self._timeout
        seen = self._read_first(key, deadline)
        honoured: bool | None = None
        if not session_known:
            honoured = False
        elif session is not None:
            seen, honoured = self._honour(key, session, seen, deadline)
        lag = worst(staleness(seen.node, self._nodes.names, seen.peers, seen.now_ms))
        self._remember(seen.version)
        return ApRead(
            found=seen.kind == VALUE,
            value=seen.value if seen.kind == VALUE else None,
            version=seen.version,
            staleness_ms=lag,
            stale=lag is None or lag > self._max_staleness,
            source=seen.node,
            read_your_writes=honoured,
        )

    def not_ready(self) -> str | None:
        """None if some member node answers, otherwise the reason's code."""
        if any(self._nodes.answering(n) and self._nodes.guards.usable(n) for n in self._order):
            return None
        return Fenced.code if self._is_fenced() else Unavailable.code

    def _write(self, key: str, kind: str, value: str, session: Session) -> ApWritten:
        deadline = time.monotonic() + self._timeout
        maybe_stored = False
        reasons: list[str] = []
        for node in self._order:
            with self._lock:
                floor = self._hlc
            keys = [scripts.GUARD, scripts.ap_key(key), scripts.OUTBOX, scripts.AP_STATE]
            result = self._ask(node, scripts.AP_WRITE, keys, [kind, value, key, floor, self._drift], deadline)
            if isinstance(result, Answer):
                version, sequence, incarnation = (f.decode() for f in result.value)
                self._remember(version)
                return ApWritten(version, (node,), session.with_write(node, incarnation, int(sequence)))
            # Going on after a lost reply may write the value twice, the second time with a newer version: the same
            # value, so last-writer-wins ends in it either way.
            maybe_stored = maybe_stored or (isinstance(result, Failed) and not result.certain)
            reasons.append(f"{node}: {_why(result)}")
        if maybe_stored:
            raise OutcomeUnknown(f"no node confirmed in time; the value may yet appear ({'; '.join(reasons)})")
        raise self._none_left(reasons)

    def _read_first(self, key: str, deadline: float) -> _Seen:
        reasons: list[str] = []
        for node in self._order:
            seen = self._read_at(node, key, deadline)
            if isinstance(seen, _Seen):
                return seen
            reasons.append(f"{node}: {_why(seen)}")
        raise self._none_left(reasons)

    def _honour(self, key: str, session: Session, seen: _Seen, deadline: float) -> tuple[_Seen, bool]:
        """Wait a bounded time for the session's writes to arrive, then ask an origin, then say that it cannot."""
        wait_until = min(time.monotonic() + self._timeout * SESSION_WAIT_SHARE, deadline)
        while True:
            missing = unmet(session, seen.node, seen.incarnation, seen.sequence, seen.peers, seen.parked)
            if not missing:
                return seen, True
            if time.monotonic() + SESSION_POLL_SEC >= wait_until or not self._can_arrive(session, missing):
                break
            time.sleep(SESSION_POLL_SEC)
            again = self._read_at(seen.node, key, deadline)
            if not isinstance(again, _Seen):
                break
            seen = again
        for origin in sorted(missing & set(self._nodes.names) - {seen.node}):
            there = self._read_at(origin, key, deadline)
            if not isinstance(there, _Seen):
                continue
            if not unmet(session, there.node, there.incarnation, there.sequence, there.peers, there.parked):
                return there, True
        return seen, False

    def _can_arrive(self, session: Session, missing: set[str]) -> bool:
        """Waiting is of no use for an origin that does not exist or whose history has ended."""
        for origin in missing:
            guard = self._nodes.guards.known(origin)
            if guard is None or guard.incarnation != session.writes[origin][0]:
                return False
        return True

    def _read_at(self, node: str, key: str, deadline: float) -> _Seen | Refused | Failed:
        keys = [scripts.GUARD, scripts.ap_key(key), scripts.AP_STATE, scripts.PEERS, scripts.PARKED]
        result = self._ask(node, scripts.AP_READ, keys, [], deadline)
        if not isinstance(result, Answer):
            return result
        version, kind, value, now, sequence, peers, parked = result.value
        guard = self._nodes.guards.known(node)
        return _Seen(
            node,
            guard.incarnation if guard else "",
            version.decode(),
            kind.decode(),
            value.decode(),
            int(now),
            int(sequence),
            parse_peers(peers),
            int(parked),
        )

    def _ask(self, node: str, script: scripts.Script, keys: list[str], args: list[Any], deadline: float) -> Result:
        """Ask with the guard believed; if it was another one that may serve too, believe that and ask once more."""
        result: Result = Failed("not_member", True)
        for _attempt in range(2):
            guard: Guard | None = self._nodes.guards.usable(node)
            if guard is None:
                return result
            # A node that does not answer gets half of what is left, so that there is time for the next one.
            now = time.monotonic()
            share = 1.0 if node == self._order[-1] else 0.5
            result = self._nodes.call(
                node, script, keys, [*guard.expectation(), *args], now + max(0.0, deadline - now) * share
            )
            if not isinstance(result, Refused) or result.guard == guard:
                break
        return result

    def _none_left(self, reasons: list[str]) -> Unavailable | Fenced:
        if self._is_fenced():
            return Fenced("a higher region epoch is known: this region must not serve")
        return Unavailable(f"no member node can be reached from here ({'; '.join(reasons)})")

    def _is_fenced(self) -> bool:
        states = [self._nodes.guard_state(n) for n in self._order]
        return "fenced" in states and "member" not in [
            self._nodes.guard_state(n) for n in self._order if self._nodes.guards.usable(n)
        ]

    def _remember(self, version: str) -> None:
        """The largest HLC this instance has seen goes into its next write."""
        if version:
            hlc = Version.parse(version).hlc
            with self._lock:
                self._hlc = max(self._hlc, hlc)


def parse_peers(flat: list[bytes]) -> dict[str, Position]:
    peers: dict[str, Position] = {}
    for origin, text in zip(flat[::2], flat[1::2], strict=True):
        position = Position.parse(text.decode())
        if position is not None:
            peers[origin.decode()] = position
    return peers


def _why(result: Result) -> str:
    if isinstance(result, Refused):
        return f"guard {result.guard.state if result.guard else 'missing'}"
    return result.reason if isinstance(result, Failed) else "answered"


def require_found(answer: ApRead) -> ApRead:
    """Raises NotFound if there is no value."""
    if not answer.found:
        raise NotFound("there is no such key")
    return answer

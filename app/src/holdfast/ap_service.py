"""The AP face: one node is enough, the zone's own if it can, another zone's otherwise; last writer wins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from . import scripts
from .contract import TOMBSTONE, VALUE
from .errors import WITHHELD, Fenced, NotFound, OutcomeUnknown, Unavailable
from .guard import Guard
from .hlc import ZERO, Version
from .link import Answer, Failed
from .multiprimary import Position, staleness, unmet, worst
from .nodes import Nodes, Refused, Result
from .session_records import Records, Shown
from .sessions import Session, home_of

#: How much of a read's time may be spent waiting for replication to bring the session's writes here.
SESSION_WAIT_SHARE = 0.25
SESSION_POLL_SEC = 0.02
#: A script's arguments after the guard's, or what makes them of the moment (monotonic) until which the node has time.
Arguments = list[Any] | Callable[[float], list[Any]]


@dataclass(frozen=True, slots=True)
class ApWritten:
    """``session`` is the one handed in with this write; ``cookie`` the id and seconds of a cookie to be set, if any."""

    version: str
    acks: tuple[str, ...]
    session: Session
    cookie: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class ApRead:
    """``found`` False: never written or deleted. ``read_your_writes`` is None when the client showed no session.
    ``prolonged``: the record of the session is kept longer from now on, and so must be its cookie."""

    found: bool
    value: str | None
    version: str
    staleness_ms: int | None
    stale: bool
    source: str
    read_your_writes: bool | None
    prolonged: bool = False


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
    prolonged: bool
    record: list[bytes]


class ApService:
    """``by_clock`` puts nodes whose clock is known bad behind the others: the executing node mints the version.

    ``latest`` (node, monotonic seconds): what the node's clock shows then, in ms; a write that a node comes to later is
    refused there, for it would be minted above what was acknowledged meanwhile. None: not known, so it is not refused,
    and nothing is written elsewhere once it may be on its way.
    """

    def __init__(
        self,
        nodes: Nodes,
        local: str,
        timeout_sec: float,
        max_staleness_ms: int,
        max_clock_drift_ms: int,
        by_clock: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda order: order,
        session_ttl_sec: int = 3600,
        latest: Callable[[str, float], int | None] = lambda _node, _until: None,
    ) -> None:
        self._nodes = nodes
        self._latest = latest
        self._by_clock = by_clock
        self._order = (local, *(n for n in nodes.names if n != local))
        self._timeout = timeout_sec
        self._max_staleness = max_staleness_ms
        self._drift = max_clock_drift_ms
        self._hlc = ZERO
        self._lock = threading.Lock()
        self._records = Records(self._ask, session_ttl_sec)

    def write(self, key: str, value: str, session: Session, shown: Shown | None = None) -> ApWritten:
        """Durable on one disk when it returns; noted in the record of the session ``shown``, unless that is None.

        Raises Unavailable, OutcomeUnknown, Fenced.
        """
        return self._write(key, VALUE, value, session, shown)

    def delete(self, key: str, session: Session, shown: Shown | None = None) -> ApWritten:
        """A tombstone; deleting what is not there succeeds."""
        return self._write(key, TOMBSTONE, "", session, shown)

    def read(self, key: str, session: Session | None, session_known: bool, identity: str | None = None) -> ApRead:
        """The value here and how far behind it may be. ``session_known`` False: something was shown and is not ours.
        ``identity``: of a session with a record, which is taken together with ``session``.

        Raises NotFound only through the caller's check of ``found``; Unavailable, Fenced.
        """
        deadline = time.monotonic() + self._timeout
        seen = self._read_first(key, deadline, identity)
        prolonged, honoured = seen.prolonged, None
        if identity is not None:
            record = self._records.of(identity, seen.node, seen.record, seen.now_ms, deadline)
            prolonged = prolonged or (record is not None and record.prolonged)
            session_known = session_known and record is not None
            session = record.session.merged(session or Session()) if record is not None else session
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
            prolonged=prolonged,
        )

    def not_ready(self) -> str | None:
        """None if some member node answers, otherwise the reason's code."""
        if any(self._nodes.answering(n) and self._nodes.guards.usable(n) for n in self._order):
            return None
        return self._nodes.guards.withheld() or (Fenced.code if self._is_fenced() else Unavailable.code)

    def _write(self, key: str, kind: str, value: str, session: Session, shown: Shown | None) -> ApWritten:
        deadline = time.monotonic() + self._timeout
        maybe_stored = False
        reasons: list[str] = []
        unlimited: set[str] = set()
        keeping = self._records.keeping(shown) if shown is not None else None
        order = self._by_clock(self._order)
        for node in order:
            keep = keeping.at(node, deadline) if keeping is not None else None
            with self._lock:
                floor = max(self._hlc, session.hlc, keep.hlc if keep is not None else ZERO)
            keys = [scripts.GUARD, scripts.ap_key(key), scripts.OUTBOX, scripts.AP_STATE]
            noted: list[Any] = []
            if keep is not None:
                keys, noted = [*keys, scripts.session_key(keep.identity)], list(keep.arguments)
            args = partial(self._write_arguments, node, [kind, value, key, floor, self._drift], noted, unlimited)
            result = self._ask(node, scripts.AP_WRITE, keys, args, deadline, order[-1])
            if isinstance(result, Answer):
                version, sequence, incarnation, prolonged = (f.decode() for f in result.value)
                self._remember(version)
                cookie = (keep.identity, keep.seconds) if keep is not None and prolonged == "1" else None
                after = session.with_write(node, incarnation, int(sequence), Version.parse(version).hlc)
                return ApWritten(version, (node,), after, cookie)
            # Going on after a lost reply may write the value twice, with two versions, both before this ends: the same
            # value, so last-writer-wins ends in it either way. Without a latest time the node may come to it much
            # later, and would win over what is acknowledged meanwhile.
            lost = isinstance(result, Failed) and not result.certain
            maybe_stored = maybe_stored or lost
            reasons.append(f"{node}: {_why(result)}")
            if lost and node in unlimited:
                break
        if maybe_stored:
            raise OutcomeUnknown(f"no node confirmed in time; the value may yet appear ({'; '.join(reasons)})")
        raise self._none_left(reasons)

    def _write_arguments(
        self, node: str, value: list[Any], noted: list[Any], unlimited: set[str], until: float
    ) -> list[Any]:
        latest = self._latest(node, until)
        if latest is None:
            unlimited.add(node)
        return [*value, "" if latest is None else latest, *noted]

    def _read_first(self, key: str, deadline: float, identity: str | None) -> _Seen:
        reasons: list[str] = []
        for node in self._order:
            seen = self._read_at(node, key, deadline, identity)
            if isinstance(seen, _Seen):
                return seen
            reasons.append(f"{node}: {_why(seen)}")
        raise self._none_left(reasons)

    def _honour(self, key: str, session: Session, seen: _Seen, deadline: float) -> tuple[_Seen, bool]:
        """Wait a bounded time for the session's writes to arrive, then ask an origin, then say that it cannot.

        Writes under a history that has ended keep the answer from being True; the others are looked for all the same.
        """
        living, whole = replace(session, dead=frozenset()), not session.dead
        wait_until = min(time.monotonic() + self._timeout * SESSION_WAIT_SHARE, deadline)
        while True:
            missing = _missing(living, seen)
            if not missing:
                return seen, whole
            if time.monotonic() + SESSION_POLL_SEC >= wait_until or not self._can_arrive(living, missing):
                break
            time.sleep(SESSION_POLL_SEC)
            again = self._read_at(seen.node, key, deadline)
            if not isinstance(again, _Seen):
                break
            seen = again
        for origin in sorted(missing & set(self._nodes.names) - {seen.node}):
            there = self._read_at(origin, key, deadline) if origin in missing else None
            # Fewer others would not do: it may lack what this node has.
            if isinstance(there, _Seen) and (lacks := _missing(living, there)) < missing:
                seen, missing = there, lacks
                if not missing:
                    return seen, whole
        return seen, False

    def _can_arrive(self, session: Session, missing: set[str]) -> bool:
        """Waiting is of no use where all that is missing is of origins that do not exist or whose history has ended."""
        guards = {origin: self._nodes.guards.known(origin) for origin in missing}
        return any(g is not None and g.incarnation == session.writes[o][0] for o, g in guards.items())

    def _read_at(self, node: str, key: str, deadline: float, identity: str | None = None) -> _Seen | Refused | Failed:
        keys = [scripts.GUARD, scripts.ap_key(key), scripts.AP_STATE, scripts.PEERS, scripts.PARKED]
        args: list[Any] = []
        if identity is not None and home_of(identity) == node:
            keys, args = [*keys, scripts.session_key(identity)], [self._records.ttl_ms]
        result = self._ask(node, scripts.AP_READ, keys, args, deadline)
        if not isinstance(result, Answer):
            return result
        version, kind, value, now, sequence, peers, parked, prolonged, record = result.value
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
            bool(prolonged),
            record,
        )

    def _ask(
        self, node: str, script: scripts.Script, keys: list[str], args: Arguments, deadline: float, last: str = ""
    ) -> Result:
        """Ask with the guard believed; if it was another one that may serve too, believe that and ask once more."""
        result: Result = Failed("not_member", True)
        for _attempt in range(2):
            guard: Guard | None = self._nodes.guards.usable(node)
            if guard is None:
                return result
            # A node that does not answer gets half of what is left, so that there is time for the next one.
            now = time.monotonic()
            share = 1.0 if node == (last or self._order[-1]) else 0.5
            until = now + max(0.0, deadline - now) * share
            given = args(until) if callable(args) else args
            result = self._nodes.call(node, script, keys, [*guard.expectation(), *given], until)
            if not isinstance(result, Refused) or result.guard == guard:
                break
        return result

    def _none_left(self, reasons: list[str]) -> Unavailable | Fenced:
        withheld = self._nodes.guards.withheld() or ("fenced" if self._is_fenced() else None)
        if withheld:
            return Fenced(WITHHELD[withheld])
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


def _missing(session: Session, seen: _Seen) -> set[str]:
    return unmet(session, seen.node, seen.incarnation, seen.sequence, seen.peers, seen.parked)


def _why(result: Result) -> str:
    if isinstance(result, Refused):
        return f"guard {result.guard.state if result.guard else 'missing'}"
    return result.reason if isinstance(result, Failed) else "answered"


def require_found(answer: ApRead) -> ApRead:
    """Raises NotFound if there is no value; with how stale that is, and whether a session was honoured."""
    if not answer.found:
        missing = NotFound("there is no such key")
        missing.details = {"staleness_ms": answer.staleness_ms, "stale": answer.stale, "source": answer.source}
        if answer.read_your_writes is not None:
            missing.details["read_your_writes"] = answer.read_your_writes
        raise missing
    return answer

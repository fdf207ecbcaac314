"""Sessions kept on the nodes, for clients that show a cookie: where a record is, and what a write sends along for it.

A record lies on its home node, which is the node that executed the session's first write; so it is noted by the script
that writes, in the same step and without a round trip of its own. Only when a session comes to an instance that
writes on another node, its record is fetched and goes on there under a new id. A record that cannot be had is not
forgotten: the session goes on as one that lost something, and its reads say so for as long as a session lasts.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import scripts
from .hlc import ZERO
from .link import Answer
from .nodes import Result
from .scripts import Script
from .sessions import LOST, Session, from_record, home_of, to_record

#: Seconds a session is kept that was never shown again: clients without cookies cost no more than that.
FIRST_SEC = 60
#: Share of a request's remaining time that fetching a record from its home node may take.
FETCH_SHARE = 0.4

Ask = Callable[[str, Script, list[str], list[Any], float], Result]


@dataclass(frozen=True, slots=True)
class Shown:
    """The session of a write. ``identity`` None: none was shown, one is begun; ``strange``: it was not one of ours."""

    identity: str | None = None
    strange: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    session: Session
    prolonged: bool


@dataclass(frozen=True, slots=True)
class Keep:
    """What a write on one node needs: the id, its seconds, the session's clock, arguments for the script."""

    identity: str
    seconds: int
    hlc: str
    arguments: list[Any]


class Records:
    def __init__(self, ask: Ask, ttl_sec: int) -> None:
        self._ask = ask
        self.ttl_sec, self.ttl_ms = ttl_sec, ttl_sec * 1000

    def of(self, identity: str, node: str, flat: list[bytes], now_ms: int, deadline: float) -> Record | None:
        """The record; ``flat`` is what ``node`` had of it, which is asked for it only if it is not its home."""
        if home_of(identity) != node:
            return self.fetch(identity, deadline)
        session = from_record(flat, now_ms)
        return Record(session, False) if session is not None else None

    def fetch(self, identity: str, deadline: float) -> Record | None:
        """From the home node; None if there is none, or the node does not answer in its share of the time."""
        now = time.monotonic()
        until = now + max(0.0, deadline - now) * FETCH_SHARE
        keys = [scripts.GUARD, scripts.session_key(identity)]
        result = self._ask(home_of(identity), scripts.SESSION_READ, keys, [self.ttl_ms], until)
        if not isinstance(result, Answer):
            return None
        clock, prolonged, flat = result.value
        session = from_record(flat, int(clock))
        return Record(session, bool(prolonged)) if session is not None else None

    def keeping(self, shown: Shown) -> Keeping:
        return Keeping(self, shown)


class Keeping:
    """One write's session, at whichever node the write ends up."""

    def __init__(self, records: Records, shown: Shown) -> None:
        self._records, self._shown = records, shown
        self._carried: Session | None = LOST if shown.strange else Session() if shown.identity is None else None

    def at(self, node: str, deadline: float) -> Keep:
        records, identity = self._records, self._shown.identity
        if identity is not None and home_of(identity) == node:
            return Keep(identity, records.ttl_sec, ZERO, [records.ttl_ms, "kept"])
        if self._carried is None:
            found = records.fetch(identity, deadline) if identity is not None else None
            self._carried = found.session if found is not None else LOST
        seconds = FIRST_SEC if self._shown == Shown() else records.ttl_sec
        arguments = [seconds * 1000, "new", *to_record(self._carried)]
        return Keep(f"{node}~{secrets.token_urlsafe(16)}", seconds, self._carried.hlc, arguments)

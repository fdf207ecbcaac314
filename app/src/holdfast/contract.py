"""The contract between the algorithms and whatever stores registers (Redis in production, a simulator in tests)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

#: Kinds of a stored thing, one letter each on disk.
VALUE = "v"
TOMBSTONE = "d"


@dataclass(frozen=True, slots=True)
class Register:
    """One key's content on one node. ``value`` is None for tombstones, empty registers and tag-only queries."""

    tag: str
    kind: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Query:
    """Return the register, or (``want_value`` False) only a tag: the register's or the node's floor if that is larger.

    ``bare``: the register's tag without the floor. For those who compare contents; a writer must see the floor.
    """

    want_value: bool
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """Keep the larger tag of ``register`` and what is there; the same tag twice is a no-op.

    A node without the key refuses a tag at or below its floor (``Floored``), unless ``vouched`` is the batch it named
    then, no collection has touched it since, and none is running (registers.py says who may vouch).
    """

    register: Register
    vouched: str = ""


Request = Query | Store


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that counts: the node's guard matched in the same atomic step, and what it says is on its disk."""

    register: Register


@dataclass(frozen=True, slots=True)
class NotDone:
    """No answer that counts. ``certain``: the request was surely not executed and never will be."""

    reason: str
    certain: bool


@dataclass(frozen=True, slots=True)
class Floored(NotDone):
    """Refused: the node has no such key, and the tag is not above ``floor``, so the key may have been collected there.

    ``batch``: the node's last collection; empty while one is running.
    """

    floor: str = ""
    batch: str = ""


class Storage(Protocol):
    """What a majority register needs of its storage.

    ``send`` never blocks on the network and calls ``done`` exactly once, from any thread, at the latest shortly after
    ``deadline`` (seconds, monotonic).
    """

    def send(
        self, node: str, key: str, request: Request, deadline: float, done: Callable[[Reply | NotDone], None]
    ) -> None: ...

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
    """Return the register, or (``want_value`` False) only its tag."""

    want_value: bool


@dataclass(frozen=True, slots=True)
class Store:
    """Keep the larger tag of ``register`` and what is there; the same tag twice is a no-op."""

    register: Register


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


class Storage(Protocol):
    """What a majority register needs of its storage.

    ``send`` never blocks on the network and calls ``done`` exactly once, from any thread, at the latest shortly after
    ``deadline`` (seconds, monotonic).
    """

    def send(
        self, node: str, key: str, request: Request, deadline: float, done: Callable[[Reply | NotDone], None]
    ) -> None: ...

"""Reads the nodes of both regions for `holdfast region compare`: the old ones page by page, the others by key.

Nearly all is the same everywhere, so a node is told what is expected of a page's versions (their SHA-1) and gives its
own only where they differ. Memory is bounded: a page is a thousand keys without values, at most ``PAGES_AT_ONCE``
pages are under way, and values are read for lost writes only. A page locks an old node, which is closed, for some
milliseconds, and a serving one for about one. All of it is plain reading, so that it works whatever the guards are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b, sha1
from typing import Any, TypeVar

from . import scripts
from .contract import TOMBSTONE
from .link import Answer, Command, NodeLink, Outcome
from .region_compare import CONFLICT, MOOT, SAME, SUPERSEDED, UNDONE, Held, Judged, Plan, judge
from .scripts import Script
from .settings import Address, RedisAccess

T = TypeVar("T")

PAGE_KEYS = 1000
PAGES_AT_ONCE = 8
VALUES_AT_ONCE = 16
ANSWER_SEC = 10.0
ATTEMPTS, PAUSE_SEC = 3, 0.5
#: What a node answers whose versions are the expected ones.
ALIKE: list[bytes] = []


class Unread(Exception):
    """A node of the old region could not be read to its end."""

    def __init__(self, node: str, why: str) -> None:
        super().__init__(f"{node}: {why}")
        self.node, self.why = node, why


class ServingUnread(Unread):
    """A node of the serving region could not be read: nothing more can be said."""


class Call:
    """One read that is under way; repeated when it was not answered, as reading twice does no harm."""

    def __init__(self, link: NodeLink, failed: type[Unread], args: tuple[Any, ...], script: Script | None) -> None:
        self._link, self._failed, self._args, self._script = link, failed, args, script
        self._future = self._send()

    def _send(self) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        self._link.submit(Command(self._args, self._script, time.monotonic() + ANSWER_SEC, future.set_result))
        return future

    def result(self) -> Any:
        """Raises Unread."""
        outcome = self._future.result()
        for _attempt in range(1, ATTEMPTS):
            if isinstance(outcome, Answer):
                break
            time.sleep(PAUSE_SEC)
            self._future = self._send()
            outcome = self._future.result()
        if isinstance(outcome, Answer):
            return outcome.value
        raise self._failed(self._link.name, outcome.reason)


class Reads:
    """Links of their own to one region's nodes. A context manager."""

    def __init__(
        self, nodes: Mapping[str, Address], access: RedisAccess, timeout_sec: float, failed: type[Unread] = Unread
    ) -> None:
        self._failed = failed
        self._links = {n: NodeLink(n, address, access, timeout_sec) for n, address in nodes.items()}

    def __enter__(self) -> Reads:
        for link in self._links.values():
            link.start()
        return self

    def __exit__(self, *_why: object) -> None:
        for link in self._links.values():
            link.stop()

    def page(self, node: str, cursor: bytes) -> Call:
        return self._script(node, scripts.REGION_COMPARE_PAGE, (), (cursor, PAGE_KEYS))

    def some(self, node: str, keys: list[bytes], expected: str = "") -> Call:
        """Answers an empty list if the versions are those of which ``expected`` is the digest."""
        return self._script(node, scripts.REGION_COMPARE_SOME, tuple(keys), (expected,))

    def plain(self, node: str, *args: Any) -> Call:
        return Call(self._links[node], self._failed, args, None)

    def _script(self, node: str, script: Script, keys: tuple[bytes, ...], args: tuple[Any, ...]) -> Call:
        return Call(self._links[node], self._failed, ("EVALSHA", script.sha, len(keys), *keys, *args), script)


#: {node: key by key its version, kind and replaced versions, or ``ALIKE``}
Rows = dict[str, list[bytes]]


@dataclass(slots=True)
class Lost:
    """A write that did not survive. ``key`` is the one on the node, with the face's prefix."""

    key: bytes
    judged: Judged
    value: bytes

    @property
    def face(self) -> str:
        return self.key[:2].decode()


@dataclass(slots=True)
class _Page:
    """Keys of one old node, and what is asked of the others about them. ``flat``: key, version, kind, replaced, ..."""

    node: str
    keys: list[bytes]
    flat: list[bytes]
    own: dict[str, Call]
    peers: dict[str, Call]


class Comparison:
    """``lost`` yields what was found; afterwards ``unread`` says which old nodes were not read to their end."""

    def __init__(self, plan: Plan, own: Reads, peers: Reads, silent: int) -> None:
        self._plan, self._own, self._peers, self._silent = plan, own, peers, silent
        self.unread: dict[str, str] = dict(plan.unread)
        self.keys = 0
        self.counts = {verdict: {"cp": 0, "ap": 0} for verdict in (SUPERSEDED, MOOT)}
        self._listed: set[bytes] = set()

    def lost(self) -> Iterator[Lost]:
        """Raises ServingUnread."""
        before: list[str] = []
        for node in self._plan.read:
            try:
                yield from self._of(node, before)
            except ServingUnread:
                raise
            except Unread as why:
                self.unread[why.node] = why.why
            before.append(node)

    def _of(self, node: str, before: list[str]) -> Iterator[Lost]:
        for page in _ahead(self._asked(node, before)):
            yield from self._judged(page)

    def _asked(self, node: str, before: list[str]) -> Iterator[_Page]:
        for flat in self._new_on(node, before):
            keys, expected = flat[::4], _digest(flat)
            others = [n for n in self._plan.read if n not in before and n != node and n not in self.unread]
            own = {n: self._own.some(n, keys, expected) for n in others}
            yield _Page(node, keys, flat, own, {n: self._peers.some(n, keys, expected) for n in self._plan.voters})

    def _new_on(self, node: str, before: list[str]) -> Iterator[list[bytes]]:
        """Pages of what ``node`` has and none of ``before``, which were looked at already."""
        pages = filter(None, self._pages(node))
        if not before:
            yield from pages
            return
        asked = ((flat, {n: self._own.some(n, flat[::4], _digest(flat)) for n in before}) for flat in pages)
        for flat, calls in _ahead(asked):
            yield from self._without(flat, calls)

    def _without(self, flat: list[bytes], calls: dict[str, Call]) -> Iterator[list[bytes]]:
        kept = set(range(len(flat) // 4))
        for earlier, call in calls.items():
            rows = self._answer(earlier, call)
            if rows == ALIKE:
                return
            if rows is not None:
                kept -= {i for i, version in enumerate(rows[::3]) if version}
        if kept:
            yield [f for i in sorted(kept) for f in flat[4 * i : 4 * i + 4]]

    def _pages(self, node: str) -> Iterator[list[bytes]]:
        call: Call | None = self._own.page(node, b"0")
        while call is not None:
            cursor, flat = call.result()
            call = self._own.page(node, cursor) if cursor != b"0" else None
            yield flat

    def _answer(self, node: str, call: Call) -> list[bytes] | None:
        """None: that old node cannot be read any more; the others go on without it."""
        if node in self.unread:
            return None
        try:
            told: list[bytes] = call.result()
            return told
        except Unread as why:
            self.unread[node] = why.why
            return None

    def _judged(self, page: _Page) -> Iterator[Lost]:
        peers: Rows = {n: call.result() for n, call in page.peers.items()}
        told = {n: self._answer(n, call) for n, call in page.own.items()}
        own = {n: rows for n, rows in told.items() if rows is not None}
        self.keys += len(page.keys)
        if ALIKE in peers.values() and not any(own.values()):  # there, and nobody here has another
            return
        peers, own = self._in_full(page.keys, peers, own)
        versions = page.flat[1::4]
        same = set.union(*(_alike(versions, rows) for rows in peers.values()))
        for rows in own.values():  # a version that is there, and nobody here has another
            same &= _alike(versions, rows)
        found: list[tuple[bytes, Judged]] = []
        for i, key in enumerate(page.keys):
            if i in same:
                continue
            old = {page.node: _held(page.flat, 4 * i + 1), **_held_by(own, i)}
            judged = judge(key[:2].decode(), old, _held_by(peers, i), self._plan.serving, self._silent)
            if judged.lost:
                found.append((key, judged))
            elif judged.verdict != SAME:
                self.counts[judged.verdict][key[:2].decode()] += 1
        yield from self._with_values(found)

    def _in_full(self, keys: list[bytes], peers: Rows, own: Rows) -> tuple[Rows, Rows]:
        """With the rows of the nodes that said "as expected", too."""
        asked = {n: self._peers.some(n, keys) for n, rows in peers.items() if rows == ALIKE}
        again = {n: self._own.some(n, keys) for n, rows in own.items() if rows == ALIKE}
        peers = peers | {n: call.result() for n, call in asked.items()}
        told = own | {n: self._answer(n, call) for n, call in again.items()}
        return peers, {n: rows for n, rows in told.items() if rows is not None}

    def _with_values(self, found: list[tuple[bytes, Judged]]) -> Iterator[Lost]:
        for at in range(0, len(found), VALUES_AT_ONCE):
            part = [(k, j) for k, j in found[at : at + VALUES_AT_ONCE] if self._is_new(k)]
            calls = [self._own.plain(j.nodes[0], *_value(k)) for k, j in part]
            for (key, judged), call in zip(part, calls, strict=True):
                held = self._answer(judged.nodes[0], call)
                for other in judged.nodes[1:]:
                    if held is None:
                        held = self._answer(other, self._own.plain(other, *_value(key)))
                if held is None:
                    continue  # nobody is left that has it; ``unread`` says so
                if held[0] != judged.old.version.encode():
                    self.unread[judged.nodes[0]] = "it was written while it was read: fence this region first"
                    continue
                if self._is_there_again(key, judged, held[1]):
                    self.counts[MOOT][key[:2].decode()] += 1
                    continue
                yield Lost(key, judged, held[1] or b"")

    def _is_there_again(self, key: bytes, judged: Judged, value: bytes | None) -> bool:
        """The same value was written since: by a replay, or by the client itself."""
        there = judged.there
        if judged.verdict not in (CONFLICT, UNDONE) or there is None or TOMBSTONE in (there.kind, judged.old.kind):
            return False
        held = self._peers.plain(judged.there_node, *_value(key)).result()
        return bool(held == [there.version.encode(), value])

    def _is_new(self, key: bytes) -> bool:
        """SCAN may show a key twice."""
        digest = blake2b(key, digest_size=16).digest()
        if digest in self._listed:
            return False
        self._listed.add(digest)
        return True


def _ahead(started: Iterable[T]) -> Iterator[T]:
    """``started`` as it comes, with ``PAGES_AT_ONCE`` of it under way."""
    under_way: deque[T] = deque()
    for one in started:
        under_way.append(one)
        if len(under_way) >= PAGES_AT_ONCE:
            yield under_way.popleft()
    yield from under_way


def _digest(flat: list[bytes]) -> str:
    """Of a page's versions, as region_compare_some.lua makes it."""
    return sha1(b"\n".join(flat[1::4]), usedforsecurity=False).hexdigest()


def _alike(versions: list[bytes], rows: list[bytes]) -> set[int]:
    return {i for i, (a, b) in enumerate(zip(versions, rows[::3], strict=True)) if a == b}


def _value(key: bytes) -> tuple[Any, ...]:
    return ("HMGET", key, "t" if key.startswith(b"cp:") else "ver", "v")


def _held(flat: list[bytes], at: int) -> Held:
    return Held(flat[at].decode(), flat[at + 1].decode(), flat[at + 2].decode())


def _held_by(rows: dict[str, list[bytes]], index: int) -> dict[str, Held]:
    return {n: _held(flat, 3 * index) for n, flat in rows.items() if flat[3 * index]}

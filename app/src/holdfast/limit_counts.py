"""Request counts of the rate limits: in memory, and region-wide by way of the nodes.

``add`` only touches memory: it never waits for a node. A thread sends what was counted to the nodes in the background,
at once for the first request after a pause and then at most every ``SYNC_SEC``, and brings back what the other
processes have counted. One counter lives on one node, chosen by rendezvous hashing over the nodes that can be used, so
all processes of a region meet at the same node without talking to each other. Without any node the local count goes on.

On the node a counter is a hash with one field for each process: that process's own count of the window, which only
grows. The total is the sum. So sending again after a lost answer counts nothing twice, a restarted process finds what
it had counted before, and after the loss of a node the living processes bring their own counts to the next one (what
processes that are gone had counted there is forgotten). A counter that was dropped for want of room and begins again
does so in a new field, as if by a new process: what was counted before comes back from the node as another's count.
Room is made at the cost of addresses only: a counter of a token is never dropped, and always shared.

Overshoot: a process accepts a client until it knows that the limit is used up. With an offered rate r per process,
a client gets at most limit + r * processes * (SYNC_SEC + answer time of the node) in a window; without any node at
most limit * processes. Windows are fixed; their start is derived from the wall clock and the counter's name, so that
processes agree on it without asking and not all clients start anew in the same second. How long one lasts is measured
with the monotonic clock, so a wall clock that steps back makes none longer; the window it would repeat gets a name of
its own on the node.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from limits.storage import Storage

from . import scripts
from .link import Answer
from .logs import LOG, event
from .nodes import Nodes, Result

SYNC_SEC = 0.15
#: A node that refused or did not answer is not asked again for so long: its breaker must not open because of counts.
AVOID_SEC = 5.0
#: Counters in one script call, and how long a counter outlives its window on the node (clocks differ a little).
BATCH, LINGER_MS = 100, 10_000
#: Most counters a process keeps, and of these most that it shares: an attacker with many addresses fills no node.
MAX_KEPT, MAX_SHARED = 100_000, 10_000
SWEEP_SEC = 30.0
#: How the names of counters begin that are a client's address; ``limits`` names them.
ADDRESS = "LIMITER/address:"


@dataclass(slots=True)
class Count:
    """One counter in its present window. ``mine`` is what this process counted in ``field``, ``others`` all the rest.

    ``until``: the window's end, monotonic. ``again``: how often the wall clock had this window begin before its time.
    """

    name: str
    key: str
    offset: float
    length: int
    window: int
    field: str
    until: float
    again: int = 0
    mine: int = 0
    others: int = 0
    shared: bool = True

    def over(self, now: float) -> bool:
        """By either clock; a wall clock ahead would otherwise keep this process from the others' next window."""
        return now >= self.until or time.time() >= (self.window + 1) * self.length - self.offset

    @property
    def at_node(self) -> str:
        return f"{self.key}:{self.window}" + (f".{self.again}" if self.again else "")


def choose(key: str, nodes: list[str]) -> str | None:
    """Rendezvous hashing: the same node for the same key and nodes everywhere; without one node only its keys move."""
    return max(nodes, key=lambda n: hashlib.sha256(f"{n}\0{key}".encode()).digest(), default=None)


class LimitCounts:
    """``secret`` keys the names on the nodes: no client address can be read back from them. Thread-safe."""

    def __init__(self, nodes: Nodes, face: str, secret: bytes, timeout_sec: float) -> None:
        self._nodes, self._face, self._secret, self._timeout = nodes, face, secret, timeout_sec
        self._process = secrets.token_hex(6)
        self._counts: dict[str, Count] = {}
        #: Names of addresses' counters, oldest first; and how many were dropped to make room.
        self._addresses: dict[str, None] = {}
        self._evicted = 0
        self._shared_kept = 0
        self._dirty: dict[str, Count] = {}
        self._avoid: dict[str, float] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._shared = True
        self._swept = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="limits", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    @property
    def shared(self) -> bool:
        """Are the limits region-wide now, as far as the last exchange says?"""
        return self._shared

    def add(self, name: str, length: int, amount: int = 1) -> int:
        """Count ``amount`` under ``name`` in its window of ``length`` seconds; the total known now. Never blocks."""
        now = time.monotonic()
        with self._lock:
            count = self._counts.get(name)
            if count is None or count.over(now):
                count = self._begin(name, length, now)
            count.mine += amount
            if count.shared:
                self._dirty[name] = count
            total = count.mine + count.others
        if count.shared and not self._wake.is_set():
            self._wake.set()
        return total

    def get(self, name: str) -> int:
        with self._lock:
            count = self._counts.get(name)
            return count.mine + count.others if count is not None and not count.over(time.monotonic()) else 0

    def ends(self, name: str) -> float:
        """Wall clock, as it is now, at which the counter starts anew; now if there is none."""
        with self._lock:
            count = self._counts.get(name)
            return time.time() + (max(0.0, count.until - time.monotonic()) if count is not None else 0.0)

    def forget(self, name: str | None = None) -> int:
        """Drop one counter or all of them in this process; the nodes keep theirs. Returns how many."""
        with self._lock:
            names = list(self._counts) if name is None else [n for n in (name,) if n in self._counts]
            for gone in names:
                self._drop(gone)
            return len(names)

    def sync(self) -> bool:
        """One exchange with the nodes. True if every counter that had changed was shared."""
        with self._lock:
            dirty, self._dirty = self._dirty, {}
        usable = self._usable()
        by_node: dict[str, list[Count]] = {}
        for count in dirty.values():
            node = choose(count.key, usable)
            if node is not None:
                by_node.setdefault(node, []).append(count)
        done = not dirty or bool(by_node)
        deadline = time.monotonic() + self._timeout
        answers: queue.SimpleQueue[tuple[str, list[Count], Result]] = queue.SimpleQueue()
        sent = 0
        for node, counts in by_node.items():
            for first in range(0, len(counts), BATCH):
                sent += self._send(node, counts[first : first + BATCH], deadline, answers.put)
        for _ in range(sent):
            try:
                node, counts, result = answers.get(timeout=max(0.001, deadline + 0.5 - time.monotonic()))
            except queue.Empty:
                done = False
                break
            if isinstance(result, Answer):
                self._learn(counts, [int(others) for others in result.value])
            else:
                done = False
                self._avoid[node] = time.monotonic() + AVOID_SEC
                with self._lock:  # to be sent again, to another node; a newer window under that name goes first
                    self._dirty = {c.name: c for c in counts if self._counts.get(c.name) is c} | self._dirty
                self._wake.set()
        if not dirty and not usable:
            done = False
        return done

    def _send(
        self, node: str, counts: list[Count], deadline: float, put: Callable[[tuple[str, list[Count], Result]], None]
    ) -> int:
        guard = self._nodes.guards.usable(node)
        if guard is None:
            return 0
        now = time.monotonic()
        arguments: list[str] = [*guard.expectation()]
        for count in counts:
            left = max(0, int((count.until - now) * 1000))
            arguments += [count.field, str(count.mine), str(left + LINGER_MS)]
        keys = [scripts.GUARD, *(scripts.limit_key(c.at_node) for c in counts)]
        self._nodes.send(
            node, scripts.LIMIT_COUNT, keys, arguments, deadline, lambda result: put((node, counts, result))
        )
        return 1

    def _learn(self, counts: list[Count], others: list[int]) -> None:
        with self._lock:
            for count, known in zip(counts, others, strict=True):
                # Within a window counts only grow: what a lost node knew is kept here.
                count.others = max(count.others, known)

    def _usable(self) -> list[str]:
        now = time.monotonic()
        return [
            n
            for n in self._nodes.names
            if self._avoid.get(n, 0.0) <= now and self._nodes.guards.usable(n) and self._nodes.answering(n)
        ]

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(1.0)
            self._wake.clear()
            try:
                self._tell(self.sync())
            except Exception as problem:  # the thread must live on: without it the limits are per process for ever
                LOG.error("LIMITER_ERROR", exc_info=problem)
            if time.monotonic() - self._swept > SWEEP_SEC:
                self._sweep()
            self._stop.wait(SYNC_SEC)

    def _tell(self, shared: bool) -> None:
        if shared != self._shared:
            self._shared = shared
            if shared:
                event(LOG, logging.INFO, "LIMITER_SHARED")
            else:
                event(LOG, logging.WARNING, "LIMITER_LOCAL", cure="no usable node: each process counts for itself")

    def _begin(self, name: str, length: int, now: float) -> Count:
        held, address = self._counts.get(name), name.startswith(ADDRESS)
        if held is not None:
            self._drop(name)
            key, offset = held.key, held.offset
        else:
            digest = hmac.digest(self._secret, f"{self._face} {name}".encode(), "sha256")
            key, offset = digest.hex()[:32], int.from_bytes(digest[16:20], "big") % (length * 1000) / 1000
            if len(self._counts) >= MAX_KEPT and self._addresses:
                self._drop(next(iter(self._addresses)))
                self._evicted += 1
        window, into = divmod(time.time() + offset, length)
        count = Count(
            name,
            key,
            offset,
            length,
            int(window),
            f"{self._process}.{self._evicted}" if self._evicted else self._process,
            now + length - into,
            held.again + 1 if held is not None and window <= held.window else 0,
            shared=not address or self._shared_kept < MAX_SHARED,
        )
        self._counts[name] = count
        if address:
            self._addresses[name] = None
        self._shared_kept += count.shared
        return count

    def _drop(self, name: str) -> None:
        count = self._counts.pop(name)
        self._addresses.pop(name, None)
        self._dirty.pop(name, None)
        self._shared_kept -= count.shared

    def _sweep(self) -> None:
        """What is over goes, once the nodes have forgotten it too: until then its name must not be used again."""
        now = self._swept = time.monotonic()
        with self._lock:
            for name in [n for n, c in self._counts.items() if now >= c.until + LINGER_MS / 1000]:
                self._drop(name)


class CountsStorage(Storage):
    """The backend of the library `limits` behind Flask-Limiter: ``storage_uri="holdfast://"``, option ``counts``."""

    STORAGE_SCHEME = ["holdfast"]  # noqa: RUF012  as the library declares it

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, *, counts: LimitCounts) -> None:
        super().__init__(uri, wrap_exceptions)
        self._counts = counts

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self._counts.add(key, expiry, amount)

    def get(self, key: str) -> int:
        return self._counts.get(key)

    def get_expiry(self, key: str) -> float:
        return self._counts.ends(key)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        return self._counts.forget()

    def clear(self, key: str) -> None:
        self._counts.forget(key)

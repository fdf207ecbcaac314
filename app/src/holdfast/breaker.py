"""A circuit breaker for one node: pure state, the clock is an argument (seconds, monotonic).

CLOSED lets calls through and counts all of them in a sliding window. It opens when at least ``threshold`` calls
*and* at least half of all calls in the last ``window_sec`` failed (a count of consecutive failures would never trip
on a node that fails every second call). OPEN lets nothing through; the owner's probe, not traffic, tries one call
after ``probe_sec`` (HALF_OPEN); its success closes the breaker, its failure opens it again.
An operator can force it OPEN (no call is sent, no trial either) or CLOSED (calls are let through although they fail)
until a moment. What it would be of its own accord goes on underneath and holds again afterwards.
The lock is held for state changes only, never during a call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class State(IntEnum):
    """The values of the metric circuit_breaker_state."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Status:
    """What GET /circuit-breaker shows. Times are of the clock handed in."""

    state: State
    since: float
    last_failure: str | None
    next_probe: float | None
    calls: int
    failures: int
    forced: bool = False


class Breaker:
    def __init__(
        self,
        threshold: int,
        window_sec: float,
        probe_sec: float,
        now: float,
        on_change: Callable[[State, State, str | None], None] = lambda _old, _new, _why: None,
    ) -> None:
        self._threshold = threshold
        self._window = window_sec
        self._probe = probe_sec
        self._on_change = on_change
        self._lock = threading.Lock()
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._state = State.CLOSED
        self._since = now
        self._next_probe: float | None = None
        self._last_failure: str | None = None
        self._forced: State | None = None
        self._forced_since = self._forced_until = now

    @property
    def state(self) -> State:
        """The forced state while there is one, otherwise its own."""
        forced = self._forced
        return self._state if forced is None else forced

    def allows(self) -> bool:
        """May an ordinary call go to this node now?"""
        return self.state is State.CLOSED

    def force(self, state: State, now: float, until: float) -> None:
        """OPEN or CLOSED until ``until``; again: the newer one holds. ``expire`` must be called to end it."""
        if state is State.HALF_OPEN:
            raise ValueError("a breaker is forced OPEN or CLOSED")
        with self._lock:
            if self._forced is not state:
                self._forced_since = now
            self._forced, self._forced_until = state, until

    def release(self, now: float) -> None:
        """Back to its own state, at once. Nothing was sent while it was forced open, so a trial is due at once."""
        with self._lock:
            if self._forced is State.OPEN and self._state is State.OPEN:
                self._next_probe = now
            self._forced = None

    def expire(self, now: float) -> None:
        """Release it if its time is over."""
        if self._forced is not None and now >= self._forced_until:
            self.release(now)

    def record(self, ok: bool, now: float, reason: str | None = None) -> None:
        """The outcome of an ordinary call that was sent while CLOSED.

        ``ok`` with a ``reason``: the node is well but refused this one call, which says nothing against the next.
        """
        with self._lock:
            if reason is not None:
                self._last_failure = reason
            if self._state is not State.CLOSED:
                return
            self._calls.append((now, ok))
            self._failures += not ok
            self._forget(now)
            if ok or self._failures < self._threshold or self._failures * 2 < len(self._calls):
                return
            change = self._move(State.OPEN, now)
        self._on_change(*change)

    def take_trial(self, now: float) -> bool:
        """True once per probe interval while OPEN: the caller must now make the trial call and report it."""
        with self._lock:
            if self._forced is State.OPEN or self._state is not State.OPEN:
                return False
            if self._next_probe is None or now < self._next_probe:
                return False
            change = self._move(State.HALF_OPEN, now)
        self._on_change(*change)
        return True

    def record_trial(self, ok: bool, now: float, reason: str | None = None) -> None:
        """The outcome of the trial call."""
        with self._lock:
            if not ok:
                self._last_failure = reason
            if self._state is not State.HALF_OPEN:
                return
            change = self._move(State.CLOSED if ok else State.OPEN, now)
        self._on_change(*change)

    def status(self, now: float) -> Status:
        with self._lock:
            self._forget(now)
            forced = self._forced
            return Status(
                self._state if forced is None else forced,
                self._since if forced is None else self._forced_since,
                self._last_failure,
                None if forced is State.OPEN else self._next_probe,
                len(self._calls),
                self._failures,
                forced is not None,
            )

    def _forget(self, now: float) -> None:
        while self._calls and self._calls[0][0] <= now - self._window:
            _, ok = self._calls.popleft()
            self._failures -= not ok

    def _move(self, new: State, now: float) -> tuple[State, State, str | None]:
        old, self._state = self._state, new
        self._since = now
        self._next_probe = now + self._probe if new is State.OPEN else None
        if new is State.CLOSED:
            self._calls.clear()
            self._failures = 0
        return old, new, self._last_failure

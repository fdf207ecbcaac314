"""The breakers of all workers of an instance: shown together, and forced open or closed for a limited time.

A forced state is written to the board; every worker's monitor takes it from there within a tenth of a second, a worker
that is started later at its start. It ends by itself, on time also in a worker that cannot read the board.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .board import Board, Force
from .breaker import State
from .errors import BadRequest, NotFound
from .logs import LOG, event
from .nodes import Nodes

PUBLISH_SEC = 1.0
MAX_SECONDS = 3600
AUTO = "AUTO"
STATES = (State.OPEN.name, State.CLOSED.name, AUTO)


def parse(body: Any) -> tuple[str, int]:
    """(state, seconds) of a request's JSON; seconds is 0 for AUTO. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest('send a JSON object such as {"state": "OPEN", "seconds": 300}')
    unknown = sorted(set(map(str, body)) - {"state", "seconds"})
    if unknown:
        raise BadRequest(f"unknown field {unknown[0][:40]!r}; known are state and seconds")
    state, seconds = body.get("state"), body.get("seconds")
    if state not in STATES:
        raise BadRequest(f"state must be one of {', '.join(STATES)}")
    if state == AUTO:
        return AUTO, 0
    if type(seconds) is not int or not 1 <= seconds <= MAX_SECONDS:
        raise BadRequest(f"seconds must be a whole number from 1 to {MAX_SECONDS}")
    return state, seconds


class BreakerAdmin:
    """``audit``: event name, fields. ``tick`` is for the monitor; it never raises."""

    def __init__(self, nodes: Nodes, board: Board, audit: Callable[..., None]) -> None:
        self._nodes, self._board, self._audit = nodes, board, audit
        self._mark: tuple[int, int] | None = None
        self._published_at = float("-inf")
        self._published: tuple[Any, ...] = ()
        self._failed = False

    def force(self, node: str, state: str, seconds: int, actor: str, client: str) -> dict[str, Any]:
        """Force ``node``'s breaker in all workers for ``seconds``; AUTO ends that. The node's view; or NotFound."""
        if node not in self._nodes.breakers:
            raise NotFound(f"no such node; there are {', '.join(self._nodes.names)}")
        who = {"node": node, "actor": actor, "client": client}
        if state == AUTO:
            before = self._board.force(node, None)
            if before is not None:
                self._audit("BREAKER_RELEASED", **who, state=before.state, why="released")
        else:
            self._board.force(node, Force(state, time.time() + seconds, actor))
            self._audit("BREAKER_FORCED", **who, state=state, seconds=seconds)
        self._apply(time.monotonic())
        self._publish(time.monotonic())
        return self.view()[node]

    def tick(self, now: float) -> None:
        """Follow the board, and show this worker's breakers there: on change, and each second."""
        try:
            if self._board.changed() != self._mark:
                self._apply(now)
            shown = tuple((b.state, b.status(now).forced) for b in self._nodes.breakers.values())
            if shown != self._published or now - self._published_at >= PUBLISH_SEC:
                for node, ended in self._board.drop_expired().items():
                    self._audit("BREAKER_RELEASED", node=node, actor=ended.actor, state=ended.state, why="time is over")
                self._publish(now)
            self._failed = False
        except Exception as problem:
            # The monitor must live on: without it no breaker would ever close again.
            if not self._failed:
                LOG.error("BREAKER_BOARD_ERROR", exc_info=problem)
            self._failed = True

    def view(self) -> dict[str, dict[str, Any]]:
        """Per node: its worst state over all workers with that worker's details, what is forced, and all workers."""
        forced = self._board.forced()
        views = [v for v in self._board.workers() if v["pid"] != os.getpid()] + [self._own(time.monotonic())]
        shown: dict[str, dict[str, Any]] = {}
        for node in self._nodes.names:
            workers = [{"pid": v["pid"], **v["nodes"][node]} for v in views if node in v["nodes"]]
            worst = max(workers, key=lambda w: State[w["state"]])
            force = forced.get(node)
            shown[node] = {
                **{k: v for k, v in worst.items() if k != "pid"},
                "guard": self._nodes.guard_state(node),
                "forced": None if force is None else {"state": force.state, "until": _iso(force.until)},
                "workers": sorted(workers, key=lambda w: w["pid"]),
            }
        return shown

    def _apply(self, now: float) -> None:
        self._mark = self._board.changed()
        forced = self._board.forced()
        for node, breaker in self._nodes.breakers.items():
            before, force = breaker.state, forced.get(node)
            if force is not None:
                breaker.force(State[force.state], now, now + force.until - time.time())
            elif breaker.status(now).forced:
                breaker.release(now)
            if breaker.state is not before:
                fields = {"node": node, "old": before.name, "new": breaker.state.name, "forced": force is not None}
                event(LOG, logging.WARNING, "BREAKER_CHANGE", **fields)

    def _publish(self, now: float) -> None:
        self._published = tuple((b.state, b.status(now).forced) for b in self._nodes.breakers.values())
        self._published_at = now
        self._board.publish(self._own(now))

    def _own(self, now: float) -> dict[str, Any]:
        wall = time.time()

        def stamp(at: float | None) -> str | None:
            return None if at is None else _iso(wall - (now - at))

        nodes = {}
        for name, breaker in self._nodes.breakers.items():
            status = breaker.status(now)
            nodes[name] = {
                "state": status.state.name,
                "last_failure": status.last_failure,
                "since": stamp(status.since),
                "next_probe": stamp(status.next_probe),
                "window": {"calls": status.calls, "failures": status.failures},
            }
        return {"pid": os.getpid(), "nodes": nodes}


def _iso(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")

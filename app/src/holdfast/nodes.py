"""All nodes of a region as one process sees them: links, breakers, guards, and the monitor that keeps both current."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import scripts
from .breaker import Breaker, State
from .guard import VOTING, Guard, GuardBook, replica_of_another
from .link import Answer, Failed, NodeLink, script_command
from .logs import LOG, event
from .scripts import Script
from .settings import Settings

CHECK_SEC = 1.0
TICK_SEC = 0.1
#: How a replica refuses: its link is up, or down.
_REPLICA = ("readonly", "masterdown")


@dataclass(frozen=True, slots=True)
class Refused:
    """The node's guard is not what the caller believed; ``guard`` is what it is (None: there is none)."""

    guard: Guard | None


#: What a guarded script ends in: its reply without the leading OK, a refusal, or no reply.
Result = Answer | Refused | Failed


def interpret(outcome: Answer | Failed) -> Result:
    """A script's raw reply as a Result."""
    if isinstance(outcome, Failed):
        return outcome
    head = outcome.value[0]
    if head == b"OK":
        return Answer(outcome.value[1:])
    if head == b"GUARD":
        return Refused(Guard.from_fields(outcome.value[1:]))
    if head == b"LATE":
        return Failed("late", True)
    return outcome


class Nodes:
    """``notify(event name, fields)`` receives what belongs in the audit log (breaker and guard changes)."""

    def __init__(
        self,
        settings: Settings,
        notify: Callable[[str, dict[str, Any]], None] = lambda _name, _fields: None,
        on_connect: Callable[[str, bool], None] = lambda _node, _ok: None,
    ) -> None:
        self._settings = settings
        self._notify = notify
        self._connect_metric = on_connect
        self.names = settings.node_names
        self.guards = GuardBook(settings.region, self.names)
        now = time.monotonic()
        self.breakers: dict[str, Breaker] = {}
        self._links: dict[str, NodeLink] = {}
        for name, address in settings.nodes.items():
            self.breakers[name] = Breaker(
                settings.breaker_threshold,
                settings.breaker_window_sec,
                settings.breaker_probe_sec,
                now,
                self._breaker_changed(name),
            )
            self._links[name] = NodeLink(
                name, address, settings.redis, settings.network_timeout_sec, self._connect_noted(name)
            )
        self._checked: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        #: With another region: the connection on which the node was last seen to be confirmed (see
        #: ``_note_confirmed``).
        self._confirmed: dict[str, int] = {}
        self._silent: set[str] = set()
        self._stop = threading.Event()
        self._monitor = threading.Thread(target=self._watch, name="monitor", daemon=True)
        #: Called by the monitor at each tick with the monotonic time; must not block and must not raise.
        self.on_tick: Callable[[float], None] = lambda _now: None

    def start(self) -> None:
        """Start links and monitor, and wait (at most one network timeout) for the first look at every node."""
        for link in self._links.values():
            link.start()
        asked = [name for name in self.names if self.breakers[name].allows()]
        for name in asked:
            self._check(name, trial=False)
        deadline = time.monotonic() + self._settings.network_timeout_sec
        while len(self._checked) < len(asked) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._monitor.start()

    def stop(self) -> None:
        self._stop.set()
        for link in self._links.values():
            link.stop()

    def send(
        self,
        node: str,
        script: Script,
        keys: list[str],
        args: list[Any],
        deadline: float,
        done: Callable[[Result], None],
    ) -> None:
        """Ask one node. Never blocks; ``done`` is called once, at once if the node's breaker is not closed."""
        breaker = self.breakers[node]
        if not breaker.allows():
            done(Failed("breaker_open", True))
            return
        link = self._links[node]
        generation = link.generation if self._settings.peers else None
        if generation is not None and self._confirmed.get(node) != generation:
            done(Failed("unconfirmed", True))
            return

        def finish(outcome: Answer | Failed) -> None:
            reason = outcome.reason if isinstance(outcome, Failed) else None
            # A node without room for a write still answers reads, which its breaker must not keep away.
            breaker.record(reason in (None, "oom", "reconnected", *_REPLICA), time.monotonic(), reason)
            result = interpret(outcome)
            if reason in _REPLICA:
                self.learn(node, replica_of_another(node))
            if isinstance(result, Refused):
                self.learn(node, result.guard)
            done(result)

        command = script_command(script, keys, args, deadline, finish)
        command.generation = generation
        link.submit(command)

    def call(self, node: str, script: Script, keys: list[str], args: list[Any], deadline: float) -> Result:
        """Ask one node and wait until ``deadline`` (seconds, monotonic)."""
        box: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self.send(node, script, keys, args, deadline, box.put)
        try:
            return box.get(timeout=max(0.001, deadline - time.monotonic()))
        except queue.Empty:
            return Failed("timeout", False)

    def refresh(self, seconds: float) -> None:
        """Look at the guard of every node whose breaker is closed; wait for all of them, at most ``seconds``."""
        asked = [name for name in self.names if self.breakers[name].allows()]
        seen: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in asked:
            self._check(name, trial=False, then=seen.put)
        until = time.monotonic() + seconds
        for _name in asked:
            try:
                seen.get(timeout=max(0.001, until - time.monotonic()))
            except queue.Empty:
                return

    def learn(self, node: str, guard: Guard | None) -> None:
        if self.guards.learn(node, guard):
            state = guard.state if guard is not None else "none"
            level = logging.INFO if self.guards.is_ours(node, guard) else logging.WARNING
            event(
                LOG,
                level,
                "GUARD_SEEN",
                node=node,
                guard=state,
                region_epoch=guard.region_epoch if guard else None,
                membership_epoch=guard.membership_epoch if guard else None,
            )
            if guard is not None and guard.node != node:
                event(
                    LOG,
                    logging.ERROR,
                    "NODE_MISMATCH",
                    node=node,
                    guard_of=guard.node,
                    cure="NODES points two names at one server, or at the wrong one",
                )

    def checked_age(self, node: str) -> float:
        """Seconds since the node last answered the monitor; infinite if it never did."""
        return time.monotonic() - self._checked.get(node, float("-inf"))

    def answering(self, node: str) -> bool:
        """Did the node answer the monitor's last look, lately, and does its breaker let calls through?"""
        fresh = 2 * CHECK_SEC + self._settings.network_timeout_sec
        return self.breakers[node].allows() and node not in self._silent and self.checked_age(node) < fresh

    def guard_state(self, node: str) -> str:
        """member, promoted, recovering, fenced, replica, unconfirmed, none, foreign (another node's or region's), or
        unknown (never seen)."""
        if node not in self._checked:
            return "unknown"
        guard = self.guards.known(node)
        if guard is None:
            return "none"
        if guard.state not in VOTING or self.guards.is_ours(node, guard):
            return guard.state
        ours = guard.region == self._settings.region and guard.node == node
        return "unconfirmed" if ours else "foreign"

    def _watch(self) -> None:
        """Each second look at each node's guard; while its breaker is open, make its one trial call when due."""
        while not self._stop.wait(TICK_SEC):
            now = time.monotonic()
            self.on_tick(now)
            for name, breaker in self.breakers.items():
                breaker.expire(now)
                if breaker.take_trial(now):
                    self._check(name, trial=True)
                elif breaker.state is State.CLOSED and now - self._asked.get(name, 0) >= CHECK_SEC:
                    self._check(name, trial=False)

    def _check(self, name: str, trial: bool, then: Callable[[str], None] = lambda _name: None) -> None:
        now = time.monotonic()
        # A little jitter, so that many processes do not look at a node in step.
        self._asked[name] = now + random.uniform(-0.1, 0.1) * CHECK_SEC  # noqa: S311
        breaker = self.breakers[name]
        record = breaker.record_trial if trial else breaker.record

        def finish(outcome: Answer | Failed) -> None:
            done = time.monotonic()
            if isinstance(outcome, Failed) and outcome.reason not in _REPLICA:
                self._silent.add(name)
                record(False, done, outcome.reason)
            else:
                self._silent.discard(name)
                self._checked[name] = done
                if isinstance(outcome, Failed):  # an answer too: when it is promoted, that is seen at the next look
                    self.learn(name, replica_of_another(name))
                else:
                    self._note_confirmed(name, outcome.value[7], outcome.value[8])
                    self.learn(name, Guard.from_fields(outcome.value[1:7]))
                record(True, done, None)
            then(name)

        self._links[name].submit(
            script_command(scripts.GUARD_READ, [scripts.GUARD], [], now + self._settings.network_timeout_sec, finish)
        )

    def _note_confirmed(self, node: str, run_id: bytes, confirmed: bytes) -> None:
        """Where there is another region, a node that was started counts only once its present process was confirmed.

        No connection outlives a process, so what was seen holds for this connection, and ``send`` uses no other. Called
        on the link's own thread. A guard of before there was another region was never confirmed, and counts as it did.
        """
        if not self._settings.peers:
            return
        counts = confirmed in (run_id, b"")
        if counts:
            self._confirmed[node] = self._links[node].generation
        else:
            self._confirmed.pop(node, None)
        if self.guards.hold_back(node, not counts):
            event(LOG, logging.INFO if counts else logging.WARNING, "GUARD_CONFIRMED", node=node, confirmed=counts)

    def _breaker_changed(self, node: str) -> Callable[[State, State, str | None], None]:
        def changed(old: State, new: State, why: str | None) -> None:
            fields = {"node": node, "old": old.name, "new": new.name, "last_failure": why}
            event(LOG, logging.WARNING if new is State.OPEN else logging.INFO, "BREAKER_CHANGE", **fields)
            self._notify("BREAKER_CHANGE", fields)

        return changed

    def _connect_noted(self, node: str) -> Callable[[str | None], None]:
        def noted(failure: str | None) -> None:
            self._connect_metric(node, failure is None)
            if failure is None:
                event(LOG, logging.INFO, "DB_CONNECTED", node=node)
                if self._settings.peers and self.breakers[node].allows():
                    self._check(node, trial=False)  # nothing else is sent on this connection before
            else:
                event(LOG, logging.WARNING, "DB_CONNECT_FAILURE", node=node, problem=failure[:300])

        return noted

"""The command `holdfast region`: shows both regions, and fences, promotes, adopts, settles, confirms this one.

One JSON object on standard output; standard error says in words what was refused or is left to do, and holds the audit
lines. Every command may be run again, also after a kill. Exit codes: ``Exit``.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from .audit import Audit
from .errors import SettingsError
from .guard import FENCED, MEMBER, PROMOTED, VOTING, Guard
from .region import (
    RegionRefused,
    Status,
    Statuses,
    check_above,
    left_below,
    serving_epoch,
    superseded_by,
    to_unfence,
    with_last_heartbeat,
)
from .region_adopt import PutBack, adopt_plan
from .region_fencing import await_copies, fence_region
from .region_nodes import RegionNodes
from .region_promotion import Promotion, giving_up, marked_guard, promote_plan
from .region_settle import TELL_SEC, settle_region
from .region_watch import FOREIGN_METRIC, HEARTBEAT_METRIC, UNCHANGED_METRIC
from .repair_plan import Stopped
from .settings import BootstrapSettings

#: The whole time of one look at both regions, at least.
LOOK_SEC = 2.0
#: Nothing is let serve by what was seen longer ago than that, by the node's own clock: this command may be suspended.
MOVE_WITHIN_MS = 10_000
CURE = (
    "the log of a node named above says why (a full disk ends Redis): mend it and run this again; "
    f"one that is gone for good is given up with {giving_up('<node>')}"
)


class Exit(IntEnum):
    OK = 0
    USAGE = 2
    INCOMPLETE = 3
    REFUSED = 6


class RegionCommand:
    """``port``: of the instance in the same container, which may run."""

    def __init__(self, settings: BootstrapSettings, audit: Audit, port: int) -> None:
        self._port = port
        self._settings, self._audit, self._region = settings, audit, settings.region
        timeout = max(LOOK_SEC, settings.network_timeout_sec)
        self._own = RegionNodes(settings.nodes, settings.redis, timeout)
        self._peers = RegionNodes(settings.peers, settings.redis, timeout)

    def run(self, arguments: Namespace) -> int:
        unknown = [n for n in getattr(arguments, "without", ()) if n not in self._settings.nodes]
        if unknown:
            raise SettingsError(f"--without {unknown[0]}: NODES names {', '.join(self._settings.nodes)}")
        self._own.start()
        self._peers.start()
        try:
            return getattr(self, f"_{arguments.action}")(arguments)  # type: ignore[no-any-return]
        except RegionRefused as why:
            return self._end(Exit.REFUSED, {}, f"{why}; nothing was changed")
        except Stopped as why:
            return self._end(Exit.INCOMPLETE, {"code": why.code.name.lower()}, str(why))
        finally:
            self._own.stop()
            self._peers.stop()

    def _look(self) -> tuple[dict[str, Status], dict[str, Status]]:
        own, peers = self._own.ask(), self._peers.ask()
        return own.wait(), peers.wait()

    def _status(self, _arguments: Namespace) -> int:
        """``epoch``: the highest that any node shows, be it a fence's; ``serving_epoch``: that of our voters."""
        own, peers = self._look()
        epochs = [s.guard.region_epoch for s in (*own.values(), *peers.values()) if s.guard is not None]
        if peers:
            seen, unchanged, foreign = remembered(self._port)
            epochs.append(foreign)
            own = {n: with_last_heartbeat(s, seen.get(n), unchanged.get(n)) for n, s in own.items()}
        shown: dict[str, Any] = {"region": self._region, "epoch": max(epochs, default=0)}
        shown |= {"serving_epoch": serving_epoch(own, self._region)}
        shown |= {"nodes": {n: _shown(s) for n, s in own.items()}, "peers": {n: _shown(s) for n, s in peers.items()}}
        return self._end(Exit.OK, shown)

    def _fence(self, arguments: Namespace) -> int:
        epoch, reason = arguments.epoch, arguments.reason
        if arguments.copies and not self._settings.peers:
            raise SettingsError("--copies waits for the other region's nodes, and PEER_NODES names none")

        def done(node: str) -> None:
            self._audit.record("REGION_FENCED", node=node, region_epoch=epoch, reason=reason)

        found = fence_region(self._own, self._region, epoch, reason, done, _why_not)
        told: dict[str, Any] = {"epoch": epoch, "fenced": found.fenced, "nodes": found.nodes}
        if found.left:
            left = ", ".join(found.left)
            return self._end(
                Exit.INCOMPLETE, told, f"not fenced: {left}; run this again, or see that it cannot be reached"
            )
        if arguments.copies:
            told["copies_behind"] = behind = await_copies(self._peers, self._region, epoch, arguments.copies)
            if behind:
                why = f"fenced, but not shown within {arguments.copies:g} s by the other region's {', '.join(behind)}"
                return self._end(Exit.INCOMPLETE, told, f"{why}; holdfast region status says which link is down")
        return self._end(Exit.OK, told)

    def _unfence(self, arguments: Namespace) -> int:
        own, peers = self._look()
        confirmed = self._typed(arguments.confirm)
        moves = to_unfence(own, peers, self._region, arguments.epoch, confirmed)
        epoch, told = arguments.epoch, {"epoch": arguments.epoch}
        if self._move_all(own, moves, f"unfenced at {epoch}", "REGION_UNFENCED", told, quiet=True):
            return self._end(Exit.INCOMPLETE, told, "not all nodes are unfenced; run this again")
        own, _peers = self._look()
        low = left_below(own, self._region, epoch)
        told["nodes"] = {n: _state_and_epoch(s) for n, s in own.items()}
        if low:
            return self._end(
                Exit.INCOMPLETE,
                told,
                f"{', '.join(low)}: the fence never got there, or its data was older than the others' before; it is at "
                f"region epoch {max(low.values())} and does not vote: empty it, then holdfast bootstrap and holdfast "
                f"repair {next(iter(low))}",
            )
        return self._end(Exit.OK, told)

    def _confirm(self, arguments: Namespace) -> int:
        own, peers = self._look()
        if not self._typed(arguments.confirm):
            raise RegionRefused(f"add --confirm {self._region} if you know that the other region does not serve")
        ahead, who = superseded_by(peers, self._region)
        if ahead >= arguments.epoch:
            raise RegionRefused(f"{who} of the other region serves at region epoch {ahead}")
        check_above(peers, self._region, arguments.epoch)
        held = {n: g for n, s in own.items() if (g := s.original(self._region, n)) is not None and g.state in VOTING}
        other = [n for n, g in held.items() if g.region_epoch != arguments.epoch]
        if other or not held:
            found = held[other[0]].region_epoch if other else "none"
            raise RegionRefused(
                f"--epoch {arguments.epoch}: the nodes that could vote are at {found}; type what you mean"
            )
        why = "confirmed by hand"
        return self._move_all(
            own, {n: (g, g) for n, g in held.items()}, why, "REGION_CONFIRMED", {"epoch": arguments.epoch}
        )

    def _promote(self, arguments: Namespace) -> int:
        epoch, without, grace = arguments.epoch, frozenset(arguments.without), self._settings.tombstone_grace_sec
        return self._let_serve(
            arguments,
            lambda own, peers: promote_plan(own, peers, without, self._region, epoch, grace),
            "REGION_PROMOTED",
        )

    def _adopt(self, arguments: Namespace) -> int:
        epoch, without, grace = arguments.epoch, frozenset(arguments.without), self._settings.tombstone_grace_sec
        put_back, confirmed = PutBack(arguments.to or "", arguments.fenced_at or 0), self._typed(arguments.confirm)
        return self._let_serve(
            arguments,
            lambda own, peers: adopt_plan(own, peers, without, self._region, epoch, put_back, grace, confirmed),
            "REGION_ADOPTED",
            history=epoch,
        )

    def _let_serve(
        self, arguments: Namespace, look_what: Callable[[Statuses, Statuses], Promotion], name: str, history: int = 0
    ) -> int:
        epoch, without = arguments.epoch, frozenset(arguments.without)
        own, peers = self._look()
        plan = look_what(own, peers)
        told = {"epoch": epoch, "without": sorted(without)}
        marks = {n: (g, marked_guard(self._region, n, epoch, secrets.token_hex(16))) for n, g in plan.mark.items()}
        if marks and self._move_all(own, marks, arguments.reason, "", told, quiet=True, history=history):
            return self._end(
                Exit.INCOMPLETE, told, f"some nodes are marked recovering, none is promoted and nothing serves; {CURE}"
            )
        if not plan.done:
            own, peers = self._look()
            try:
                plan = look_what(own, peers)
            except RegionRefused as why:
                if not marks:
                    raise
                return self._end(Exit.INCOMPLETE, told, f"{why}; nodes are marked recovering by now")
            if plan.mark:
                return self._end(Exit.INCOMPLETE, told, f"{', '.join(plan.mark)}: changed meanwhile; run this again")
            moves = {n: (g, replace(g, state=PROMOTED)) for n, g in plan.marked.items()}
            code = self._move_all(own, moves, arguments.reason, name, told, quiet=True)
            if code:
                return self._end(Exit.INCOMPLETE, told, f"not all nodes are promoted; {CURE}")
        if without and not self._settled(epoch):  # nobody else knows who was given up
            settle_region(self._settings, without, say=_complain)
        own, _peers = self._look()
        return self._end(Exit.OK, told | {"nodes": {n: s.guard.state if s.guard else s.reason for n, s in own.items()}})

    def _settled(self, epoch: int) -> bool:
        own, _peers = self._look()
        held = [s.original(self._region, n) for n, s in own.items()]
        return any(g is not None and g.region_epoch == epoch and g.state == MEMBER for g in held)

    def _settle(self, arguments: Namespace) -> int:
        told = time.monotonic()

        def progress(_phase: str, source: str, looked: int, copied: int) -> None:
            nonlocal told
            if time.monotonic() - told >= TELL_SEC:
                told = time.monotonic()
                _complain(f"from {source}: {looked} keys looked at, {copied} copied")

        members = settle_region(self._settings, frozenset(arguments.without), progress, _complain)
        for node, guard in members.items():
            self._audit.record("REGION_SETTLED", node=node, region_epoch=guard.region_epoch, without=arguments.without)
        return self._end(Exit.OK, {"settled": sorted(members), "without": arguments.without})

    def _move_all(
        self,
        own: dict[str, Status],
        moves: dict[str, tuple[Guard, Guard]],
        reason: str,
        name: str,
        told: dict[str, Any],
        quiet: bool = False,
        history: int = 0,
    ) -> int:
        """Move these guards and stamp them as confirmed. Goes on after a failure: what is done counts."""
        failed = {}
        for node, (before, after) in moves.items():
            seen = own[node]
            latest = seen.clock_ms + MOVE_WITHIN_MS if seen.clock_ms is not None else 0
            problem = self._own.move(node, seen.run_id, before, after, True, reason, history, latest)
            if problem:
                failed[node] = problem
            elif name:
                self._audit.record(name, node=node, region_epoch=after.region_epoch, state=after.state, reason=reason)
        told["nodes"] = {n: failed.get(n, moves[n][1].state if n in moves else _why_not(s)) for n, s in own.items()}
        if failed:
            left = "; ".join(f"{n}: {why}" for n, why in failed.items())
            if not quiet:
                return self._end(Exit.INCOMPLETE, told, f"{left}; run this again")
            _complain(left)
            return Exit.INCOMPLETE
        return Exit.OK if quiet else self._end(Exit.OK, told)

    def _typed(self, name: str | None) -> bool:
        if name not in (None, self._region):
            raise RegionRefused(f"--confirm {name}: the region is {self._region}")
        return name is not None

    def _end(self, code: Exit, told: dict[str, Any], words: str = "") -> int:
        sys.stdout.write(json.dumps({"result": code.name.lower(), **told}) + "\n")
        if words:
            _complain(words)
        return int(code)


def remembered(port: int) -> tuple[dict[str, int], dict[str, float], int]:
    """What the running instance has seen (region_watch.py): each copy's last heartbeat in ms, for how many seconds, and
    the other region's highest epoch; nothing if none runs."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return {}, {}, 0
    finally:
        connection.close()
    beats, unchanged = _per_node(text, HEARTBEAT_METRIC), _per_node(text, UNCHANGED_METRIC)
    foreign = re.search(rf"^{FOREIGN_METRIC} ([0-9.e+]+)$", text, re.M)
    return {n: round(sec * 1000) for n, sec in beats.items()}, unchanged, int(float(foreign[1])) if foreign else 0


def _per_node(text: str, metric: str) -> dict[str, float]:
    rows = re.findall(rf'^{metric}{{node="([^"]+)"}} ([0-9.e+-]+)$', text, re.M)
    return {node: float(number) for node, number in rows}


def _complain(words: str) -> None:
    sys.stderr.write(f"holdfast region: {words}\n")


def _why_not(status: Status) -> str:
    if not status.reachable:
        return f"unreachable: {status.reason}"
    return "replica" if status.role == "replica" else status.guard.state if status.guard else "no guard"


def _state_and_epoch(status: Status) -> str:
    guard = status.guard if status.primary else None
    return f"{guard.state} at {guard.region_epoch}" if guard else _why_not(status)


def _shown(status: Status) -> dict[str, Any]:
    if not status.reachable:
        return {"reachable": False, "reason": status.reason}
    guard = status.guard
    beat = status.heartbeat_ms
    shown: dict[str, Any] = {"reachable": True, "role": status.role, "link": status.link}
    shown |= {"state": guard.state if guard else None, "region": guard.region if guard else None}
    shown |= {"region_epoch": guard.region_epoch if guard else None}
    shown |= {"membership_epoch": guard.membership_epoch if guard else None}
    shown |= {"incarnation": guard.incarnation if guard else None, "confirmed": status.is_confirmed}
    shown |= {n: v for n, v in (("restored_to", status.restored_to), ("history", status.history)) if v}
    shown |= {"keys": status.keys, "offset": status.offset, "lag_seconds": status.lag_seconds}
    shown |= {
        "heartbeat": datetime.fromtimestamp(beat / 1000, UTC).isoformat(timespec="milliseconds") if beat else None
    }
    if status.role == "replica":
        shown |= {"primary_offset": status.primary_offset, "link_down_seconds": status.link_down_seconds}
    if guard is not None and guard.state == FENCED:
        shown["fenced_from"] = status.fenced_from
    problems = [p for p in (status.reason, status.trouble) if p]
    return (
        shown | ({"problem": "; ".join(problems)} if problems else {}) | ({"note": status.note} if status.note else {})
    )

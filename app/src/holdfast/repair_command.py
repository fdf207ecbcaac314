"""The command `holdfast repair`: finds what does not vote, heals it, says how far it is.

Lines on standard output: JSON, or text for people on a terminal. Exit codes: ``repair_plan.Code``.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from .guard import Guard
from .region import Status, hidden, superseded_by
from .region_nodes import RegionNodes
from .repair import Healed, heal, raise_epoch_of_majority, readmit
from .repair_all import check_unfenced, heal_all, readmit_all
from .repair_ap import ApMerge, Unread
from .repair_nodes import RepairNodes
from .repair_plan import Code, Seen, Stopped, check_settled, look, majority, split, valid
from .settings import BootstrapSettings

EVERY_SEC = 1.0
#: So many keys in doubt are named; all are counted.
FIRST = 20


class Lines:
    """Progress at most once a second for each phase; everything else at once."""

    def __init__(self) -> None:
        self._human = sys.stdout.isatty()
        self._last: tuple[str, str] = ("", "")
        self._at = 0.0

    def say(self, event: str, **fields: Any) -> None:
        if self._human:
            text = f"{event.lower().replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in fields.items())
        else:
            text = json.dumps({"event": event, **fields})
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def progress(self, node: str, phase: str, source: str, looked: int, copied: int) -> None:
        now = time.monotonic()
        if (phase, source) != self._last or now - self._at >= EVERY_SEC:
            self._last, self._at = (phase, source), now
            self.say("REPAIR_PROGRESS", node=node, phase=phase, source=source, looked_at=looked, copied=copied)


class RepairCommand:
    """``hide``: what becomes of a key before it is shown (``Audit.hide``)."""

    def __init__(self, settings: BootstrapSettings, hide: Callable[[str], str] = str) -> None:
        self._hide = hide
        self._settings, self._names, self._region = settings, tuple(settings.nodes), settings.region
        self._lines = Lines()
        self._nodes = RepairNodes(settings)

    def run(self, wanted: Sequence[str], suspect: bool, confirm: str | None, check: bool) -> int:
        """``wanted``: these nodes, none: all that do not vote. ``suspect``: the wanted ones even if they vote."""
        try:
            with self._nodes:
                self._run(tuple(wanted), frozenset(wanted) if suspect else frozenset(), confirm, check)
        except Stopped as why:
            self._lines.say("REPAIR_STOPPED", code=why.code.name.lower(), why=str(why))
            return int(why.code)
        return int(Code.OK)

    def _run(self, wanted: tuple[str, ...], suspects: frozenset[str], confirm: str | None, check: bool) -> None:
        seen = self._nodes.drive(look(self._names))
        check_settled(seen, self._region)
        absent = [n for n in self._names if n not in seen]
        able = valid(seen, self._names, self._region, suspects)
        targets = [n for n in wanted or self._names if n not in able and (wanted or n in seen)]
        hopeless = len(able) < majority(self._names)
        self._lines.say(
            "REPAIR_PLAN",
            vote=sorted(able),
            heal=targets,
            absent=absent,
            majority_can_vote=not hopeless,
            interrupted_raise=split(able, self._names),
            check=check,
        )
        if hopeless:
            self._from_all(seen, absent, confirm, check, frozenset(able))
            return
        if check:
            return
        if split(able, self._names):
            self._nodes.drive(raise_epoch_of_majority(self._names, self._region, suspects))
        for done, target in enumerate(targets):
            self._heal(target, suspects - set(targets[:done]))
        self._lines.say("REPAIR_FINISHED", healed=targets, absent=absent)

    def _heal(self, target: str, suspects: frozenset[str]) -> None:
        fresh = secrets.token_hex(16)
        healed = self._nodes.drive(
            heal(target, self._names, self._region, fresh, self._progress(target), suspects=suspects)
        )
        self._merge_ap(target, healed.guard, self._nodes.drive(look(self._names)))
        guard = self._readmit(target, healed)
        self._lines.say(
            "REPAIR_MEMBER", node=target, membership_epoch=guard.membership_epoch, incarnation=guard.incarnation
        )

    def _readmit(self, target: str, healed: Healed) -> Guard:
        return self._nodes.drive(readmit(target, healed, self._names, self._region))

    def _merge_ap(self, target: str, guard: Guard, seen: dict[str, Seen]) -> None:
        merge = ApMerge(self._nodes, target, guard, self._settings.max_clock_drift_ms)
        origins = [n for n in self._names if n != target and n in seen]
        try:
            removed = merge.purge(origins)
        except Unread as why:
            raise Stopped(Code.UNREACHABLE, f"{why}; run this again") from None
        if removed:
            self._lines.say("REPAIR_AP_PURGED", node=target, entries=removed)
        for origin in origins:
            try:
                count = merge.merge(origin, lambda n, o=origin: self._progress(target)("ap", o, n, n))  # type: ignore[misc]
                self._lines.say("REPAIR_AP_MERGED", node=target, origin=origin, entries=count)
            except Unread as why:
                self._lines.say(
                    "REPAIR_AP_LEFT",
                    node=target,
                    origin=origin,
                    why=str(why),
                    then="the zone's `holdfast replicate` merges it",
                )
        try:
            merge.settle()
        except Unread as why:
            raise Stopped(Code.UNREACHABLE, f"{why}; run this again") from None

    def _progress(self, target: str) -> Any:
        return lambda phase, source, looked, copied: self._lines.progress(target, phase, source, looked, copied)

    def _peers(self) -> dict[str, Status]:
        """The other region's nodes. Stops if one votes, or is just loading what tells: this region must not serve again
        beside it, above its epoch."""
        peers = RegionNodes(self._settings.peers, self._settings.redis, max(2.0, self._settings.network_timeout_sec))
        peers.start()
        try:
            seen = peers.ask().wait()
        finally:
            peers.stop()
        epoch, who = superseded_by(seen, self._region)
        if epoch:
            raise Stopped(
                Code.FENCED,
                f"{who} of the other region serves at region epoch {epoch}: this region must not serve beside it. "
                "If the other one shall not, fence it (holdfast region fence) and run this again",
            )
        silent = hidden(seen)
        if silent:
            raise Stopped(
                Code.UNREACHABLE,
                f"nodes of the other region answer and do not show whether they vote "
                f"({', '.join(f'{n}: {why}' for n, why in silent.items())}): run this again when they do",
            )
        return seen

    def _in_doubt(self, keys: list[str]) -> None:
        if keys:
            self._lines.say(
                "REPAIR_IN_DOUBT",
                count=len(keys),
                first=[self._hide(k) for k in keys[:FIRST]],
                why="old values one node has and another has not: deleted and collected, or last copies; they stay",
                then="delete those that you know were deleted",
            )

    def _from_all(
        self, seen: dict[str, Seen], absent: list[str], confirm: str | None, check: bool, kept: frozenset[str]
    ) -> None:
        check_unfenced(seen)
        unseen = [n for n, s in self._peers().items() if not s.reachable]
        cost = f"without {', '.join(absent)}, which must be emptied before it returns" if absent else "no node is away"
        if unseen:
            cost += f"; {', '.join(unseen)} of the other region does not answer: be sure that it does not serve"
        if confirm is None or check:
            raise Stopped(
                Code.NO_MAJORITY,
                "no majority of nodes that kept their data answers. Bring them up; or, if "
                f"that is impossible, run this again with --confirm {self._region}: the largest version of "
                f"each key over all nodes that answer wins ({cost}); acknowledged writes may be lost",
            )
        if confirm != self._region:
            raise Stopped(Code.NO_MAJORITY, f"--confirm {confirm}: the region is {self._region}; nothing was changed")
        self._lines.say("REPAIR_FROM_ALL", nodes=sorted(seen), absent=absent)
        guards = self._nodes.drive(
            heal_all(
                self._names, self._region, lambda: secrets.token_hex(16), self._progress("all"), kept, self._in_doubt
            )
        )
        for target, guard in guards.items():
            self._merge_ap(target, guard, {n: s for n, s in seen.items() if n in guards})
        above = max((s.guard.region_epoch for s in self._peers().values() if s.guard is not None), default=0)
        members = self._nodes.drive(readmit_all(guards, above))
        for node, guard in members.items():
            self._lines.say(
                "REPAIR_MEMBER",
                node=node,
                membership_epoch=guard.membership_epoch,
                region_epoch=guard.region_epoch,
                incarnation=guard.incarnation,
            )
        self._lines.say(
            "REPAIR_FINISHED",
            healed=sorted(members),
            absent=absent,
            empty_before_return=[n for n in self._names if n not in members],
        )

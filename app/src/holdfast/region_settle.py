"""Drives settle.py on real nodes: by `holdfast replicate` in the background, or by `holdfast region settle`.

AP data needs no such copying: every promoted node has a fresh incarnation, so each zone's replicator merges all of
every other node. Only the marks of a collection of tombstones that one copy had seen and another had not are evened out
here, or those merges would be refused as older than the collection.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable

from . import scripts
from .guard import PROMOTED, Guard
from .link import Answer
from .logs import LOG, event
from .nodes import Nodes
from .repair_ap import ApMerge, Unread
from .repair_nodes import RepairNodes
from .repair_plan import Code, Progress, Stopped, look
from .settings import BootstrapSettings, Settings
from .settle import promoted_at, settle

PAUSE_SEC, TELL_SEC, LEASE_MS = 1.0, 5.0, 15_000


def bootstrap_settings(settings: Settings) -> BootstrapSettings:
    """Those of a command that is run by a process of the service itself."""
    return BootstrapSettings(
        settings.region, settings.nodes, settings.network_timeout_sec, settings.max_clock_drift_ms, settings.redis
    )


def settle_region(
    settings: BootstrapSettings,
    without: frozenset[str] = frozenset(),
    progress: Progress = lambda _phase, _source, _looked, _copied: None,
    say: Callable[[str], None] = lambda _what: None,
) -> dict[str, Guard]:
    """Returns the guards of the nodes that were made members now. Raises Stopped."""
    with RepairNodes(settings) as nodes:
        seen = nodes.drive(look(nodes.names))
        waiting, members = promoted_at(seen, settings.region)
        for node, guard in waiting.items():
            if not members and node not in without:
                _even_marks(nodes, node, guard, [n for n in waiting if n not in (node, *without)], settings, say)
        return nodes.drive(settle(nodes.names, settings.region, progress, without))


def _even_marks(
    nodes: RepairNodes,
    node: str,
    guard: Guard,
    others: list[str],
    settings: BootstrapSettings,
    say: Callable[[str], None],
) -> None:
    merge = ApMerge(nodes, node, guard, settings.max_clock_drift_ms)
    try:
        removed = merge.purge(others)
        merge.settle()
    except Unread as why:
        raise Stopped(Code.UNREACHABLE, f"{why}; it will be tried again") from None
    if removed:
        say(f"{node}: {removed} AP entries of before a collection of tombstones were removed")


class BackgroundSettle:
    """A thread of `replicate`: settles the region after a promotion. One at a time in the region, by the lease that
    later the collector of AP tombstones holds; the lease only saves work."""

    def __init__(self, settings: Settings, nodes: Nodes, stop: threading.Event) -> None:
        self._settings, self._nodes, self._stop = bootstrap_settings(settings), nodes, stop
        self._keeper = min(nodes.names)
        self._owner = f"settle-{secrets.token_hex(8)}"
        self._told = self._leased = float("-inf")
        self._complaint = ""
        self.thread = threading.Thread(target=self._run, name="settle", daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SEC):
            try:
                voters = self._nodes.guards.voters()
                waits = any(g.state == PROMOTED for g in voters.values())
                if waits and not self._nodes.guards.withheld() and self._lease(LEASE_MS):
                    self._settle()
            except Exception:
                LOG.exception("SETTLE_ERROR")

    def _settle(self) -> None:
        try:
            members = settle_region(self._settings, frozenset(), self._progress, self._say)
        except Stopped as why:
            if str(why) != self._complaint:
                self._complaint = str(why)
                event(LOG, logging.WARNING, "SETTLE_WAITS", code=why.code.name.lower(), why=str(why))
            return
        finally:
            self._lease(1)
        self._complaint = ""
        for node, guard in members.items():
            event(LOG, logging.INFO, "SETTLED", node=node, region_epoch=guard.region_epoch)

    def _lease(self, length_ms: int) -> bool:
        guard = self._nodes.guards.voters().get(self._keeper)
        if guard is None:
            return False
        self._leased = time.monotonic()
        args = [*guard.expectation(), self._owner, length_ms]
        keys = [scripts.GUARD, scripts.COLLECTOR_KEY]
        result = self._nodes.call(
            self._keeper, scripts.LEASE, keys, args, self._leased + self._settings.network_timeout_sec
        )
        return isinstance(result, Answer) and result.value[0] == 1

    def _progress(self, _phase: str, source: str, looked: int, copied: int) -> None:
        now = time.monotonic()
        if now - self._leased >= LEASE_MS / 3000:
            self._lease(LEASE_MS)
        if now - self._told >= TELL_SEC:
            self._told = now
            event(LOG, logging.INFO, "SETTLE_PROGRESS", source=source, looked_at=looked, copied=copied)

    def _say(self, what: str) -> None:
        event(LOG, logging.INFO, "SETTLE", what=what)

"""Each second: does the other region serve at a higher epoch, or at the same? Run by every `serve` worker and by
`replicate`.

`serve` looks at the other region, and lets the guard book know: from then on it answers *fenced*. On a standby it also
remembers the heartbeats it saw, as a replica whose link is down shows no data. `replicate` also
fences its own region's nodes with that epoch, confirms nodes that were started (region.may_confirm), writes the
heartbeats by which a replica's lag is judged, and says in the audit log what became of its nodes.

A look is bounded by the network timeout; nodes that do not answer cost one connection attempt a second, and no log
line.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from . import scripts
from .guard import FENCED, MEMBER, PROMOTED, VOTING
from .logs import LOG, event
from .metrics import Metrics
from .nodes import Nodes
from .region import Status, may_confirm, served_by, superseded_by, to_close, with_last_heartbeat
from .region_nodes import RegionNodes
from .settings import Settings

LOOK_SEC = 1.0
#: Beyond the network timeout, which the first look takes where nobody answers.
FIRST_LOOK_MARGIN_SEC = 0.5
#: A node is confirmed within this time of what was seen, by its own clock: later the other region may be promoted.
CONFIRM_WITHIN_MS = 3000
#: A heartbeat is left alone that is younger than this: several processes write it.
HEARTBEAT_MS = 800
#: Two regions at one epoch: nodes are fenced only after this time, so that processes of both regions see why.
SHARED_SEC = 5.0
_AUDITED = {FENCED: "REGION_FENCED", PROMOTED: "REGION_PROMOTED", MEMBER: "REGION_SETTLED"}
HEARTBEAT_METRIC = "region_replication_heartbeat_timestamp_seconds"
UNCHANGED_METRIC = "region_replication_heartbeat_unchanged_seconds"
FOREIGN_METRIC = "region_peer_epoch"
Notify = Callable[[str, dict[str, Any]], None]


class PeerWatch:
    """A thread; does nothing where there is no other region. ``start`` after any fork."""

    def __init__(self, settings: Settings, nodes: Nodes) -> None:
        self._settings, self._nodes = settings, nodes
        self._peers = RegionNodes(settings.peers, settings.redis, settings.network_timeout_sec)
        self._own = RegionNodes(settings.nodes, settings.redis, settings.network_timeout_sec)
        #: The last heartbeat seen on each own node that is a replica, by its primary's clock in ms; when it was new to
        #: us, by our monotonic clock.
        self._heartbeats: dict[str, tuple[int, float]] = {}
        self._stop, self._looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="region", daemon=True)

    def start(self) -> None:
        """Returns when the other region was looked at once, or cannot be: nobody may serve beside it for not having
        looked yet."""
        if self._settings.peers:
            self._peers.start()
            self._own.start()
            self._thread.start()
            self._looked.wait(self._settings.network_timeout_sec + FIRST_LOOK_MARGIN_SEC)

    def stop(self) -> None:
        self._stop.set()
        if self._settings.peers:
            self._thread.join(timeout=self._settings.network_timeout_sec + 1)
            self._peers.stop()
            self._own.stop()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._look()
            except Exception:
                LOG.exception("REGION_WATCH_ERROR")
            self._stop.wait(max(0.1, LOOK_SEC - (time.monotonic() - began)))

    def expose(self, metrics: Metrics) -> None:
        """What `holdfast region status` asks a running instance for when a replica's link is down."""
        metrics.per_node(
            HEARTBEAT_METRIC,
            "On a standby: the last heartbeat seen on the node, by the active region's clock; NaN if none was.",
            lambda: {n: h[0] / 1000 if (h := self._heartbeats.get(n)) else math.nan for n in self._settings.node_names},
        )
        metrics.per_node(
            UNCHANGED_METRIC,
            "On a standby: how long this process has seen no newer heartbeat on the node; NaN if it never saw one.",
            lambda: {n: _or_nan(self._unchanged(n)) for n in self._settings.node_names},
        )

        metrics.computed(
            FOREIGN_METRIC,
            "The highest region epoch at which this process has seen the other region serve; 0: it never did.",
            lambda: float(self._nodes.guards.foreign_epoch),
        )

    def _unchanged(self, node: str) -> float | None:
        held = self._heartbeats.get(node)
        return None if held is None else time.monotonic() - held[1]

    def _look(self) -> None:
        standby = self._nodes.guards.withheld() == "standby"
        asked_own, asked_peers = self._own.ask() if standby else None, self._peers.ask()
        if asked_own is not None:
            self._remember(asked_own.wait())
        self._learn(asked_peers.wait())

    def _remember(self, own: dict[str, Status]) -> dict[str, Status]:
        for node, status in own.items():
            beat = status.heartbeat_ms if status.role == "replica" else None
            if beat is not None and self._heartbeats.get(node, (None,))[0] != beat:
                self._heartbeats[node] = (beat, time.monotonic())
        last = {n: held[0] for n, held in self._heartbeats.items()}
        return {n: with_last_heartbeat(s, last.get(n), self._unchanged(n)) for n, s in own.items()}

    def _learn(self, peers: dict[str, Status]) -> tuple[int, str]:
        epoch, who = served_by(peers, self._settings.region)
        book = self._nodes.guards
        if book.learn_peer_epoch(epoch):
            event(LOG, logging.WARNING, "PEER_REGION_SERVES", node=who, region_epoch=epoch)
        if epoch and epoch == book.served_epoch() and book.learn_shared_epoch(epoch):
            cure = (
                f"decide which region's history stays; there: holdfast region fence --epoch {epoch + 1}, then unfence "
                f"--epoch {epoch + 1}; the other one is then a region that comes back"
            )
            event(LOG, logging.ERROR, "TWO_REGIONS_AT_ONE_EPOCH", node=who, region_epoch=epoch, cure=cure)
        self._looked.set()
        return epoch, who


class RegionWatch(PeerWatch):
    """That of `replicate`."""

    def __init__(self, settings: Settings, nodes: Nodes, metrics: Metrics, notify: Notify) -> None:
        super().__init__(settings, nodes)
        self._notify = notify
        self._seen: dict[str, Status] = {}
        self._states: dict[str, str] = {}
        self._complaint = ("", "")
        self._shared_since = math.inf
        metrics.per_node(
            "region_replication_lag_seconds",
            "On a standby: age of the newest heartbeat of the active region's node that came through; NaN if none did.",
            lambda: {n: _or_nan(self._of(n).lag_seconds) for n in settings.node_names},
        )
        metrics.per_node(
            "region_replication_link_up",
            "On a standby: 1 if the node is connected to its primary; NaN if it is no replica or does not answer.",
            lambda: {n: _link(self._of(n)) for n in settings.node_names},
        )
        metrics.computed(
            "region_settled",
            "1 if the region's copies are settled after a promotion, 0 while they are not.",
            lambda: float(not nodes.guards.unsettled_epoch()),
        )

    def _of(self, node: str) -> Status:
        return self._seen.get(node, Status(False, "not looked at yet"))

    def _look(self) -> None:
        asked_own, asked_peers = self._own.ask(), self._peers.ask()
        own, peers = asked_own.wait(), asked_peers.wait()
        self._seen = self._remember(own)
        self._say_what_became(own)
        epoch, who = self._learn(peers)
        self._fence(own, epoch, who)
        waiting = self._confirm(own, peers)
        cure = _cure(peers, self._settings.region) if waiting else ""
        if (waiting, cure) != self._complaint:
            self._complaint = (waiting, cure)
            if waiting:
                event(LOG, logging.WARNING, "REGION_UNCONFIRMED", nodes=waiting, cure=cure)
        self._beat()

    def _fence(self, own: dict[str, Status], epoch: int, who: str) -> None:
        region, now, book = self._settings.region, time.monotonic(), self._nodes.guards
        shared = book.withheld() == "two_regions"
        self._shared_since = min(self._shared_since, now) if shared else math.inf
        overdue = book.shared_epoch if now - self._shared_since >= SHARED_SEC else 0
        for node, (guard, fenced) in to_close(own, region, epoch, overdue).items():
            why = f"{who} of the other region serves or served at region epoch {epoch}"
            problem = self._own.move(node, own[node].run_id, guard, fenced, False, why)
            event(LOG, logging.WARNING, "REGION_FENCE", node=node, region_epoch=epoch, why=why, problem=problem)

    def _confirm(self, own: dict[str, Status], peers: dict[str, Status]) -> str:
        """Returns the nodes that nobody can confirm now."""
        region, waiting = self._settings.region, []
        for node, status in own.items():
            guard = status.original(region, node)
            if guard is None or guard.state not in VOTING or status.is_confirmed or status.clock_ms is None:
                continue
            why, latest = may_confirm(node, own, peers, region), status.clock_ms + CONFIRM_WITHIN_MS
            if not why:
                waiting.append(node)
            elif not self._own.move(node, status.run_id, guard, guard, True, why, latest_ms=latest):
                self._notify("REGION_CONFIRMED", {"node": node, "region_epoch": guard.region_epoch, "reason": why})
        return ", ".join(waiting)

    def _beat(self) -> None:
        deadline = time.monotonic() + self._settings.network_timeout_sec
        keys = [scripts.GUARD, scripts.HEARTBEAT]
        for node in self._nodes.names:
            guard = self._nodes.guards.usable(node)
            if guard is not None:
                args = [*guard.expectation(), HEARTBEAT_MS]
                self._nodes.send(node, scripts.REGION_HEARTBEAT, keys, args, deadline, lambda _result: None)

    def _say_what_became(self, own: dict[str, Status]) -> None:
        for node, status in own.items():
            if not status.reachable:
                continue
            guard = status.original(self._settings.region, node)
            before, now = self._states.get(node), guard.state if guard is not None else "copy"
            self._states[node] = now
            if guard is None or before in (None, now) or now not in _AUDITED or (now == MEMBER and before != PROMOTED):
                continue
            reason = "every node holds everything" if now == MEMBER else status.note
            self._notify(_AUDITED[now], {"node": node, "region_epoch": guard.region_epoch, "reason": reason})


def _cure(peers: dict[str, Status], region: str) -> str:
    """What makes nodes count that nobody can confirm."""
    epoch, who = superseded_by(peers, region)
    if epoch:
        return (
            f"two regions claim to serve: {who} of the other one votes at region epoch {epoch}. Decide whose history "
            "stays; in the region whose history does not: holdfast region fence"
        )
    return "bring the other nodes or the other region up, or type holdfast region confirm"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _link(status: Status) -> float:
    return float(status.link == "up") if status.reachable and status.role == "replica" else math.nan

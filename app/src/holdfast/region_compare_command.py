"""The command `holdfast region compare`: lists what the region that came back holds and the serving one never got.

Run in a container of the old region, before its nodes are made replicas. Exit codes: ``Exit``.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from .audit import Audit
from .contract import TOMBSTONE
from .errors import SettingsError
from .lost_writes import STDOUT, LostFile
from .region import RegionRefused, Statuses
from .region_compare import AP, CONFLICT, CP, DRILL_PREFIX, SAFE, UNDONE, Held, Plan, plan
from .region_nodes import RegionNodes
from .region_reader import Comparison, Lost, Reads, ServingUnread
from .settings import BootstrapSettings

LOOK_SEC = 2.0
EXAMPLES = 10


class Exit(IntEnum):
    OK = 0
    USAGE = 2
    INCOMPLETE = 3
    FOUND = 4
    REFUSED = 6


class CompareCommand:
    def __init__(self, settings: BootstrapSettings, audit: Audit) -> None:
        self._settings, self._audit = settings, audit
        self._found = {face: {SAFE: 0, CONFLICT: 0, UNDONE: 0, "unacknowledged": 0, "drill": 0} for face in (CP, AP)}
        self._examples: list[dict[str, Any]] = []

    def run(self, arguments: Namespace) -> int:
        settings = self._settings
        if not settings.peers:
            raise SettingsError("PEER_NODES is not set: list the nodes of the region that serves now")
        for option, names in (("--without", arguments.without), ("--without-peer", arguments.without_peer)):
            unknown = [n for n in names if n not in settings.nodes]
            if unknown:
                raise SettingsError(f"{option} {unknown[0]}: NODES names {', '.join(settings.nodes)}")
        timeout = max(LOOK_SEC, settings.network_timeout_sec)
        looks = [RegionNodes(nodes, settings.redis, timeout) for nodes in (settings.nodes, settings.peers)]
        for look in looks:
            look.start()
        try:
            return self._compare(arguments, looks)
        except RegionRefused as why:
            sys.stderr.write(f"holdfast region: {why}; nothing was compared\n")
            self._show({"result": "refused"}, arguments)
            return int(Exit.REFUSED)
        finally:
            for look in looks:
                look.stop()

    def _compare(self, arguments: Namespace, looks: list[RegionNodes]) -> int:
        settings, started = self._settings, time.time()
        without = frozenset(arguments.without)
        own, peers = self._look(looks)
        planned = plan(own, peers, settings.region, without, frozenset(arguments.without_peer))
        access, timeout = settings.redis, settings.network_timeout_sec
        out = LostFile(arguments.out)
        try:
            with (
                Reads(settings.nodes, access, timeout) as own_reads,
                Reads(settings.peers, access, timeout, ServingUnread) as peer_reads,
            ):
                silent = len(settings.nodes) - len(planned.read)
                comparison, problem = None, ""
                try:
                    planned = _with_floors(planned, peer_reads)
                    comparison = Comparison(planned, own_reads, peer_reads, silent)
                    for lost in comparison.lost():
                        out.line(self._record(lost))
                except ServingUnread as why:
                    problem = f"{why.node} of the other region: {why.why}"
            unread = dict(planned.unread if comparison is None else comparison.unread)
            self._look_again(looks, own, peers, planned, unread)
            problem = problem or "; ".join(f"{n}: {why}" for n, why in unread.items())
            summary = {
                "type": "summary",
                "complete": not problem,
                "region": settings.region,
                "serving": planned.serving.region,
                "epoch": planned.serving.epoch,
                "parted_epoch": planned.serving.parted,
                "restored": planned.serving.restored,
                "started": _stamp(started),
                "ended": _stamp(time.time()),
                "lines": out.lines,
                "keys": comparison.keys if comparison else 0,
                "found": self._found,
                **(comparison.counts if comparison else {}),
                "problem": problem,
                "without": sorted(without),
                "without_peers": sorted(arguments.without_peer),
                "examples": self._examples,
            }
            out.end(summary)
        except BaseException:
            out.abandon()
            raise
        return self._end(summary, arguments)

    def _end(self, summary: dict[str, Any], arguments: Namespace) -> int:
        code = Exit.INCOMPLETE if summary["problem"] else Exit.FOUND if summary["lines"] else Exit.OK
        self._audit.record(
            "REGION_COMPARED", region=summary["region"], serving=summary["serving"], epoch=summary["epoch"],
            lines=summary["lines"], complete=summary["complete"],
        )  # fmt: skip
        if code == Exit.INCOMPLETE:
            sys.stderr.write(
                f"holdfast region: not complete: {summary['problem']}; cure that and run this again, or, if the node "
                "is gone for good, name it with --without\n"
            )
        shown = {k: v for k, v in summary.items() if k != "type"}
        shown["examples"] = [{**e, "key": self._audit.hide(e["key"])} for e in self._examples]
        self._show({"result": code.name.lower(), **shown}, arguments)
        return int(code)

    def _show(self, told: dict[str, Any], arguments: Namespace) -> None:
        """The lines have standard output to themselves."""
        (sys.stderr if arguments.out == STDOUT else sys.stdout).write(json.dumps(told) + "\n")

    def _look(self, looks: list[RegionNodes]) -> tuple[Statuses, Statuses]:
        asked = [look.ask() for look in looks]
        own, peers = (one.wait() for one in asked)
        return own, peers

    def _look_again(
        self, looks: list[RegionNodes], own: Statuses, peers: Statuses, planned: Plan, unread: dict[str, str]
    ) -> None:
        """What was read counts only if it came from the same processes under the same guards throughout."""
        own_now, peers_now = self._look(looks)
        for names, before, now, whose in (
            (planned.read, own, own_now, ""),
            (planned.voters, peers, peers_now, " of the other region"),
        ):
            for name in names:
                if not now[name].reachable:
                    unread.setdefault(name + whose, f"unreachable: {now[name].reason}")
                elif now[name].run_id != before[name].run_id:
                    unread.setdefault(name + whose, "it was restarted meanwhile")
                elif now[name].role == "replica" or _differs(before[name].guard, now[name].guard):
                    unread.setdefault(name + whose, "its guard or its role changed meanwhile")

    def _record(self, lost: Lost) -> dict[str, Any]:
        judged, key = lost.judged, lost.key[3:].decode("utf-8", "surrogateescape")
        drill, counts = key.startswith(DRILL_PREFIX), self._found[lost.face]
        deleted = judged.old.kind == TOMBSTONE
        record: dict[str, Any] = {"face": lost.face, "key": key, "kind": "tombstone" if deleted else "value"}
        record["value"] = None if deleted else lost.value.decode("utf-8", "surrogateescape")
        record |= {"version": judged.old.version, "nodes": list(judged.nodes), "class": judged.verdict}
        record |= {"there": _there(judged.there)}
        if lost.face == CP:
            record["acknowledged"] = judged.acknowledged
        if drill:
            record["drill"] = True
            counts["drill"] += 1
        else:
            counts[judged.verdict] += 1
            counts["unacknowledged"] += not judged.acknowledged
            if len(self._examples) < EXAMPLES:
                self._examples.append({k: record[k] for k in ("face", "key", "kind", "class", "version")})
        return record


def _with_floors(planned: Plan, peers: Reads) -> Plan:
    floors: dict[str, list[str]] = {CP: [], AP: []}
    for node in planned.voters:
        for face, key in ((CP, "holdfast:cp"), (AP, "holdfast:ap")):
            floors[face].append((peers.plain(node, "HGET", key, "floor").result() or b"").decode())
    # Their epoch is all that is asked for, and it stands in front.
    serving = planned.serving
    serving = replace(serving, floors={f: max(v) for f, v in floors.items()})
    return Plan(planned.read, planned.unread, planned.voters, serving)


def _differs(before: Any, now: Any) -> bool:
    """Fencing and confirming change nothing of what is there."""
    return before is None or now is None or (before.node, before.incarnation) != (now.node, now.incarnation)


def _there(held: Held | None) -> dict[str, str] | None:
    if held is None:
        return None
    return {"version": held.version, "kind": "tombstone" if held.kind == TOMBSTONE else "value"}


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

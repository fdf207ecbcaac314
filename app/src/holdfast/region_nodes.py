"""Looks at the nodes of both regions, all at once and within one deadline, and moves guards on behalf of region.py.

Replicas refuse scripts that are declared as writing, which all of Holdfast's are; so they are looked at with plain
commands.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from typing import Any

from . import scripts
from .guard import Guard
from .link import Answer, Failed, NodeLink, Outcome, plain_command, script_command
from .region import Status
from .settings import Address, RedisAccess

#: Why a move was not done although the node answered: look again, and try again.
CHANGED, RESTARTED = "its guard was changed by somebody else", "it was restarted meanwhile"
LATE = "what was seen of it is too old"

_FIELDS = (
    "state",
    "region",
    "node",
    "region_epoch",
    "membership_epoch",
    "incarnation",
    "confirmed",
    "fenced_from",
    "reason",
    "copied_ms",
    "fenced_epoch",
    "restored_to",
    "history",
    "history_before",
    "promoted_epoch",
    "adopted_ms",
)
_LOOK: tuple[tuple[Any, ...], ...] = (
    ("INFO", "server", "replication", "persistence", "memory"),
    ("HMGET", scripts.GUARD, *_FIELDS),
    ("GET", scripts.HEARTBEAT),
    ("DBSIZE",),
    ("TIME",),
)


class RegionNodes:
    """Links of their own to one region's nodes; ``start`` after any fork."""

    def __init__(self, nodes: Mapping[str, Address], access: RedisAccess, timeout_sec: float) -> None:
        self.names = tuple(nodes)
        self._timeout = timeout_sec
        self._links = {n: NodeLink(n, address, access, timeout_sec) for n, address in nodes.items()}

    def start(self) -> None:
        for link in self._links.values():
            link.start()

    def stop(self) -> None:
        for link in self._links.values():
            link.stop()

    def ask(self) -> Asked:
        """Begin a look at all nodes; ``Asked.wait`` ends it. Two regions are looked at side by side that way."""
        asked = Asked(self.names, time.monotonic() + self._timeout)
        for name, link in self._links.items():
            for number, command in enumerate(_LOOK):
                link.submit(plain_command(command, asked.deadline, asked.receiver(name, number)))
        return asked

    def move(
        self,
        node: str,
        run_id: str,
        expected: Guard,
        new: Guard,
        confirm: bool,
        reason: str,
        history: int = 0,
        latest_ms: int = 0,
    ) -> str:
        """Replace a guard in the very process that was looked at; not after ``latest_ms`` by its own clock, 0: at any
        time. Returns '' or why it was not done."""
        box: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        keys = [scripts.GUARD, scripts.PEERS, scripts.CP_STATE, scripts.LEASE_KEY, scripts.COLLECTOR_KEY]
        keys.append(scripts.HEARTBEAT)
        args = [*_six(expected), *_six(new), run_id, "1" if confirm else "", reason[:300], history or ""]
        args.append(latest_ms or "")
        deadline = time.monotonic() + self._timeout
        self._links[node].submit(script_command(scripts.REGION_MOVE, keys, args, deadline, box.put))
        try:
            outcome = box.get(timeout=self._timeout + 0.5)
        except queue.Empty:
            outcome = Failed("timeout", False)
        if isinstance(outcome, Failed):
            return outcome.reason
        head, *rest = outcome.value
        if head == b"GUARD":
            return "" if Guard.from_fields(rest) == new else CHANGED
        return "" if head == b"OK" else LATE if head == b"LATE" else RESTARTED


class Asked:
    def __init__(self, names: tuple[str, ...], deadline: float) -> None:
        self.deadline = deadline
        self._names = names
        self._box: queue.SimpleQueue[tuple[str, int, Outcome]] = queue.SimpleQueue()

    def receiver(self, name: str, number: int) -> Any:
        return lambda outcome: self._box.put((name, number, outcome))

    def wait(self) -> dict[str, Status]:
        found: dict[str, list[Outcome]] = {n: [Failed("timeout", False)] * len(_LOOK) for n in self._names}
        for _ in range(len(self._names) * len(_LOOK)):
            try:
                name, number, outcome = self._box.get(timeout=max(0.001, self.deadline + 0.1 - time.monotonic()))
            except queue.Empty:
                break
            found[name][number] = outcome
        return {n: _status(*outcomes) for n, outcomes in found.items()}


def _six(guard: Guard) -> list[Any]:
    return [guard.state, guard.region, guard.node, guard.region_epoch, guard.membership_epoch, guard.incarnation]


def _status(info: Outcome, held: Outcome, heartbeat: Outcome, size: Outcome, clock: Outcome) -> Status:
    if isinstance(info, Failed):
        return Status(False, info.reason)
    about = dict(ln.split(":", 1) for ln in info.value.decode("utf-8", "replace").splitlines() if ":" in ln)
    replica = about.get("role") == "slave"
    fields = (
        [f.decode("utf-8", "replace") if f else "" for f in held.value]
        if isinstance(held, Answer)
        else [""] * len(_FIELDS)
    )
    reason = held.reason if isinstance(held, Failed) else ""
    if reason == "masterdown":
        reason = "masterdown: its link is down, and it shows no data that may be old"
    return Status(
        True,
        reason,
        "replica" if replica else "primary",
        about.get("master_link_status", "down") if replica else "-",
        Guard.from_fields(fields[:6]),
        about.get("run_id", ""),
        fields[6],
        fields[7],
        size.value if isinstance(size, Answer) else None,
        _number(about.get("slave_repl_offset" if replica else "master_repl_offset")),
        _number(about.get("slave_read_repl_offset")) if replica else None,
        _number(about.get("master_link_down_since_seconds")) if replica else None,
        _number(heartbeat.value.decode()) if isinstance(heartbeat, Answer) and heartbeat.value else None,
        int(clock.value[0]) * 1000 + int(clock.value[1]) // 1000 if isinstance(clock, Answer) else None,
        _trouble(about),
        fields[8],
        _number(fields[9]),
        _number(fields[10]),
        restored_to=fields[11],
        history=_number(fields[12]) or 0,
        history_before=_number(fields[13]),
        promoted_epoch=_number(fields[14]),
        adopted_ms=_number(fields[15]),
    )


def _trouble(about: Mapping[str, str]) -> str:
    if about.get("loading", "0") != "0":
        return "loading"
    if about.get("master_sync_in_progress", "0") != "0":
        return "its first copy is under way"
    if about.get("aof_last_write_status", "ok") != "ok":
        return "its append-only file cannot be written (disk full?)"
    limit = _number(about.get("maxmemory")) or 0
    if limit and (_number(about.get("used_memory")) or 0) >= limit:
        return "its memory is full (maxmemory)"
    return ""


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None

"""`holdfast parked list` and `holdfast parked restamp NODE`: entries whose version is too far in the future.

A node whose clock ran ahead minted them; the others keep them parked. Once that clock is right again, its node writes
them anew with versions of now, and the outbox carries which version each replaces. Safe to run again; it says what is
left. Lines on standard output are JSON. Exit codes: ``Code``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from . import clocks, scripts
from .audit import Audit
from .guard import MEMBER, Guard
from .hlc import Version
from .link import Answer
from .repair_nodes import RepairNodes
from .settings import BootstrapSettings

PAGE_KEYS = 200
CHUNK_ROWS, CHUNK_BYTES = 100, 1024 * 1024
PASSES = 5
#: Rounds of looks at all nodes, at most: on a busy machine some answers come too late to tell the time by.
LOOKS = 6
#: How long the other zones get to take over what was written anew.
SETTLE_SEC = 15.0


class Code(IntEnum):
    OK = 0
    USAGE = 2
    NO_ANSWER = 3
    CLOCK = 4
    NOT_CONFIRMED = 5
    LEFT_OVER = 6


class Stopped(Exception):
    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class Entry:
    """``state``: parked, or held (applied on that node although it is in the future)."""

    node: str
    state: str
    key: bytes
    version: Version
    kind: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class _Node:
    guard: Guard
    reading: clocks.Reading


class ParkedCommand:
    def __init__(self, settings: BootstrapSettings, audit: Audit) -> None:
        self._settings, self._audit, self._drift = settings, audit, settings.max_clock_drift_ms
        self._nodes = RepairNodes(settings)

    def show(self) -> int:
        """One line for each entry on each node that answers."""
        with self._nodes:
            nodes = self._look()
            try:
                now = self._now(nodes)
                for entry in self._entries(nodes, now):
                    _say(
                        "ENTRY_OF_THE_FUTURE",
                        node=entry.node,
                        state=entry.state,
                        key=entry.key.decode(),
                        version=str(entry.version),
                        origin=entry.version.origin,
                        ahead_ms=round(entry.version.milliseconds - now),
                    )
            except Stopped as why:
                return _stopped(why)
        return int(Code.OK)

    def restamp(self, origin: str, confirm: str | None) -> int:
        with self._nodes:
            try:
                self._restamp(origin, confirm)
            except Stopped as why:
                return _stopped(why)
        return int(Code.OK)

    def _restamp(self, origin: str, confirm: str | None) -> None:
        nodes = self._look()
        if origin not in nodes or nodes[origin].guard.state != MEMBER:
            raise Stopped(Code.NO_ANSWER, f"{origin} does not answer as a member: bring it up or repair it first")
        self._check_clock(origin, nodes)
        rows = self._of(origin, nodes)
        if confirm != origin:
            raise Stopped(
                Code.NOT_CONFIRMED,
                f"{len(rows)} versions of {origin} are in the future. Writing them anew lets them win over what other "
                f"zones wrote to the same keys meanwhile; run again with --confirm {origin}. Nothing was changed",
            )
        total = 0
        for _pass in range(PASSES):
            total += self._write_anew(origin, nodes[origin].guard, rows)
            rows = self._settled(origin)
            if not rows:
                break
        absent = [n for n in self._nodes.names if n not in self._look()]
        _say("RESTAMP_FINISHED", origin=origin, written_anew=total, left=len(rows), absent=absent)
        if rows or absent:
            raise Stopped(
                Code.LEFT_OVER,
                "some versions of the future are left, or a node did not answer: run this again when the replicators "
                "have caught up and every node answers",
            )

    def _check_clock(self, origin: str, nodes: dict[str, _Node]) -> None:
        others = {n: v.reading for n, v in nodes.items() if n != origin}
        mine = nodes[origin].reading
        ahead = clocks.offset(origin, {**others, origin: mine}, self._drift)
        if ahead is None:
            raise Stopped(
                Code.CLOCK,
                f"the clock of {origin} cannot be judged: two other nodes must answer quickly and agree; bring them up",
            )
        if abs(ahead) > self._drift:
            raise Stopped(
                Code.CLOCK,
                f"the clock of {origin} is still {ahead:.0f} ms from the other nodes' (at most {self._drift} allowed): "
                "correct it first (chronyc makestep), or new writes go into the future again",
            )

    def _of(self, origin: str, nodes: dict[str, _Node]) -> dict[tuple[str, bytes], Entry]:
        """The origin's entries wherever they are, the oldest version first; its own copy is the one kept."""
        found: dict[tuple[str, bytes], Entry] = {}
        for entry in self._entries(nodes, self._now(nodes)):
            if entry.version.origin == origin and (
                entry.node == origin or (str(entry.version), entry.key) not in found
            ):
                found[str(entry.version), entry.key] = entry
        return dict(sorted(found.items()))

    def _write_anew(self, origin: str, guard: Guard, rows: dict[tuple[str, bytes], Entry]) -> int:
        """Also with no rows: the origin's own clock is taken down."""
        waiting, keys = list(rows.values()), [scripts.GUARD, scripts.OUTBOX, scripts.AP_STATE, scripts.PARKED]
        while True:
            part: list[Entry] = []
            size = 0
            while waiting and len(part) < CHUNK_ROWS and size < CHUNK_BYTES:
                part.append(waiting.pop(0))
                size += len(part[-1].value)
            args: list[Any] = [*guard.expectation(), self._drift, len(part)]
            for entry in part:
                args += [entry.key, str(entry.version), entry.kind, entry.value]
            minted = self._ask(origin, scripts.AP_RESTAMP, keys, args)[0]
            for entry, version, before in zip(part, minted[::2], minted[1::2], strict=True):
                self._audit.record(
                    "ENTRY_RESTAMPED",
                    key=entry.key.decode(),
                    node=origin,
                    replaced=str(entry.version),
                    version=version.decode(),
                    held=before.decode(),
                )
            if not waiting:
                return len(rows)

    def _settled(self, origin: str) -> dict[tuple[str, bytes], Entry]:
        """What is still of the future when the others had time to catch up."""
        until = time.monotonic() + SETTLE_SEC
        while True:
            left = self._of(origin, self._look())
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.5)

    def _look(self) -> dict[str, _Node]:
        """The nodes that answer, each with the quickest reading of its clock. The first round only opens the
        connections: it would spoil the readings."""
        found = self._look_once()
        for _round in range(1, LOOKS):
            before, found = found if _round > 1 else {}, self._look_once()
            for name, held in before.items():
                if name in found and held.reading.round_trip_ms < found[name].reading.round_trip_ms:
                    found[name] = _Node(found[name].guard, held.reading)
            if all(clocks.says_enough(node.reading, self._drift) for node in found.values()):
                break
        return found

    def _look_once(self) -> dict[str, _Node]:
        found: dict[str, _Node] = {}
        keys = [scripts.GUARD, scripts.AP_STATE, scripts.PEERS, scripts.PARKED, scripts.OUTBOX]
        for name in self._nodes.names:
            sent = time.time() * 1000
            outcome = self._nodes.ask(name, scripts.AP_STATUS, keys, [])
            received = time.time() * 1000
            if not isinstance(outcome, Answer) or outcome.value[0] != b"OK":
                continue
            guard = Guard.from_fields(outcome.value[1])
            if guard is not None and guard.node == name and guard.region == self._settings.region:
                found[name] = _Node(guard, clocks.reading(sent, received, float(outcome.value[2])))
        return found

    def _now(self, nodes: dict[str, _Node]) -> float:
        """Now as most nodes have it, in ms since the epoch."""
        if not nodes:
            raise Stopped(Code.NO_ANSWER, "no node answers: bring them up")
        ahead = sorted(n.reading.ahead_ms for n in nodes.values())
        return time.time() * 1000 + ahead[(len(ahead) - 1) // 2]

    def _entries(self, nodes: dict[str, _Node], now_ms: float) -> Iterator[Entry]:
        limit = f"{round(now_ms) + self._drift:012x}"
        for name in nodes:
            for state, script, keys, extra in (
                ("parked", scripts.AP_PARKED, [scripts.GUARD, scripts.PARKED], []),
                ("held", scripts.AP_FUTURE, [scripts.GUARD], [limit]),
            ):
                cursor = b"0"
                while True:
                    _guard, cursor, flat, _run = self._ask(name, script, keys, [cursor, PAGE_KEYS, *extra])
                    for at in range(0, len(flat), 5):
                        key, version, kind, value, _replaces = flat[at : at + 5]
                        yield Entry(name, state, key, Version.parse(version.decode()), kind, value)
                    if cursor == b"0":
                        break

    def _ask(self, node: str, script: scripts.Script, keys: list[Any], args: list[Any]) -> list[Any]:
        outcome = self._nodes.ask(node, script, keys, args)
        if not isinstance(outcome, Answer):
            raise Stopped(Code.NO_ANSWER, f"{node}: {outcome.reason}; run this again when it answers")
        if outcome.value[0] != b"OK":
            raise Stopped(Code.NO_ANSWER, f"the guard of {node} changed meanwhile; run this again")
        rest: list[Any] = outcome.value[1:]
        return rest


def _say(name: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": name, **fields}) + "\n")
    sys.stdout.flush()


def _stopped(why: Stopped) -> int:
    _say("PARKED_STOPPED", code=why.code.name.lower(), why=str(why))
    return int(why.code)

"""The AP part of `holdfast repair`: everything other nodes hold is merged into the healed node, last writer wins.

First the origin forgets how far it had read the healed node's old history, so that a batch of that history that is
still on its way is refused there, and so is a page of a copy, because its mark grows: what the healed node does not
find now, nobody finds later. Cursor first, then the copy, so that the zone's replicator goes on from there. The
outbox needs nothing: the node has a fresh incarnation, so its peers merge it in full. A node that cannot be read now
is left to the replicator, which merges it in full as well, because the healed node's positions were forgotten when it
became *recovering*.

Data from before a collection of tombstones (ap_collect.py) first loses what is at or below the others' floor: the
others have it, or something newer, or collected it. Only when everything is merged does the node get the others' marks,
so that a repair that was killed leaves a node that nobody takes for complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import scripts
from .ap_marks import Marks, highest
from .guard import Guard
from .link import Answer
from .multiprimary import Position
from .repair_nodes import RepairNodes

PAGE_BYTES = 2 * 1024 * 1024
#: Keys of the first page, before anything is known of how large the values are.
FIRST_PAGE = 8


class Unread(Exception):
    """This origin cannot be merged now; the text says why."""


class ApMerge:
    """``guard``: the healed node's, still *recovering* and compared by each script."""

    def __init__(self, nodes: RepairNodes, target: str, guard: Guard, max_drift_ms: int) -> None:
        self._nodes, self._target, self._guard, self._drift = nodes, target, guard, max_drift_ms
        self._seen = Marks()
        self._mark, self._record = 0, ""

    def purge(self, origins: list[str]) -> int:
        """Remove from the target what was collected elsewhere. Returns the number of entries. Raises Unread."""
        mine = self._marks(self._target)
        found = [mine]
        for origin in origins:
            try:
                found.append(self._marks(origin))
            except Unread:  # merge() says so
                continue
        self._mark, self._seen = mine.mark, highest(found)
        removed, cursor, run_id = 0, b"0", b""
        if mine.before(self._seen):
            self._record = str(Position(f"{self._guard.incarnation}-purged", 0, None))
        while mine.before(self._seen):
            args = [*self._guard.expectation(self._guard.state), cursor, 200, self._seen.floor, self._record, *origins]
            cursor, gone, server = self._ask(
                self._target, scripts.REPAIR_AP_PURGE, [scripts.GUARD, scripts.PARKED, scripts.PEERS], args
            )
            if run_id not in (b"", server):
                raise Unread(f"{self._target} was restarted meanwhile; run this again")
            run_id, removed = server, removed + gone
            if cursor == b"0":
                break
        return removed

    def settle(self) -> None:
        """After the merges: the others' marks, floor and clock. Raises Unread."""
        args = [*self._guard.expectation(self._guard.state), self._seen.mark, self._seen.done, self._seen.floor]
        self._ask(self._target, scripts.REPAIR_AP_MARKS, [scripts.GUARD, scripts.AP_STATE], args)

    def merge(self, origin: str, progress: Callable[[int], None]) -> int:
        """Copy all of ``origin``; returns the number of entries looked at. Raises Unread."""
        theirs = self._close(origin)
        if self._marks(origin).before(self._seen):
            raise Unread("its data is from before a collection: repair it first")
        now = int(self._ask(self._target, scripts.AP_STATUS, _STATUS_KEYS, [])[1])
        head = self._ask(origin, scripts.AP_PULL, _PULL_KEYS, [0, 0, 0, self._target])[1]
        merged = self._copy(origin, theirs, scripts.AP_PARKED, [scripts.GUARD, scripts.PARKED], progress, 0)
        merged = self._copy(origin, theirs, scripts.AP_SCAN, [scripts.GUARD], progress, merged)
        # A moved cursor means that the zone's replicator has merged this origin already.
        self._apply(
            self._target, self._guard, origin, self._record, str(Position(theirs.incarnation, int(head), now)), []
        )
        return merged

    def _close(self, origin: str) -> Guard:
        closed = str(Position(f"{self._guard.incarnation}-closed", 0, None))
        for _attempt in range(5):
            fields, _now, _seq, _parked, _outbox, peers = self._ask(origin, scripts.AP_STATUS, _STATUS_KEYS, [])
            theirs = Guard.from_fields(fields)
            if theirs is None or theirs.region_epoch != self._guard.region_epoch or theirs.node != origin:
                raise Unread("it is not a node of this region epoch")
            held = dict(zip(peers[::2], peers[1::2], strict=True)).get(self._target.encode(), b"").decode()
            if self._apply(origin, theirs, self._target, held, closed, []) and self._end_copies(origin, theirs):
                return theirs
        raise Unread("its position kept moving")

    def _end_copies(self, origin: str, theirs: Guard) -> bool:
        """Pages of the target's old history that are still on their way to ``origin`` are refused from now on."""
        args = [*theirs.expectation(theirs.state), self._marks(origin).mark + 1, ""]
        keys = [scripts.GUARD, scripts.AP_STATE]
        return not self._ask(origin, scripts.AP_COLLECT_MARK, keys, args, also=b"LATE")

    def _marks(self, node: str) -> Marks:
        return Marks.parse(self._ask(node, scripts.AP_MARKS, [scripts.GUARD, scripts.AP_STATE], [])[1:])

    def _copy(
        self,
        origin: str,
        theirs: Guard,
        script: scripts.Script,
        keys: list[Any],
        progress: Callable[[int], None],
        merged: int,
    ) -> int:
        cursor, count, run_id = b"0", FIRST_PAGE, b""
        while True:
            fields, cursor, flat, server = self._ask(origin, script, keys, [cursor, count])
            now = Guard.from_fields(fields)
            if now is None or now.incarnation != theirs.incarnation or run_id not in (b"", server):
                raise Unread("it changed or was restarted meanwhile")
            run_id = server
            rows = [tuple(flat[i : i + 5]) for i in range(0, len(flat), 5)]
            self._apply(self._target, self._guard, origin, "*", str(self._mark), rows)
            merged += len(rows)
            progress(merged)
            size = sum(len(f) for f in flat)
            count = max(1, count // 2) if size > PAGE_BYTES else min(1000, count * 2)
            if cursor == b"0":
                return merged

    def _apply(
        self, node: str, guard: Guard, origin: str, expected: str, position: str, rows: list[tuple[bytes, ...]]
    ) -> bool:
        """False: the cursor is not the expected one."""
        keys: list[Any] = [scripts.GUARD, scripts.PEERS, scripts.AP_STATE, scripts.PARKED]
        keys += [b"ap:" + row[0] for row in rows]
        args: list[Any] = [*guard.expectation(guard.state), origin, expected, position, self._drift, len(rows)]
        for row in rows:
            args += row
        return len(self._ask(node, scripts.AP_APPLY, keys, args, also=b"CURSOR")) > 1

    def _ask(
        self, node: str, script: scripts.Script, keys: list[Any], args: list[Any], also: bytes = b"OK"
    ) -> list[Any]:
        outcome = self._nodes.ask(node, script, keys, args)
        if not isinstance(outcome, Answer):
            raise Unread(f"{node}: {outcome.reason}")
        if outcome.value[0] not in (b"OK", also):
            raise Unread(f"{node}: guard changed")
        rest: list[Any] = outcome.value[1:]
        return rest


_STATUS_KEYS = [scripts.GUARD, scripts.AP_STATE, scripts.PEERS, scripts.PARKED, scripts.OUTBOX]
_PULL_KEYS = [scripts.GUARD, scripts.OUTBOX, scripts.AP_STATE, scripts.PEERS]

"""Drives the procedures of repair.py on real nodes: one round of requests at a time, all in parallel."""

from __future__ import annotations

import queue
import time
from typing import Any, TypeVar

from . import scripts
from .contract import VALUE, NotDone, Query, Register, Reply
from .cp_service import floored, query_word
from .guard import Guard
from .link import Answer, Failed, NodeLink, script_command
from .repair_plan import (
    Ask,
    Compare,
    Differs,
    Floor,
    Forget,
    Look,
    Move,
    Moved,
    Older,
    Page,
    Round,
    Rows,
    Seen,
    Step,
    Steps,
    Told,
)
from .scripts import Script
from .settings import BootstrapSettings

#: COUNT of a SCAN page: a node is locked for about a millisecond. Values travel in chunks (repair.CHUNK).
PAGE_KEYS = 500
#: Pause after a round in which some node did not answer.
PAUSE_SEC = 0.3
T = TypeVar("T")


class RepairNodes:
    """A context manager: the links are stopped at the end."""

    def __init__(self, settings: BootstrapSettings) -> None:
        self.names = tuple(settings.nodes)
        self._timeout = max(2.0, settings.network_timeout_sec * 3)
        self._links = {
            name: NodeLink(name, address, settings.redis, settings.network_timeout_sec)
            for name, address in settings.nodes.items()
        }

    def __enter__(self) -> RepairNodes:
        for link in self._links.values():
            link.start()
        return self

    def __exit__(self, *_why: object) -> None:
        for link in self._links.values():
            link.stop()

    def drive(self, steps: Steps[T]) -> T:
        """Run a procedure to its end. Raises what it raises (``Stopped``)."""
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(self._round(wanted))
        except StopIteration as end:
            result: T = end.value
            return result

    def ask(self, node: str, script: Script, keys: list[Any], args: list[Any]) -> Answer | Failed:
        """One script on one node."""
        return self._ask_all([(node, script, keys, args)])[0]

    def _round(self, wanted: Round) -> list[Told]:
        outcomes = self._ask_all([(node, *_command(request)) for node, request in wanted])
        told = [_told(request, outcome) for (_, request), outcome in zip(wanted, outcomes, strict=True)]
        if any(isinstance(t, NotDone) for t in told):
            time.sleep(PAUSE_SEC)
        return told

    def _ask_all(self, commands: list[tuple[str, Script, list[Any], list[Any]]]) -> list[Answer | Failed]:
        deadline = time.monotonic() + self._timeout
        box: queue.SimpleQueue[tuple[int, Answer | Failed]] = queue.SimpleQueue()
        for index, (node, script, keys, args) in enumerate(commands):
            self._links[node].submit(
                script_command(script, keys, args, deadline, lambda outcome, i=index: box.put((i, outcome)))  # type: ignore[misc]
            )
        outcomes: list[Answer | Failed] = [Failed("timeout", False)] * len(commands)
        for _ in commands:
            try:
                index, outcome = box.get(timeout=max(0.001, deadline + 1.0 - time.monotonic()))
            except queue.Empty:
                break
            outcomes[index] = outcome
        return outcomes


def _fields(guard: Guard | None) -> list[Any]:
    if guard is None:
        return [""] * 6
    return [guard.state, guard.region, guard.node, guard.region_epoch, guard.membership_epoch, guard.incarnation]


def _command(step: Step) -> tuple[Script, list[Any], list[Any]]:
    if isinstance(step, Look):
        return scripts.REPAIR_LOOK, [scripts.GUARD, scripts.LEASE_KEY, scripts.CP_STATE], []
    if isinstance(step, Move):
        keys: list[Any] = [scripts.GUARD, scripts.PEERS, scripts.CP_STATE]
        return scripts.REPAIR_MOVE, keys, [*_fields(step.expected), *_fields(step.new), step.history]
    believed = step.guard.expectation(step.guard.state)
    if isinstance(step, Page):
        return scripts.REPAIR_PAGE, [scripts.GUARD], [*believed, step.cursor, PAGE_KEYS]
    if isinstance(step, Compare):
        keys = [scripts.GUARD, *(scripts.cp_key(key) for key, _ in step.rows)]
        return scripts.REPAIR_OLDER, keys, [*believed, *(tag for _, tag in step.rows)]
    if isinstance(step, Floor):
        return scripts.REPAIR_FLOOR, [scripts.GUARD, scripts.CP_STATE], [*believed, step.floor]
    if isinstance(step, Forget):
        keys = [scripts.GUARD, scripts.CP_STATE, *(scripts.cp_key(key) for key, _ in step.rows)]
        return scripts.CP_COLLECT_DROP, keys, [*believed, "", *(tag for _, tag in step.rows)]
    keys = [scripts.GUARD, scripts.cp_key(step.key), scripts.CP_STATE]
    if isinstance(step.request, Query):
        return scripts.CP_QUERY, keys, [*believed, query_word(step.request)]
    register = step.request.register
    return scripts.CP_STORE, keys, [*believed, register.tag, register.kind, register.value or "", step.request.vouched]


def _told(step: Step, outcome: Answer | Failed) -> Told:
    if isinstance(outcome, Failed):
        return NotDone(outcome.reason, outcome.certain)
    head, *rest = outcome.value
    if head == b"GUARD":
        return Differs(Guard.from_fields(rest))
    if isinstance(step, Look):
        guard, others, run_id, floor, history, marked = rest
        return Seen(
            Guard.from_fields(guard), others == 0, run_id.decode(), floor.decode(), int(history or 0), marked == b"1"
        )
    if isinstance(step, Move | Floor | Forget):
        return Moved()
    if isinstance(step, Page):
        flat = [field.decode() for field in rest[2]]
        return Rows(rest[0].decode(), rest[1].decode(), tuple(zip(flat[::2], flat[1::2], strict=True)))
    if isinstance(step, Compare):
        return Older(tuple(step.rows[index][0] for index in rest))
    if isinstance(step, Ask) and isinstance(step.request, Query):
        tag, kind, value = (field.decode() for field in rest)
        return Reply(Register(tag, kind or VALUE, value if kind == VALUE else None))
    return floored([head, *rest]) or Reply(step.request.register)

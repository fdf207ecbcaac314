"""What a running node says of itself, in one batch: its clock first, then what people and `verify` want to know."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__, scripts
from ..link import Failed, NodeLink, Outcome, plain_command
from ..settings import BootstrapSettings
from . import aof_files
from .refusals import Code, Refused

#: The role `redis_node` writes the node's name into it.
OWNER = ".node-id"
#: There from the end of a full resync until the rewrite after it is through; its commands have no base before.
FOLLOWING = "temp-appendonly.aof.incr"
GUARD_FIELDS = ("state", "region", "node", "region_epoch", "membership_epoch", "incarnation")
_LOOK: tuple[tuple[Any, ...], ...] = (
    ("TIME",),
    ("INFO", "server", "persistence", "replication"),
    ("DBSIZE",),
    ("HMGET", scripts.GUARD, *GUARD_FIELDS),
    ("GET", scripts.HEARTBEAT),
)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """``moment``: its clock, seconds. All that it ran before is in its files when this is known: with ``appendfsync
    always`` Redis writes to the file before it answers."""

    moment: float
    facts: dict[str, Any]

    def refuse_other(self, node: str, data: Path) -> None:
        """Raises Refused if ``data`` or the answers are of another node. A follower has the guard of its primary."""
        mark = data / OWNER
        owner = mark.read_text(encoding="utf-8", errors="replace").strip() if mark.exists() else node
        if owner != node:
            raise Refused(f"{data} belongs to {owner}, not to {node}", "name this node's own data directory (--data)")
        said = self.facts.get("guard", {}).get("node", node)
        if said != node and self.facts.get("role") == "master":
            raise Refused(
                f"what answers as {node} says that it is {said}", "look at NODES: it leads to another node than it says"
            )

    def refuse_unless_whole(self, data: Path) -> None:
        """Raises Refused while the files are those of before a full resync: what the node has is not in them yet."""
        if self.facts.get("rewriting") and (data / aof_files.DIRECTORY / FOLLOWING).exists():
            raise Refused(
                "the node follows a new history, which is not in its append-only file yet",
                "wait until the rewrite is through (aof_rewrite_in_progress:0) and collect again",
            )


class NodeTalk:
    """A connection to one node for the time of one command."""

    def __init__(self, settings: BootstrapSettings, node: str) -> None:
        self.node, self._timeout = node, max(5.0, settings.network_timeout_sec)
        self._link = NodeLink(node, settings.nodes[node], settings.redis, settings.network_timeout_sec)

    def __enter__(self) -> NodeTalk:
        self._link.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._link.stop()

    def ask(self, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
        """The answers in order. Raises Refused if one is missing."""
        box: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        deadline = time.monotonic() + self._timeout
        for number, command in enumerate(commands):
            self._link.submit(plain_command(command, deadline, lambda out, n=number: box.put((n, out))))  # type: ignore[misc]
        answers: dict[int, Any] = {}
        while len(answers) < len(commands):
            try:
                number, outcome = box.get(timeout=self._timeout + 1)
            except queue.Empty:
                outcome = Failed("timeout", False)
            if isinstance(outcome, Failed):
                raise Refused(
                    f"{self.node} does not answer ({outcome.reason})",
                    "bring it up, and let the settings (NODES, REDIS_...) be those of the service",
                    Code.NO_ANSWER,
                )
            answers[number] = outcome.value
        return [answers[n] for n in range(len(commands))]

    def facts(self) -> NodeFacts:
        clock, info, size, guard, beat = self.ask(_LOOK)
        about = dict(ln.split(":", 1) for ln in info.decode("utf-8", "replace").splitlines() if ":" in ln)
        if about.get("aof_enabled") != "1" or about.get("loading") == "1":
            raise Refused(
                f"{self.node} runs without an append-only file, or is still loading it", "set appendonly yes, or wait"
            )
        return NodeFacts(
            int(clock[0]) + int(clock[1]) / 1e6,
            {
                "holdfast": __version__,
                "redis": about.get("redis_version", ""),
                "run_id": about.get("run_id", ""),
                "role": about.get("role", ""),
                "master_link": about.get("master_link_status"),
                "rewriting": "1" in (about.get("aof_rewrite_in_progress"), about.get("aof_rewrite_scheduled")),
                "keys": int(size),
                "guard": {n: v.decode("utf-8", "replace") for n, v in zip(GUARD_FIELDS, guard, strict=True) if v},
                "sentinel": beat.decode("ascii", "replace") if beat else None,
            },
        )

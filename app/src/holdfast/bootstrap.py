"""`holdfast bootstrap`: gives blank nodes their guard, once. Safe to run at any time, by several at once.

- All nodes reachable, distinct and blank: each is stamped *member*; but not if a node of the other region has a guard:
  then that region serves or did, and a second one beside it is what must never be. Nor while a primary there answers
  that cannot show whether it has one: it is loading its data.
- Some node has a guard: blank reachable nodes are stamped *recovering*, nothing else is touched.
- No node has a guard and one is unreachable: nothing is changed; the unreachable one may be a member of old.
- Some node is a replica (a standby region): nothing is changed, and nothing is wrong.
- A node holds data without a guard: nothing is changed; a person must decide.
"""

from __future__ import annotations

import queue
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from . import scripts
from .guard import MEMBER, RECOVERING, Guard
from .link import Answer, Command, Failed, NodeLink, Outcome, plain_command, script_command
from .region import hidden
from .region_nodes import RegionNodes
from .settings import BootstrapSettings

#: A stamp as *member* must happen within this time of having seen all nodes blank, by the node's own clock.
STAMP_WITHIN_MS = 3000
OK, UNREACHABLE_NODE, DATA_WITHOUT_GUARD, WRONG_NODE, OTHER_REGION = 0, 3, 4, 5, 6


@dataclass(slots=True)
class Seen:
    """One node as looked at. ``state``: its guard's, or blank, data_without_guard, foreign, duplicate, unreachable."""

    state: str
    reason: str = ""
    run_id: str = ""
    clock_ms: int = 0
    stamped: bool = False


@dataclass(slots=True)
class Report:
    nodes: dict[str, Seen]
    check: bool
    exit_code: int = OK
    messages: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """``changed`` is what was changed, with --check what would be."""
        shown: dict[str, Any] = {}
        for name, seen in self.nodes.items():
            shown[name] = {"state": seen.state, "stamped": seen.stamped and not self.check}
            if self.check and seen.stamped:
                shown[name]["would_stamp"] = True
            if seen.reason:
                shown[name]["reason"] = seen.reason
        result: dict[str, Any] = {"changed": any(s.stamped for s in self.nodes.values()), "nodes": shown}
        if self.check:
            result["check"] = True
        if self.messages:
            result["messages"] = self.messages
        return result


class Bootstrap:
    def __init__(self, settings: BootstrapSettings) -> None:
        self._settings = settings
        self._links = {
            name: NodeLink(name, address, settings.redis, settings.network_timeout_sec)
            for name, address in settings.nodes.items()
        }

    def run(self, check: bool) -> Report:
        """Look, decide, stamp. With ``check`` nothing is changed."""
        for link in self._links.values():
            link.start()
        try:
            report = Report({name: self._look(name) for name in self._links}, check)
            self._find_duplicates(report)
            self._decide(report)
            return report
        finally:
            for link in self._links.values():
                link.stop()

    def _decide(self, report: Report) -> None:
        states = {name: seen.state for name, seen in report.nodes.items()}
        wrong = [n for n, s in states.items() if s in ("foreign", "duplicate")]
        data = [n for n, s in states.items() if s == "data_without_guard"]
        away = [n for n, s in states.items() if s == "unreachable"]
        blank = [n for n, s in states.items() if s == "blank"]
        guarded = set(states) - {*wrong, *data, *away, *blank}
        if wrong:
            report.exit_code = WRONG_NODE
            report.messages.append(f"{', '.join(wrong)}: not the node NODES says, or one server twice; correct NODES")
        elif data:
            report.exit_code = DATA_WITHOUT_GUARD
            report.messages.append(
                f"{', '.join(data)}: holds data but no guard; nothing was changed. Find out whose "
                "data it is; empty the node if it is not wanted"
            )
        elif "replica" in states.values():
            report.messages.append(
                "nodes are replicas of another region's: a standby needs no guard; nothing was changed"
            )
        elif guarded:
            self._stamp_late(report, blank)
        elif away:
            report.exit_code = UNREACHABLE_NODE
            report.messages.append(
                f"{', '.join(away)}: unreachable and no other node has a guard; nothing was "
                "changed. Bring it up and run this again"
            )
        else:
            self._stamp_first(report, blank)

    def _stamp_first(self, report: Report, blank: list[str]) -> None:
        """All are blank. Peers that do not answer or are blank too are no hindrance: a first start looks like that."""
        held, silent = self._look_at_peers()
        if held:
            report.exit_code = OTHER_REGION
            report.messages.append(
                f"{', '.join(blank)}: blank, but the other region has guards ({', '.join(held)}): it serves or did, "
                "and this region must not begin beside it; nothing was changed. Make these nodes replicas of its nodes "
                "(REPLICAOF); if there is no other region any more, empty PEER_NODES"
            )
            return
        if silent:
            report.exit_code = UNREACHABLE_NODE
            report.messages.append(
                f"{', '.join(blank)}: blank, but nodes of the other region answer and do not show whether they have a "
                f"guard ({', '.join(silent)}); nothing was changed. Run this again when they do"
            )
            return
        for name in blank:
            self._stamp(report, name, MEMBER)

    def _look_at_peers(self) -> tuple[list[str], list[str]]:
        """What those nodes of the other region say that have a guard; and those that answer without saying."""
        if not self._settings.peers:
            return [], []
        peers = RegionNodes(self._settings.peers, self._settings.redis, self._settings.network_timeout_sec * 2)
        peers.start()
        try:
            seen = peers.ask().wait()
        finally:
            peers.stop()
        guards = {n: s.guard for n, s in seen.items() if s.guard is not None}
        held = [f"{n}: {g.state} of {g.region} at region epoch {g.region_epoch}" for n, g in guards.items()]
        return held, [f"{n}: {why}" for n, why in hidden(seen).items()]

    def _stamp_late(self, report: Report, blank: list[str]) -> None:
        """Others have guards already. Perhaps another bootstrap is just stamping: give it the time it has."""
        if blank and not report.check:
            time.sleep(STAMP_WITHIN_MS / 1000 + 0.2)
            for name in blank:
                report.nodes[name] = self._look(name)
        for name in blank:
            if report.nodes[name].state == "blank":
                self._stamp(report, name, RECOVERING)

    def _look(self, name: str) -> Seen:
        # The guard last: whoever stamps the node in between must not make it look like data without a guard.
        info = self._ask(name, plain_command, ("INFO", "server"))
        size = self._ask(name, plain_command, ("DBSIZE",))
        clock = self._ask(name, plain_command, ("TIME",))
        guard_reply = self._ask(name, script_command, scripts.GUARD_READ, [scripts.GUARD], [])
        for reply in (info, size, clock, guard_reply):
            if isinstance(reply, Failed):
                replica = reply.reason in ("readonly", "masterdown")
                return Seen("replica" if replica else "unreachable", reply.reason)
        run_id = next((ln[7:] for ln in _text(info).splitlines() if ln.startswith("run_id:")), "")
        seconds, micros = clock.value  # type: ignore[union-attr]
        seen = Seen("", "", run_id, int(seconds) * 1000 + int(micros) // 1000)
        guard = Guard.from_fields(guard_reply.value[1:7])  # type: ignore[union-attr]
        if guard is not None:
            ours = guard.region == self._settings.region and guard.node == name
            seen.state = guard.state if ours else "foreign"
            if not ours:
                seen.reason = f"the guard names node {guard.node} of region {guard.region}"
        else:
            seen.state = "blank" if size.value == 0 else "data_without_guard"  # type: ignore[union-attr]
        return seen

    def _find_duplicates(self, report: Report) -> None:
        first: dict[str, str] = {}
        for name, seen in report.nodes.items():
            if not seen.run_id:
                continue
            if seen.run_id in first:
                seen.state, seen.reason = "duplicate", f"the same server as {first[seen.run_id]}"
            first.setdefault(seen.run_id, name)

    def _stamp(self, report: Report, name: str, state: str) -> None:
        seen = report.nodes[name]
        if report.check:
            seen.stamped = True
            return
        args = [
            state,
            self._settings.region,
            name,
            1,
            1,
            secrets.token_hex(16),
            seen.run_id,
            seen.clock_ms + STAMP_WITHIN_MS,
        ]
        reply = self._ask(name, script_command, scripts.BOOTSTRAP_STAMP, [scripts.GUARD], args)
        if isinstance(reply, Failed):
            seen.state, seen.reason = "unreachable", reply.reason
            report.exit_code = UNREACHABLE_NODE
            report.messages.append(f"{name}: lost while it was stamped ({reply.reason}); run this again")
            return
        outcome = reply.value[0]
        if outcome == b"OK":
            seen.state, seen.stamped = state, True
        elif outcome == b"EXISTS":
            # Somebody else was faster. Nothing is wrong with that, but say what is there now.
            again = self._look(name)
            seen.state, seen.reason = again.state, again.reason
        else:
            report.exit_code = UNREACHABLE_NODE if outcome == b"CHANGED" else DATA_WITHOUT_GUARD
            report.messages.append(f"{name}: changed while it was looked at; run this again")

    def _ask(self, name: str, make: Any, *args: Any) -> Answer | Failed:
        box: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        deadline = time.monotonic() + self._settings.network_timeout_sec * 2
        command: Command = make(*args, deadline, box.put)
        self._links[name].submit(command)
        try:
            return box.get(timeout=self._settings.network_timeout_sec * 3)
        except queue.Empty:
            return Failed("timeout", False)


def _text(reply: Answer | Failed) -> str:
    return reply.value.decode("utf-8", "replace") if isinstance(reply, Answer) else ""

"""Writes what a runbook did into evidence/<UTC timestamp>-<runbook>/record.json, also when the run failed or was interrupted.

Role `evidence` speaks to it by `set_stats` (`holdfast_evidence`); it speaks to the role by the environment variable HOLDFAST_RUN,
because Ansible's workers inherit it. The file is there from Open on and says "interrupted" until something better is known, so not even
a kill leaves a run without a record.
"""

from __future__ import annotations

DOCUMENTATION = """
name: holdfast_evidence
type: notification
short_description: Records the phases, durations and verdict of a runbook
description: Times phases and tasks of playbooks in a directory named C(runbooks), writes C(record.json), frees the lock of a failed run.
requirements: [enable it in ansible.cfg]
author: Holdfast
"""

import atexit
import contextlib
import dataclasses
import datetime
import functools
import getpass
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.utils.vars import load_extra_vars

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import drill_evidence

PHASE = re.compile(r"(\d+)\.? (\S.*)")
#: `prefix`: the beginning of users' keys, as `key` is one.
SECRET = re.compile(r"password|secret|passphrase|token|key|^prefix$", re.IGNORECASE)
#: Actions that touch no host: their time is Ansible's own.
OWN = re.compile(r"(ansible\.builtin\.)?(assert|debug|fail|set_fact|set_stats|meta|add_host|validate_argument_spec|(include|import)_\w+)")
SLOWEST = 5
LIBRARY = Path(__file__).resolve().parents[2] / "roles/evidence/library"
HIDDEN = "(not recorded)"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without_secrets(held: Any, name: str = "") -> Any:
    if SECRET.search(name) and not isinstance(held, bool):
        return HIDDEN
    if isinstance(held, dict):
        return {str(key): without_secrets(value, str(key)) for key, value in held.items()}
    return [without_secrets(value) for value in held] if isinstance(held, list) else held


def arguments_shown(given: dict[str, Any]) -> dict[str, Any]:
    """Without secrets, also where one is repeated under another name: what is typed to confirm may be the key itself."""
    hidden = {str(value) for name, value in given.items() if SECRET.search(name) and not isinstance(value, bool)}
    return without_secrets({name: HIDDEN if isinstance(value, str) and value in hidden else value for name, value in given.items()})


def commit() -> str:
    """The checkout's commit, with "-dirty" when tracked files differ from it."""
    git = ["git", "-C", str(LIBRARY), "--no-optional-locks"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False, timeout=10).returncode
        return head + ("-dirty" if changed else "")
    return "unknown"


@dataclasses.dataclass
class Task:
    name: str
    own: bool
    began: float
    last: float
    skipped: bool = True

    @property
    def seconds(self) -> float:
        return self.last - self.began


@dataclasses.dataclass
class Phase:
    number: int
    title: str
    started: str = dataclasses.field(default_factory=now)
    began: float = dataclasses.field(default_factory=time.monotonic)
    ended: str | None = None
    over: float | None = None
    tasks: list[Task] = dataclasses.field(default_factory=list)

    def end(self) -> None:
        if self.over is None:
            self.ended, self.over = now(), time.monotonic()

    def report(self, failed: bool) -> dict[str, Any]:
        seconds = (self.over or time.monotonic()) - self.began
        busy = sum(task.seconds for task in self.tasks if not task.own)
        slowest = sorted(self.tasks, key=lambda task: task.seconds, reverse=True)[:SLOWEST]
        return {
            "number": self.number,
            "title": self.title,
            "started": self.started,
            "ended": self.ended,
            "result": "failed" if failed else "skipped" if all(task.skipped for task in self.tasks) else "ok",
            "tasks": len(self.tasks),
            "seconds": round(seconds, 3),
            "ansible_seconds": round(max(0.0, seconds - busy), 3),
            "slowest": [{"task": task.name, "seconds": round(task.seconds, 3)} for task in slowest],
        }


class CallbackModule(CallbackBase):
    """Follows one run; does nothing for playbooks outside a directory named runbooks."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "holdfast_evidence"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.run: dict[str, Any] = {}
        self.record: dict[str, Any] = {}
        self.place: Path | None = None  # of record.json, once Open has succeeded
        self.phases: list[Phase] = []
        self.phase: Phase | None = None
        self.task: Task | None = None
        self.wrong: dict[str, list[tuple[Phase | None, str]]] = {}  # host -> its failures
        self.away: dict[str, tuple[Phase | None, str]] = {}  # host -> where it became unreachable
        self.locked: dict[str, tuple[bool, str]] = {}  # host with our lock -> whether become is needed there, and the lock's path
        self.metrics: dict[str, Any] = {}  # where the numbers of drills are scraped: hosts, directory, become
        self.closed = self.done = False

    # What Ansible tells.

    def v2_playbook_on_start(self, playbook: Any) -> None:
        path = Path(playbook._file_name).resolve()
        os.environ.pop("HOLDFAST_RUN", None)
        if path.parent.name != "runbooks":
            self.disabled = True
            return
        if context.CLIARGS.get("start_at_task"):
            raise SystemExit(
                "--start-at-task would leave out the lock and the checks of a runbook. Run it from the start; it may be run again."
            )
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        operator = f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"
        self.run = {"name": f"{stamp}-{path.stem}", "runbook": path.stem, "operator": operator, "pid": os.getpid()}
        os.environ["HOLDFAST_RUN"] = json.dumps(self.run)
        self.record = {
            "format": 1,
            "runbook": path.stem,
            "drill": False,
            "reason": "",
            "operator": operator,
            "git_commit": commit(),
            "inventory": ", ".join(str(source) for source in context.CLIARGS.get("inventory") or ()),
            "started": now(),
            "ended": None,
            "arguments": arguments_shown(dict(load_extra_vars(playbook._loader))),
            "phases": [],
            "fault": None,
            "verdict": "interrupted",
            "failed_task": None,
            "facts": {},
            "targets": {},
            "rto_seconds": None,
            "rpo_seconds": None,
            "lost_acked_writes": None,
        }
        atexit.register(self._interrupted)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._enter(str(play.get_name()).strip())

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        above = task._parent
        while above is not None:
            if type(above).__name__ == "Block" and PHASE.fullmatch(str(above.name or "")):
                self._enter(str(above.name))
                break
            above = above._parent
        moment = time.monotonic()
        self.task = Task(str(task.get_name()), bool(OWN.fullmatch(task.action)), moment, moment)
        if self.phase:
            self.phase.tasks.append(self.task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, False)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._ended(skipped=False)
        said = (result._result.get("ansible_stats") or {}).get("data", {}).get("holdfast_evidence")
        if isinstance(said, dict):
            self._told(result._host.get_name(), said, bool(result._task_fields.get("become")))

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._ended(skipped=True)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._ended(skipped=False)
        if not ignore_errors:
            self.wrong.setdefault(result._host.get_name(), []).append((self.phase, str(result.task_name)))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._ended(skipped=False)
        self.away.setdefault(result._host.get_name(), (self.phase, str(result.task_name)))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if not self.place:
            return
        causes = []
        for host, events in self.wrong.items():
            summary = stats.summarize(host)
            if summary["failures"]:
                causes += events[-1:] if summary["rescued"] else events
        if not causes and not self.closed:
            causes = list(self.away.values())
        verdict = "passed" if self.closed and not causes else "failed"
        self._finish(verdict, causes)
        if self.locked:
            self._free()
            self._write(causes)
        if self.record["drill"]:
            drill_evidence.stop_client(self.place.parent)
            self._after_a_drill()
        self._display.display(f"\nEvidence: {self.place} (verdict: {json.loads(self.place.read_text())['verdict']})")

    def _after_a_drill(self) -> None:
        assert self.place
        drill_evidence.make_pages(self.place.parent, self._display.warning)
        bring = functools.partial(self._bring_metrics, self.metrics["hosts"])
        drill_evidence.bring_metrics(self.place.parents[1], self.metrics["hosts"], bring, self._display.warning)

    def _bring_metrics(self, hosts: list[str], text: str) -> list[str]:
        return self._there(hosts, self.metrics["become"], "drill_metrics", {"directory": self.metrics["directory"], "text": text})

    # What role `evidence` tells.

    def _told(self, host: str, said: dict[str, Any], become: bool) -> None:
        if opened := said.get("open"):
            self.locked[host] = (become, opened["lock_file"])
            if not self.place:
                self.record |= {name: opened[name] for name in ("reason", "drill", "targets")}
                self.metrics = opened.get("metrics", {}) | {"become": become}
                self.place = Path(opened["directory"]) / self.run["name"] / "record.json"
                self.place.parent.mkdir(parents=True)
            if opened.get("taken_over"):
                self.record["facts"].setdefault("locks_taken_over", {})[host] = opened["taken_over"]
        if self.place and "close" in said:
            self.locked.pop(host, None)
            self.closed = True
        for name in ("facts", "targets") if self.place else ():
            self.record[name].update(without_secrets(said.get(name) or {}))
        self.record["fault"] = said.get("fault") or self.record["fault"]
        for name, value in (said.get("measured") or {}).items():
            if name in ("rto_seconds", "rpo_seconds", "lost_acked_writes"):
                self.record[name] = value
        self._write()

    # Bookkeeping.

    def _enter(self, title: str) -> None:
        found = PHASE.fullmatch(title)
        number = int(found[1]) if found else None
        if self.phase and self.phase.number == number:
            return
        if self.phase:
            self.phase.end()
        self.phase = None
        if found:
            self.phase = Phase(int(found[1]), found[2])
            self.phases.append(self.phase)
        self._write()

    def _ended(self, skipped: bool) -> None:
        if self.task:
            self.task.last = time.monotonic()
            self.task.skipped = self.task.skipped and skipped

    def _write(self, causes: list[tuple[Phase | None, str]] | None = None) -> None:
        if not self.place:
            return
        broken = [phase for phase, _ in causes or []]
        self.record["phases"] = [phase.report(any(phase is other for other in broken)) for phase in self.phases]
        if self.away:
            self.record["facts"]["unreachable_hosts"] = sorted(self.away)
        new = self.place.with_suffix(".new")
        new.write_text(json.dumps(self.record, indent=2, default=lambda _: HIDDEN) + "\n")
        new.replace(self.place)

    def _finish(self, verdict: str, causes: list[tuple[Phase | None, str]]) -> None:
        self.done = True
        if self.phase:
            self.phase.end()
        self.record |= {"ended": now(), "verdict": verdict, "failed_task": causes[0][1] if causes and verdict != "passed" else None}
        self._write(causes)

    def _interrupted(self) -> None:
        """At the end of the process: nobody said how the run ended. The lock stays, for what was under way is half done."""
        if not self.place or self.done or os.getpid() != self.run["pid"]:
            return
        drill = self.record["drill"]
        if drill:
            drill_evidence.stop_client(self.place.parent)
        self._finish("interrupted", [])
        again = "start the same runbook again" + (", without -e drill=true where nothing serves" if drill else "")
        left = f" The lock stays on {', '.join(self.locked)}: {again}." if self.locked else ""
        print(f"\nEvidence: {self.place} (verdict: interrupted).{left}", flush=True)
        if drill:
            with contextlib.suppress(KeyboardInterrupt):  # whoever cannot wait for the page and the numbers
                self._after_a_drill()

    def _free(self) -> None:
        """Free the lock where Close did not come: a play does not run after one whose hosts all failed, so another process has to."""
        left = []
        for become, path in sorted(set(self.locked.values())):
            hosts = [host for host, where in self.locked.items() if where == (become, path)]
            left += self._there(hosts, become, "runbook_lock", {"state": "free", "path": path, "run": self.run["name"]})
        if left:
            self.record["facts"]["lock_left_on"] = left
            self._display.warning(f"the lock stays on {', '.join(left)}; the same operator's next run of this runbook takes it over")

    def _there(self, hosts: list[str], become: bool, module: str, arguments: dict[str, str]) -> list[str]:
        """Run a module of this role on hosts, by a process of its own; returns the hosts where it was not done."""
        lists = {"-i": "inventory", "-e": "extra_vars", "--vault-password-file": "vault_password_files", "--vault-id": "vault_ids"}
        given = [part for option, name in lists.items() for value in context.CLIARGS.get(name) or () for part in (option, str(value))]
        single = {"-u": "remote_user", "--private-key": "private_key_file"}
        given += [part for option, name in single.items() if context.CLIARGS.get(name) for part in (option, str(context.CLIARGS[name]))]
        command = [str(Path(sys.argv[0]).with_name("ansible")), ",".join(hosts), *given, *(["--become"] if become else [])]
        command += ["-m", module, "-a", json.dumps(arguments)]
        env = os.environ | {"ANSIBLE_LIBRARY": str(LIBRARY)}
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False)
            return [host for host in hosts if not re.search(rf"^{re.escape(host)} \| (SUCCESS|CHANGED)", done.stdout, re.MULTILINE)]
        return hosts

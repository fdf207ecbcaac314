"""Runs playbooks/site.yml on the lab, a line for each play, and says what failed where."""

import json
import os
import re
import time

from . import paths
from .hosts import Lab
from .report import Problem, Report, Step, last_lines

FAILED = re.compile(r"^(?:\[ERROR\]: |fatal: |failed: )(.*)")
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")


def playbook_environment() -> dict[str, str]:
    """Our own environment's Ansible first, no colour, whatever the user has set for Ansible elsewhere left out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_") or name == "ANSIBLE_STRATEGY"}
    return {**kept, "PATH": f"{paths.VENV}/bin:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}


def said(failure: str) -> str:
    """What a failed task says: its message and the end of its error output, for that is where the reason stands."""
    host, arrow, result = failure.partition(" => ")
    try:
        fields = json.loads(result) if arrow else None
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return failure[:400]
    output = last_lines(str(fields.get("stderr") or fields.get("stdout") or ""), 8)
    return f"{host} {str(fields.get('msg', ''))[:400]}" + (f"\n{output}" if output else "")


class Watcher:
    """Reads a playbook's output line by line."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.play, self.play_started, self.task = "", time.monotonic(), ""
        self.errors: list[str] = []
        self.changed: dict[str, int] = {}
        self.failed: list[str] = []

    def line(self, text: str) -> None:
        if text.startswith(("PLAY [", "PLAY RECAP")):
            self._end_play()
            self.play = text[6 : text.rfind("]")] if text.startswith("PLAY [") else ""
        elif text.startswith(("TASK [", "RUNNING HANDLER [")):
            self.task = text[text.index("[") + 1 : text.rfind("]")]
            self.step.say(self.task)
        elif match := FAILED.match(text):
            self.errors.append(f"{self.task}: {said(match[1])}")
        elif match := RECAP.match(text):
            self.changed[match[1]] = int(match[3])
            if match[4] != "0" or match[5] != "0":
                self.failed.append(match[1])

    def _end_play(self) -> None:
        now = time.monotonic()
        if self.play:
            self.step.sub(self.play, now - self.play_started)
        self.play_started = now


def batches(lab: Lab) -> list[int]:
    """How many zones to work on at a time, in the inventory's order: neighbours of different regions, never two zones of one."""
    sizes: list[int] = []
    regions: set[str] = set()
    for host in lab.hosts:
        if not host.serves:
            continue
        if not sizes or host.region in regions:
            sizes.append(0)
            regions = set()
        sizes[-1] += 1
        regions.add(host.region)
    return sizes


def converge(report: Report, step: Step, lab: Lab, first_time: bool) -> str:
    """Run site.yml; on hosts that serve nothing yet all zones at once, else one of a region after the other. Returns a note."""
    watcher = Watcher(step)
    command = [f"{paths.VENV}/bin/ansible-playbook", "playbooks/site.yml", "-i", "inventories/lab"]
    command += ["-e", json.dumps({"rollout_hosts_at_once": "100%" if first_time else batches(lab)})]
    code = report.stream(command, watcher.line, cwd=paths.ROOT, env=playbook_environment())
    if code != 0:
        where = f" on {', '.join(watcher.failed)}" if watcher.failed else ""
        raise Problem(
            f"playbooks/site.yml failed{where}", "the lines above name it; mend it and run bin/lab again", "\n".join(watcher.errors[-5:])
        )
    return f"changed={sum(watcher.changed.values())}"

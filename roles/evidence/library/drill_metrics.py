#!/usr/bin/python
"""The newest drills, whoever ran them, as one file for node_exporter's textfile collector."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: drill_metrics
short_description: Merges the numbers of one control machine's newest drills into the file of all
description:
  - Each runbook keeps its newest drill and its newest drill that passed, by when they ended, whichever control machine brought them.
  - The file is replaced at once, under an flock of its directory, so no scrape sees half of it and of two runs neither's numbers are lost.
options:
  directory: {type: path, required: true, description: Directory of the textfile collector; made when it is not there.}
  text: {type: str, required: true, description: What `holdfast evidence metrics` printed.}
author: Holdfast
"""
EXAMPLES = "- drill_metrics: {directory: /var/lib/prometheus/node-exporter, text: '{{ printed }}'}"
RETURN = "path: {type: str, returned: success, description: The file.}"

FILE = "holdfast_drills.prom"
SERIES = re.compile(r'(holdfast_drill_\w+)\{runbook="((?:[^"\\]|\\.)*)"\} ([0-9.]+)')
#: What belongs together: the moment that decides, and the numbers of that drill.
GROUPS = {
    "holdfast_drill_last_success_timestamp_seconds": ("holdfast_drill_rto_seconds", "holdfast_drill_rpo_seconds"),
    "holdfast_drill_last_run_timestamp_seconds": ("holdfast_drill_last_run_success",),
}
#: A moment further ahead is a wrong clock's, and would stand for ever.
MAX_AHEAD_SECONDS = 3600
Drills = dict[tuple[str, str], dict[str, str]]


def read(text: str, now: float) -> Drills:
    """(deciding metric, runbook) -> value by metric. What is no such line, or from a clock that is ahead, is left out."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if match := SERIES.fullmatch(line):
            found.setdefault(match[2], {})[match[1]] = match[3]
    drills: Drills = {}
    for runbook, values in found.items():
        for moment, others in GROUPS.items():
            if moment in values and float(values[moment]) <= now + MAX_AHEAD_SECONDS:
                drills[moment, runbook] = {name: values[name] for name in (moment, *others) if name in values}
    return drills


def merge(there: str, brought: str, now: float) -> str:
    newest = read(there, now)
    for (moment, runbook), values in read(brought, now).items():
        held = newest.get((moment, runbook))
        if held is None or float(values[moment]) >= float(held[moment]):
            newest[moment, runbook] = values
    lines = []
    for moment, others in GROUPS.items():
        for metric in (moment, *others):
            lines += [line for line in brought.splitlines() if re.match(rf"# (HELP|TYPE) {metric} ", line)]
            lines += [
                f'{metric}{{runbook="{runbook}"}} {values[metric]}'
                for (of, runbook), values in sorted(newest.items())
                if of == moment and metric in values
            ]
    return "\n".join(lines) + "\n"


def land(directory: Path, brought: str) -> bool:
    """Whether the file changed. Raises OSError, and ValueError for a text without metrics; then the old one stands."""
    if missing := [moment for moment in GROUPS if f"# TYPE {moment} " not in brought]:
        raise ValueError(f"the text says nothing of {' and '.join(missing)}")
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, number)
        fcntl.flock(number, fcntl.LOCK_EX)
        path = directory / FILE
        there = path.read_text(errors="replace") if path.exists() else ""
        merged = merge(there, brought, time.time())
        if merged == there:
            return False
        handle, new = tempfile.mkstemp(prefix=f".{FILE}.", dir=directory)  # the collector reads *.prom only
        try:
            with os.fdopen(handle, "w") as out:
                out.write(merged)
                out.flush()
                os.fsync(out.fileno())
            Path(new).chmod(0o644)
            Path(new).replace(path)
        except OSError:
            Path(new).unlink(missing_ok=True)
            raise
    return True


def main() -> None:
    module = AnsibleModule(argument_spec={"directory": {"type": "path", "required": True}, "text": {"type": "str", "required": True}})
    directory = Path(module.params["directory"])
    try:
        changed = land(directory, module.params["text"])
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        module.fail_json(msg=f"{directory / FILE} cannot be written: {why}. The file from before stands.")
    module.exit_json(changed=changed, path=str(directory / FILE))


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""The lock of runbooks on a host: who acts there now, and since when nothing was heard of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: runbook_lock
short_description: Takes, renews, reads and frees the lock of runbooks on a host
description: The lock is a file with a JSON object. All changes are made under an flock of its directory, so two runs cannot both take it.
options:
  path: {type: path, required: true, description: The lock file.}
  state:
    type: str
    choices: [read, taken, renewed, free]
    required: true
    description: What to do. C(renewed) fails when the lock is not this run's any more; C(free) leaves another run's lock alone.
  run: {type: str, required: true, description: "Name of this run, unique."}
  runbook: {type: str, default: "", description: The runbook this run executes.}
  holder: {type: str, default: "", description: "Who runs it, as operator@control-machine."}
  pid: {type: int, default: 0, description: Process of this run on the control machine.}
  stale_seconds: {type: int, default: 0, description: A lock whose heartbeat is older may be taken over; 0 for never.}
  take_over: {type: str, default: "", description: Holder whose lock is to be taken over.}
  over: {type: str, default: "", description: Name of a run known to have ended without freeing its lock.}
author: Holdfast
"""
EXAMPLES = "- runbook_lock: {path: /etc/holdfast/runbook.lock, state: free, run: 20261128T120000Z-dr_failover}"
RETURN = """
lock: {type: dict, returned: always, description: "The lock afterwards: holder, runbook, run, pid, since, heartbeat, age_seconds."}
taken: {type: bool, returned: always, description: Whether it is this run's.}
taken_over: {type: dict, returned: always, description: "The lock that was taken over, or {}."}
"""


def read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"holder": "unknown", "runbook": "unknown", "run": "unknown", "pid": 0, "heartbeat": 0.0, "since": "unknown"}
    held["age_seconds"] = max(0, int(time.time() - held["heartbeat"]))
    return held


def write(path: Path, lock: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({name: value for name, value in lock.items() if name != "age_seconds"}, indent=1) + "\n")
    os.replace(new, path)


def may_take(held: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if not held or held["run"] in (wanted["run"], wanted["over"]):
        return True
    stale = 0 < wanted["stale_seconds"] < held.get("age_seconds", 0)
    return bool(stale or held["holder"] == wanted["take_over"])


def act(wanted: dict[str, Any], check: bool) -> dict[str, Any]:
    path = Path(wanted["path"])
    held, taken_over = read(path), {}
    mine = held.get("run") == wanted["run"]
    lock = held
    if wanted["state"] == "taken" and may_take(held, wanted):
        taken_over = held if held and not mine else {}
        lock = {name: wanted[name] for name in ("holder", "runbook", "run", "pid")}
        lock |= {"since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "heartbeat": time.time()}
    elif wanted["state"] == "renewed" and mine:
        lock = held | {"heartbeat": time.time()}
    elif wanted["state"] == "free" and mine:
        lock = {}
    if lock != held and not check:
        if lock:
            write(path, lock)
        else:
            path.unlink()
    return {
        "lock": lock,
        "taken": lock.get("run") == wanted["run"],
        "taken_over": taken_over,
        "changed": lock.get("run") != held.get("run"),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["read", "taken", "renewed", "free"], "required": True},
            "run": {"type": "str", "required": True},
            **{name: {"type": "str", "default": ""} for name in ("runbook", "holder", "take_over", "over")},
            **{name: {"type": "int", "default": 0} for name in ("pid", "stale_seconds")},
        },
        supports_check_mode=True,
    )
    folder = Path(module.params["path"]).parent
    if module.params["state"] == "taken" and not module.check_mode:
        folder.mkdir(mode=0o755, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if folder.is_dir():
            number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, number)
            fcntl.flock(number, fcntl.LOCK_EX)
        result = act(module.params, module.check_mode)
    if module.params["state"] == "renewed" and not result["taken"] and not module.check_mode:
        holder = f"{result['lock']['holder']} ({result['lock']['runbook']})" if result["lock"] else "nobody: it was freed"
        problem = f"The lock was taken away from this run; it belongs to {holder}. Find out what they do before you go on."
        module.fail_json(msg=problem, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

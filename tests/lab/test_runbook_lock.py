"""The lock of runbooks: who may take it, and that of many who try at once one has it."""

import importlib.util
import json
import subprocess
import time

import pytest
from runs import OPERATOR, ROOT


def lock_module():
    spec = importlib.util.spec_from_file_location("runbook_lock", ROOT / "roles/evidence/library/runbook_lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("age", "held", "wanted", "taken"),
    [
        (65, {}, {}, True),  # silent for longer than stale_seconds
        (40, {}, {}, False),
        (65, {}, {"stale_seconds": 0}, False),
        (30, {}, {"take_over": "bert@elsewhere"}, True),
        (30, {}, {"take_over": "carl@elsewhere"}, False),
        (30, {}, {"over": "earlier"}, True),  # the role says so of the operator's own dead run
        (30, {"run": "later"}, {"over": "earlier"}, False),
        (30, {"run": "mine"}, {}, True),
    ],
)
def test_who_may_take_the_lock(tmp_path, age, held, wanted, taken):
    path, module = tmp_path / "runbook.lock", lock_module()
    there = {"holder": "bert@elsewhere", "runbook": "move", "run": "earlier", "pid": 1, "since": "then", "heartbeat": time.time() - age}
    path.write_text(json.dumps(there | held))
    asked = {"path": str(path), "state": "taken", "run": "mine", "runbook": "move", "holder": OPERATOR, "pid": 2}
    result = module.act({**asked, "stale_seconds": 60, "take_over": "", "over": "", **wanted}, False)
    assert result["taken"] is taken and result["lock"]["holder"] == (OPERATOR if taken else "bert@elsewhere")
    assert json.loads(path.read_text())["run"] == ("mine" if taken else (there | held)["run"])
    assert result["taken_over"].get("run") == ("earlier" if taken and not held else None)


def test_of_many_runs_that_take_the_lock_in_one_moment_one_has_it(tmp_path):
    """The module as Ansible runs it, in processes of its own."""
    command = [str(ROOT / ".venv/bin/python"), str(ROOT / "roles/evidence/library/runbook_lock.py")]
    started = []
    for number in range(6):
        asked = {"path": f"{tmp_path}/runbook.lock", "state": "taken", "run": f"run-{number}", "holder": "anna", "stale_seconds": 60}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": asked}))
        process.stdin.close()
        started.append(process)
    said = [json.loads(process.stdout.read()) for process in started]
    winners = [answer["lock"]["run"] for answer in said if answer["taken"]]
    assert len(winners) == 1 and {answer["lock"]["run"] for answer in said} == set(winners)


def test_a_damaged_lock_is_refused_and_can_be_taken_over(tmp_path):
    path = tmp_path / "runbook.lock"
    path.write_text("{")
    asked = {
        "path": str(path),
        "state": "taken",
        "run": "mine",
        "runbook": "move",
        "holder": "anna",
        "pid": 2,
        "stale_seconds": 60,
        "over": "",
    }
    assert not lock_module().act({**asked, "take_over": ""}, False)["taken"]
    assert lock_module().act({**asked, "take_over": "unknown"}, False)["taken"]

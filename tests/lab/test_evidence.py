"""Role evidence and its callback plugin, by running small runbooks: the record is written however the run ends, and the lock holds."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = f"anna@{socket.gethostname()}"
REASON = '{"reason": "a try of the framework"}'

INVENTORY = """
all:
  vars:
    evidence_directory: "{directory}/evidence"
    evidence_lock_file: "{directory}/locks/{{{{ inventory_hostname }}}}/runbook.lock"
    evidence_drills_allowed: "{{{{ drills | default(false) | bool }}}}"
    evidence_lock_stale_seconds: 60
    ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
  children:
    region:
      hosts:
        one: {{ansible_connection: local}}
        two: {{ansible_connection: local}}
        dead: {{ansible_host: 127.0.0.1, ansible_port: 1, ansible_timeout: 2}}
"""

RUNBOOK = """
- name: 1 Open
  hosts: "{{ pattern | default('one:two') }}"
  gather_facts: false
  tags: always
  tasks:
    - ansible.builtin.import_role: {name: evidence, tasks_from: open}
- name: 3 Confirm
  hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: evidence, tasks_from: confirm}
      vars: {evidence_name: east, evidence_plan: [nothing is lost]}
- name: The region has moved
  hosts: one
  gather_facts: false
  tasks:
    - name: 5 Switch the region
      block:
        - name: Stop in a way that is put right
          ansible.builtin.command: "false"
          when: rescued | default(false) | bool
        - name: Wait for the switch
          ansible.builtin.command:
            cmd: sh -c 'touch waiting; for i in $(seq "$0"); do sleep 0.1; test ! -e go || exit 0; done' {{ ticks | default(5) }}
            chdir: "{{ inventory_dir }}"
        - name: Stop it
          ansible.builtin.command: "{{ 'false' if broken | default(false) | bool else 'true' }}"
      rescue:
        - name: Put it right
          ansible.builtin.command: "true"
          when: rescued | default(false) | bool
        - name: Say that it failed
          ansible.builtin.fail: {msg: start it again}
          when: not rescued | default(false) | bool
    - name: 6 Verify
      block:
        - ansible.builtin.import_role: {name: evidence, tasks_from: record}
          vars: {evidence_facts: {serial: 7, redis_password: hunter2}, evidence_fault: {kind: power, at: "2026-11-28T00:00:00Z"}}
    - name: 7 Release
      block:
        - name: Start what was stopped
          ansible.builtin.command: "true"
          when: false
- name: 8 Close
  hosts: "{{ pattern | default('one:two') }}"
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: evidence, tasks_from: close}
      vars: {evidence_measured: {rto_seconds: "{{ rto | default(3.5) | float }}", rpo_seconds: 0, lost_acked_writes: 0}}
"""


class Runs:
    """A place with an inventory, a runbook and the evidence of its runs."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "runbooks").mkdir()
        (place / "locks").mkdir()
        (place / "hosts.yml").write_text(INVENTORY.format(directory=place))
        (place / "runbooks/move.yml").write_text(RUNBOOK)
        (place / "runbooks/other.yml").write_text(RUNBOOK)

    def start(self, *arguments: str, runbook: str = "move", user: str = "anna", reason: str = REASON, confirm: str = "east"):
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        env |= {"SUDO_USER": user, "ANSIBLE_NOCOLOR": "1"}
        command = [str(ROOT / ".venv/bin/ansible-playbook"), f"{self.place}/runbooks/{runbook}.yml", "-i", f"{self.place}/hosts.yml"]
        command += ["-e", reason, "-e", f"confirm={confirm}", *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str, **options: str) -> tuple[int, str]:
        process = self.start(*arguments, **options)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def records(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(self.place.glob("evidence/*/record.json"))]

    def lock(self, host: str = "one") -> dict:
        path = self.place / f"locks/{host}/runbook.lock"
        return json.loads(path.read_text()) if path.exists() else {}

    def hold(self, age: float, **lock: object) -> None:
        """A lock that somebody left behind."""
        path = self.place / "locks/one/runbook.lock"
        path.parent.mkdir(exist_ok=True)
        held = {"holder": OPERATOR, "runbook": "move", "run": "earlier", "pid": 2**22 + 1, "since": "then", "heartbeat": time.time() - age}
        path.write_text(json.dumps(held | lock))

    def until_it_waits(self, process) -> None:
        for _ in range(300):
            if (self.place / "waiting").exists():
                return
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        raise AssertionError("the run did not come to its fifth phase")


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_run_that_passes_leaves_its_record_and_no_lock(runs):
    code, said = runs.run("-e", '{"api_token": "hunter2", "note": {"deep_secret": "hunter2"}, "zone": "a"}')
    assert code == 0, said
    [record] = runs.records()
    assert f"{runs.place}/evidence/" in said and "(verdict: passed)" in said
    assert (record["format"], record["runbook"], record["verdict"], record["drill"]) == (1, "move", "passed", False)
    assert (record["reason"], record["operator"], record["failed_task"]) == ("a try of the framework", OPERATOR, None)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", record["git_commit"]) and record["inventory"].endswith("hosts.yml")
    assert record["arguments"]["zone"] == "a" and record["facts"]["serial"] == 7
    assert "hunter2" not in json.dumps(record)
    assert record["fault"] == {"kind": "power", "at": "2026-11-28T00:00:00Z"} and record["rto_seconds"] == 3.5
    phases = [(phase["number"], phase["title"], phase["result"]) for phase in record["phases"]]
    assert phases == [
        (1, "Open", "ok"),
        (3, "Confirm", "ok"),
        (5, "Switch the region", "ok"),
        (6, "Verify", "ok"),
        (7, "Release", "skipped"),
        (8, "Close", "ok"),
    ]
    switch = record["phases"][2]
    assert switch["slowest"][0]["task"] == "Wait for the switch" and 0.5 <= switch["slowest"][0]["seconds"] <= switch["seconds"]
    assert 0 <= switch["ansible_seconds"] <= switch["seconds"] - 0.5 and switch["tasks"] == 3
    assert record["started"] <= switch["started"] < switch["ended"] <= record["ended"]
    assert not runs.lock("one") and not runs.lock("two")


def test_a_failed_task_is_named_and_the_lock_is_freed_without_close(runs):
    code, said = runs.run("-e", "broken=true")
    assert code == 2, said
    [record] = runs.records()
    assert (record["verdict"], record["failed_task"]) == ("failed", "Say that it failed")
    assert [phase["number"] for phase in record["phases"] if phase["result"] == "failed"] == [5]
    assert [phase["number"] for phase in record["phases"]] == [1, 3, 5]
    assert "(verdict: failed)" in said
    assert not runs.lock("one") and not runs.lock("two"), said


def test_a_failure_that_was_put_right_is_none(runs):
    code, said = runs.run("-e", "rescued=true")
    assert code == 0, said
    [record] = runs.records()
    assert record["verdict"] == "passed" and {phase["result"] for phase in record["phases"]} == {"ok", "skipped"}


def test_an_interrupted_run_leaves_record_and_lock_and_may_be_started_again(runs):
    process = runs.start("-e", "ticks=900")
    runs.until_it_waits(process)
    assert runs.records()[0]["verdict"] == "interrupted" and runs.records()[0]["ended"] is None
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    (runs.place / "waiting").unlink()
    assert process.returncode != 0 and "start the same runbook again" in said
    [record] = runs.records()
    assert record["verdict"] == "interrupted" and record["ended"] and record["phases"][-1]["number"] == 5
    assert runs.lock()["run"].endswith("-move")
    code, said = runs.run(runbook="other")
    assert code == 2 and f"take_over_lock={OPERATOR}" in said.replace("\\n", ""), said
    code, said = runs.run()  # her own of the same runbook, whose process is gone: at once
    assert code == 0, said
    assert runs.records()[-1]["facts"]["locks_taken_over"]["one"]["run"].endswith("-move") and not runs.lock()


def test_a_killed_run_has_a_record_that_says_so(runs):
    process = runs.start("-e", "ticks=900")
    runs.until_it_waits(process)
    process.kill()
    process.wait(timeout=20)
    (runs.place / "go").touch()
    assert runs.records()[0]["verdict"] == "interrupted"


def test_of_two_runs_at_the_same_time_one_is_refused(runs):
    first = runs.start("-e", "ticks=900")
    runs.until_it_waits(first)
    for user in ("bert", "anna"):  # the operator's own run is alive, so a second one of hers is refused as well
        code, said = runs.run(user=user)
        assert code == 2 and "Another run holds the lock" in said and f"{OPERATOR} runs move" in said, said
    assert len(runs.records()) == 1 and not [host for host in ("one", "two") if runs.lock(host)["holder"] != OPERATOR]
    (runs.place / "go").touch()
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert runs.records()[0]["verdict"] == "passed" and not runs.lock()


def test_a_run_whose_lock_was_taken_away_stops_before_it_goes_on(runs):
    process = runs.start("-e", "ticks=900")
    runs.until_it_waits(process)
    runs.hold(age=0, holder="bert@elsewhere")
    (runs.place / "go").touch()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "it belongs to bert@elsewhere" in said, said
    assert runs.records()[0]["verdict"] == "failed" and runs.records()[0]["failed_task"].startswith("Write a new heartbeat")
    assert runs.lock()["holder"] == "bert@elsewhere" and not runs.lock("two")


def lock_module():
    spec = importlib.util.spec_from_file_location("runbook_lock", ROOT / "roles/evidence/library/runbook_lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("age", "held", "wanted", "taken"),
    [
        (61, {}, {}, True),  # silent for longer than stale_seconds
        (59, {}, {}, False),
        (61, {}, {"stale_seconds": 0}, False),
        (30, {}, {"take_over": "bert@elsewhere"}, True),
        (30, {}, {"take_over": "carl@elsewhere"}, False),
        (30, {}, {"over": "earlier"}, True),  # the role says so of the operator's own dead run
        (30, {"run": "later"}, {"over": "earlier"}, False),
        (30, {"run": "mine"}, {}, True),
    ],
)
def test_who_may_take_the_lock(tmp_path, age, held, wanted, taken):
    path = tmp_path / "runbook.lock"
    there = {"holder": "bert@elsewhere", "runbook": "move", "run": "earlier", "pid": 1, "since": "then", "heartbeat": time.time() - age}
    path.write_text(json.dumps(there | held))
    asked = {"path": str(path), "state": "taken", "run": "mine", "runbook": "move", "holder": OPERATOR, "pid": 2}
    result = lock_module().act({**asked, "stale_seconds": 60, "take_over": "", "over": "", **wanted}, False)
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


def test_hosts_that_are_down_are_left_out_and_named(runs):
    code, said = runs.run("-e", "pattern=region")
    assert code == 4, said
    [record] = runs.records()
    assert record["verdict"] == "passed" and record["facts"]["unreachable_hosts"] == ["dead"]


def test_without_any_host_that_answers_there_is_no_run(runs):
    code, said = runs.run("-e", "pattern=dead")
    assert code == 4 and not runs.records() and "Evidence:" not in said, said


@pytest.mark.parametrize(
    ("arguments", "options", "refusal"),
    [
        (["--limit", "one"], {}, "--limit, --tags and --skip-tags"),
        (["--tags", "other"], {}, "--limit, --tags and --skip-tags"),
        (["--skip-tags", "other"], {}, "--limit, --tags and --skip-tags"),
        ([], {"reason": "x=y"}, "Say in some words why"),
        ([], {"reason": "reason=try"}, "Say in some words why"),
        (["-e", "drill=true"], {}, "a drill breaks things on purpose"),
    ],
)
def test_refused_before_anything(runs, arguments, options, refusal):
    code, said = runs.run(*arguments, **options)
    assert code == 2 and refusal in said, said
    assert not runs.records() and not runs.lock()


@pytest.mark.parametrize("confirm", ["west", ""])
def test_a_wrong_or_no_name_stops_before_the_switch(runs, confirm):
    code, said = runs.run(confirm=confirm)
    assert code == 2 and "so nothing was changed" in said and "Switch" not in said, said
    [record] = runs.records()
    assert record["verdict"] == "failed" and [phase["number"] for phase in record["phases"]] == [1, 3]
    assert not runs.lock("one") and not runs.lock("two")


def test_a_drill_confirms_itself_and_must_reach_its_targets(runs):
    code, said = runs.run("-e", "drill=true", "-e", "drills=true", confirm="")
    assert code == 0, said
    assert runs.records()[0]["drill"] is True and runs.records()[0]["targets"] == {"rto_seconds": 900, "rpo_seconds": 300}
    code, said = runs.run("-e", "drill=true", "-e", "drills=true", "-e", "rto=901", confirm="")
    assert code == 2 and "missed its targets" in said, said
    assert runs.records()[1]["verdict"] == "failed" and not runs.lock()


def test_check_mode_writes_nothing(runs):
    code, said = runs.run("--check", confirm="")
    assert code == 0 and "no lock is taken and no evidence written" in said, said
    assert not (runs.place / "evidence").exists() and not runs.lock()
    runs.hold(age=0, holder="bert@elsewhere")
    code, said = runs.run("--check")
    assert code == 2 and "bert@elsewhere runs move" in said, said


def test_start_at_task_is_refused_and_nothing_goes_on_without_open(runs):
    code, said = runs.run("--start-at-task", "Wait for the switch")
    assert code == 1 and "Run it from the start" in said and "PLAY [" not in said, said
    (runs.place / "runbooks/move.yml").write_text(RUNBOOK.split("- name: 1 Open")[0] + RUNBOOK[RUNBOOK.index("- name: 3 Confirm") :])
    code, said = runs.run()
    assert code == 2 and "the run was never opened" in said and not (runs.place / "waiting").exists(), said


def test_other_playbooks_are_left_alone(runs):
    (runs.place / "playbooks").mkdir()
    (runs.place / "playbooks/open.yml").write_text(RUNBOOK)
    code, said = runs.run(runbook="../playbooks/open")
    assert code == 2 and "holdfast_evidence is not enabled" in said and not runs.records(), said

"""A small runbook and what runs it: for the tests of role evidence and its callback plugin."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

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

    def command(self, *arguments: str, runbook: str = "move", reason: str = REASON, confirm: str = "east") -> list[str]:
        command = [str(ROOT / ".venv/bin/ansible-playbook"), f"{self.place}/runbooks/{runbook}.yml", "-i", f"{self.place}/hosts.yml"]
        return [*command, "-e", reason, "-e", f"confirm={confirm}", *arguments]

    def environment(self, user: str = "anna") -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        return env | {"SUDO_USER": user, "ANSIBLE_NOCOLOR": "1"}

    def start(self, *arguments: str, user: str = "anna", **options: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(self.command(*arguments, **options), cwd=ROOT, env=self.environment(user), text=True, **pipes)

    def at_a_terminal(self, typed: str) -> tuple[int, str]:
        """Runs it as somebody who types when asked."""
        process, terminal = pty.fork()
        if process == 0:
            os.chdir(ROOT)
            command = self.command(confirm="")
            os.execve(command[0], command, self.environment())
        said, pauses = b"", [0.5, *[10.0] * 12]
        with contextlib.suppress(OSError):  # the terminal is gone when the process is
            while True:
                asked = b"To go on, type east" in said
                if select.select([terminal], [], [], pauses[0] if asked else 120)[0]:
                    if not (more := os.read(terminal, 4096)):
                        break
                    said += more
                elif asked and len(pauses) > 1:  # again when nothing happens: what is typed before Ansible listens is lost
                    os.write(terminal, typed.encode() + b"\r")
                    del pauses[0]
                else:
                    os.kill(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said.decode()

    def run(self, *arguments: str, **options: str) -> tuple[int, str]:
        process = self.start(*arguments, **options)
        said, _ = process.communicate(timeout=300)
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
        for _ in range(1200):
            if (self.place / "waiting").exists():
                return
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        raise AssertionError("the run did not come to its fifth phase")

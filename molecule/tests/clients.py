"""What several scenarios need: playbook runs as a user's, clients that write and read through an edge, and waiting for the zones."""

import json
import os
import subprocess
import threading
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Molecule sets Ansible up for itself; the commands under test shall run as a user's would.
USERS_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}


def play(
    playbook: str | Path, *arguments: str, variables: dict[str, object] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the lab, as a user would."""
    given = ["-e", json.dumps(variables)] if variables else []
    command = [ROOT / ".venv/bin/ansible-playbook", playbook, "-i", "inventories/lab", *arguments, *given]
    return subprocess.run(command, cwd=ROOT, env=USERS_ENVIRONMENT | environment, capture_output=True, text=True)


def wait_until_ready(lab) -> None:
    end = time.monotonic() + 120
    for edge in lab.edges:
        for mode in ("cp", "ap"):
            while True:
                try:
                    answer = lab.client(None).get(f"{edge[mode]}/health", timeout=5)
                    # Another zone's answer, handed over by this edge, does not count.
                    if answer.status_code == 200 and answer.json()["zone"] == edge["zone"]:
                        break
                except OSError:
                    pass
                assert time.monotonic() < end, f"zone {edge['zone']} is not ready again: {mode}"
                time.sleep(0.5)


class Client(threading.Thread):
    """Writes and reads back through one edge, ten times a second, until it is told to stop."""

    def __init__(self, lab, edge, mode) -> None:
        super().__init__(daemon=True)
        self.lab, self.edge, self.mode = lab, edge, mode
        self.over = threading.Event()
        self.done, self.failed, self.slowest = 0, [], 0.0

    def run(self) -> None:
        client = self.lab.client()
        while not self.over.wait(0.1):
            key, value = f"loss-{uuid.uuid4()}", str(self.done)
            started = time.monotonic()
            try:
                written = client.post(f"{self.edge[self.mode]}/write/{key}", data=value, timeout=10)
                session = {name: value for name, value in written.headers.items() if name == "X-Session-Token"}
                read = client.get(f"{self.edge[self.mode]}/read/{key}", headers=session, timeout=10)
                if written.status_code != 200 or read.status_code != 200 or read.json()["value"] != value:
                    self.failed.append(f"{written.status_code} {written.text} / {read.status_code} {read.text}")
            except OSError as error:
                self.failed.append(repr(error))
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.done += 1


class Disks:
    """Whether a node's disk stood still: all nodes of the lab share one, and a write that it holds up is not the network's fault.

    Redis itself says so, by its latency monitor: an fsync that took longer than a request may wait for a node.
    """

    LONGEST_MS = 250

    def __init__(self, lab) -> None:
        self.lab = lab

    def _ask(self, name: str, command: str) -> str:
        node = "$(docker ps --format '{{.Names}}' --filter name=^db_g)"
        return self.lab.host(name).check_output(f"docker exec {node} redis-cli {command}")

    def watch(self) -> None:
        for name in self.lab.serving:
            self._ask(name, f"config set latency-monitor-threshold {self.LONGEST_MS}")
            self._ask(name, "latency reset")

    def stalls(self) -> dict[str, str]:
        """Host -> what its node's latency monitor has noted about writing to disk since `watch`."""
        noted = {name: self._ask(name, "latency latest") for name in self.lab.serving}
        return {name: text for name, text in noted.items() if "aof" in text or "fsync" in text}

"""Runs of the rotation's runbooks, with clients at every edge and on both faces all the while."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clients import ROOT, USERS_ENVIRONMENT, Client, play, wait_until_ready


def runbook(name: str, **variables: object) -> str:
    """Run one to its end, and what it said."""
    started = time.monotonic()
    done = play(f"runbooks/{name}.yml", variables={"reason": "a test of the lab", **variables})
    print(f"{name} {variables}: {time.monotonic() - started:.0f} s")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    return done.stdout


def refused(name: str, **variables: object) -> str:
    """Run one that is to fail, and what it said."""
    done = play(f"runbooks/{name}.yml", variables={"reason": "a test of the lab", **variables})
    assert done.returncode != 0
    return done.stdout + done.stderr


def killed(name: str, at: str, **variables: object) -> None:
    """Run one and kill it, with all its processes, while the task of that name is at work."""
    given = [part for pair in ({"reason": "a test of the lab"} | variables).items() for part in ("-e", "{}='{}'".format(*pair))]
    command = [ROOT / ".venv/bin/ansible-playbook", f"runbooks/{name}.yml", "-i", "inventories/lab", *given]
    process = subprocess.Popen(command, cwd=ROOT, env=USERS_ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("TASK [") and at in line:
            time.sleep(1)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
    raise AssertionError(f"the run ended before the task {at!r}: {process.wait()}")


@contextmanager
def load(lab) -> Iterator[None]:
    """Clients of every edge and face; each got through many requests, and none of them failed."""
    wait_until_ready(lab)
    clients = [Client(lab, edge, mode) for edge in lab.edges for mode in ("cp", "ap")]
    for client in clients:
        client.start()
    started = time.monotonic()
    time.sleep(1)
    try:
        yield
    finally:
        for client in clients:
            client.over.set()
        for client in clients:
            client.join(timeout=30)
    seconds = time.monotonic() - started
    requests, slowest = sum(client.done for client in clients), max(client.slowest for client in clients)
    print(f"{requests} requests in {seconds:.0f} s, the slowest {slowest:.1f} s")
    for client in clients:
        assert client.done > seconds, "the client did not get through enough requests"
        assert not client.failed, (client.edge["zone"], client.mode, len(client.failed), client.failed[:3])

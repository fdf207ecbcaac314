"""A reader of standard output that hangs: the service lives on, begins nothing it could not audit, loses no line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import TOKENS, App, Cluster, wait_for

#: Seconds after which gunicorn's master kills a worker that gives no sign; 30 as shipped.
MASTER_TIMEOUT = 4
#: Seconds that a request waits for room or for a node; more than a busy machine takes for one in thousands of reads.
PATIENT = 2
_SHORT = f"""
import functools, os, sys
from holdfast import output, server, settings
if sys.argv[1] == "plain":
    output.sender = lambda fd: functools.partial(os.write, fd)
class Impatient(server.Server):
    def load_config(self):
        super().load_config()
        self.cfg.set("timeout", {MASTER_TIMEOUT})
server.run(settings.load(os.environ), Impatient)
"""


class Unread(App):
    """An instance whose standard output goes into a pipe that the test reads when it wants to."""

    def __init__(self, env: dict[str, str], kind: str, errors: Path) -> None:
        self.port = int(env["LISTEN"].rpartition(":")[2])
        self.errors, command = errors, [sys.executable, "-c", _SHORT, kind]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors.open("wb"))
        self.lines: list[bytes] = []
        wait_for("it is live", self._is_live)

    def _is_live(self) -> bool:
        with contextlib.suppress(OSError):
            return self.request("GET", "/health/live", token=None).status == 200
        return False

    def workers(self) -> list[str]:
        return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()

    def read_on(self) -> None:
        assert self.process.stdout is not None
        threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True).start()  # type: ignore[arg-type]

    def kill(self) -> None:
        children = self.workers() if self.process.poll() is None else []
        self.process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait(timeout=60)


@pytest.fixture
def app(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Unread]:
    env = cluster.env("cp", RATE_LIMITS="unlimited", NETWORK_TIMEOUT_SEC=str(PATIENT))
    made = Unread(env, request.param, cluster.root / "stderr")
    try:
        yield made
    finally:
        made.kill()


def fill(app: App) -> int:
    """Read until an answer is another one than not_found, or none; how many were answered."""
    request = f"GET /read/none HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['boss']}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", app.port), timeout=3 * PATIENT) as connection:
        for answered in range(20_000):  # a pipe holds 64 KiB and the service 1 MiB; a line has about 250 bytes
            connection.sendall(request)
            try:
                answer = connection.recv(65536)
            except OSError:
                answer = b""
            if not answer.startswith(b"HTTP/1.1 404"):
                return answered
    raise AssertionError("it must stop when nobody reads its log")


@pytest.mark.parametrize("app", ["as shipped"], indirect=True)
def test_nothing_is_begun_that_could_not_be_audited_and_nothing_is_lost(app: Unread, cluster: Cluster) -> None:
    workers = app.workers()
    with ThreadPoolExecutor(9) as pool:
        filled = pool.submit(fill, app)
        replies = {}
        while not filled.done():
            keys = [f"w{len(replies) + i}" for i in range(8)]
            replies |= dict(zip(keys, pool.map(lambda k: app.write(k, "v").status, keys), strict=True))
    written = {k for k, status in replies.items() if status == 200}
    unknown = {k for k, status in replies.items() if status == 504}
    assert len(written) > 100
    refused = app.write("refused", "v")
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "unavailable", "1")
    assert 0.9 * PATIENT < refused.seconds < 2.5 * PATIENT, "it waited for room, no longer than for a node"
    time.sleep(2 * MASTER_TIMEOUT + 1)
    assert app.workers() == workers, "nobody was killed"
    assert app.request("GET", "/health/live", token=None).status == 200
    health = app.request("GET", "/health", token=None)
    assert (health.status, health.json["reason"]) == (503, "log_blocked")
    assert app.metric("log_bytes_waiting") > 1_000_000
    stored = {
        key.decode().removeprefix("cp:")
        for node in cluster.nodes.values()
        for key in node.client().scan_iter("cp:*", count=1000)
    }
    assert "refused" not in stored
    assert stored - unknown == written, "what was not answered as written was not written"

    app.read_on()
    wait_for("ready", app.ready)
    assert app.write("after", "v").status == 200
    wait_for("told", lambda: any(b'"LOG_RESUMED"' in line for line in app.lines))
    entries = [json.loads(line) for line in app.lines]
    assert {e["key"] for e in entries if e["event"] == "CP_COMMIT"} == written | {"after"}
    assert len([e for e in entries if e["event"] == "CP_READ"]) == filled.result()
    resumed = next(e for e in entries if e["event"] == "LOG_RESUMED")
    assert resumed["refused"] >= 1
    assert resumed["dropped"] == {"log": 0, "audit": 0}
    unavailable = 'app_requests_total{mode="cp",operation="write",status="unavailable"}'
    assert app.metric(unavailable) >= 1


@pytest.mark.parametrize("app", ["as shipped"], indirect=True)
def test_it_ends_in_time_and_says_what_is_lost(app: Unread) -> None:
    fill(app)
    app.process.terminate()
    assert app.process.wait(timeout=PATIENT + 10) == 0, "so long a container is given"
    lost = re.search(r"(\d+) audit and \d+ log lines lost", app.errors.read_text())
    assert lost is not None
    assert int(lost[1]) > 2000


@pytest.mark.parametrize("app", ["plain"], indirect=True)
def test_control_a_worker_that_waits_for_the_reader_gives_no_sign(app: Unread) -> None:
    """Its master kills it, unless the master waits as well."""
    assert fill(app) < 1000
    with socket.create_connection(("127.0.0.1", app.port), timeout=3) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)

"""The server itself: several workers, their metrics, connections that are kept, pipelined, slow or idle."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import TOKENS, App, Cluster, wait_for

AUTHORIZED = f"Host: x\r\nAuthorization: Bearer {TOKENS['boss']}\r\n".encode()
READ = b"GET /read/k HTTP/1.1\r\n" + AUTHORIZED + b"\r\n"


def workers(app: App) -> list[int]:
    children = Path(f"/proc/{app.process.pid}/task/{app.process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def shared_directories(app: App) -> list[Path]:
    return list(Path("/dev/shm").glob(f"holdfast-{app.process.pid}-*"))


def exchange(app: App, sent: bytes, answers: int = 1) -> tuple[bytes, socket.socket]:
    """Send on a new connection; return what came when there were that many heads, and the open connection."""
    connection = socket.create_connection(("127.0.0.1", app.port), timeout=30)
    connection.sendall(sent)
    got = b""
    while got.count(b"HTTP/1.1 ") < answers or not got.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            break
        got += part
    return got, connection


def test_metrics_add_up_over_all_workers_and_survive_one(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap", WORKERS="2")
    wait_for("two workers", lambda: len(workers(app)) == 2)
    wait_for("ready", app.ready)
    written = 'app_requests_total{mode="ap",operation="write",status="success"}'
    with ThreadPoolExecutor(8) as pool:
        assert {r.status for r in pool.map(lambda i: app.write(f"k{i}", "v"), range(60))} == {200}
    assert [app.metric(written) for _ in range(6)] == [60.0] * 6, "every worker must tell the same"
    for name in ('data_staleness_ms{node="db_g2"}', 'circuit_breaker_state{node="db_g1"}', "ap_parked_entries"):
        app.metric(name)
    text = app.request("GET", "/metrics", token=None).body.decode()
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series)), "no series twice"
    assert "pid=" not in text
    victim = workers(app)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for("a new worker", lambda: len(workers(app)) == 2 and victim not in workers(app))
    wait_for("ready again", app.ready)
    wait_for(
        "the dead one's gauges are gone", lambda: not list(shared_directories(app)[0].rglob(f"*live*_{victim}.db"))
    )
    assert app.metric(written) == 60.0
    assert app.write("after", "v").status == 200
    assert app.metric(written) == 61.0


def test_an_open_breaker_shows_whichever_worker_is_asked(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", WORKERS="2", CIRCUIT_BREAKER_PROBE_SEC="60")
    wait_for("ready", app.ready)
    cluster.nodes["db_g3"].kill()
    state = 'circuit_breaker_state{node="db_g3"}'

    def open_everywhere() -> bool:
        app.write("k", "v")
        return [app.metric(state) for _ in range(4)] == [2.0] * 4

    wait_for("open in all answers", open_everywhere)


def test_the_shared_directory_goes_with_the_server(shared: Cluster) -> None:
    app = shared.run("serve", "cp", WORKERS="2")
    assert len(shared_directories(app)) == 1
    made = shared_directories(app)[0]
    assert made.stat().st_mode & 0o077 == 0, "for its own user only"
    app.process.terminate()
    assert app.process.wait(timeout=60) == 0
    assert shared_directories(app) == []


@pytest.fixture(scope="module")
def app(shared: Cluster) -> App:
    made = shared.run("serve", "cp")
    assert made.write("k", "v").status == 200
    return made


def test_a_connection_is_kept_over_short_and_full_requests(app: App) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    post = b"POST /write/p HTTP/1.1\r\n" + AUTHORIZED + b"Content-Length: 3\r\n\r\nabc"
    chunked = b"POST /write/p HTTP/1.1\r\n" + AUTHORIZED + b"Transfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n"
    got, connection = exchange(app, READ + health + post + chunked + READ, answers=5)
    with connection:
        assert re.findall(rb"HTTP/1\.1 (\d+)", got) == [b"200"] * 5, got
        assert got.count(b"Connection: keep-alive") == 5
    assert app.read("p").json["value"] == "xyz"


def test_a_refused_body_is_not_taken_for_the_next_request(app: App) -> None:
    inner = b"GET /read/smuggled HTTP/1.1\r\n" + AUTHORIZED + b"\r\n"
    post = b"POST /write/p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner)
    got, connection = exchange(app, post + inner + READ, answers=2)
    with connection:
        assert re.findall(rb"HTTP/1\.1 (\d+)", got) == [b"401", b"200"]
        assert json.loads(got.rpartition(b"\r\n\r\n")[2])["key"] == "k"


def test_close_is_closed(app: App) -> None:
    got, connection = exchange(app, READ.replace(b"Host: x", b"Host: x\r\nConnection: close"))
    with connection:
        assert b"Connection: close" in got
        assert connection.recv(1) == b""


def test_a_body_in_pieces(app: App) -> None:
    with socket.create_connection(("127.0.0.1", app.port), timeout=30) as connection:
        for part in (b"POST /write/pieces HTTP/1.1\r\n", AUTHORIZED, b"Content-Length: 4\r\n\r\n", b"ab", b"cd"):
            connection.sendall(part)
            time.sleep(0.05)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"POST /write/pieces HTTP/1.1\r\n" + AUTHORIZED + b"Content-Length: 4\r\n\r\n12")
        time.sleep(0.05)
    assert app.read("pieces").json["value"] == "abcd", "a client that left midway has written nothing"


def test_idle_connections_do_not_delay_the_end(shared: Cluster) -> None:
    app = shared.run("serve", "cp", NETWORK_TIMEOUT_SEC="20")  # what is running is waited for that long, and 5 s more
    _got, idle = exchange(app, READ.replace(b"/read/k", b"/read/none"))
    with idle:
        app.process.terminate()
        began = time.monotonic()
        assert app.process.wait(timeout=60) == 0
        assert time.monotonic() - began < 15
        assert idle.recv(1) == b""


def test_no_audit_line_is_lost_on_sigterm(shared: Cluster) -> None:
    app = shared.run("serve", "cp", WORKERS="2", DRAIN_SEC="1")
    wait_for("ready", app.ready)
    wait_for("both workers", lambda: sum(e["event"] == "DB_CONNECTED" for e in app.entries()) >= 6)
    answered = 0

    def write(i: int) -> bool:
        try:
            return app.write(f"audited-{i}", "v").status == 200
        except OSError:
            return False

    with ThreadPoolExecutor(8) as pool:
        results = pool.map(write, range(300))
        time.sleep(0.1)
        app.process.terminate()
        answered = sum(results)
    assert app.process.wait(timeout=60) == 0
    lines = [e for e in app.entries() if e.get("event") == "CP_COMMIT"]
    assert answered > 10
    assert len({e["key"] for e in lines}) >= answered


#: The deadlines of a connection are 30 and 75 s; shortened here, in a process of its own.
_SHORT_TIMES = """
import os
from holdfast import server, settings
server.KEEPALIVE_SEC, server.REQUEST_SEC, server.SWEEP_SEC = 2, 1, 0.1
server.run(settings.load(os.environ))
"""


def test_slow_and_idle_clients_are_cut_off(shared: Cluster) -> None:
    env = shared.env("cp")
    process = subprocess.Popen([sys.executable, "-c", _SHORT_TIMES], env=env, stdout=subprocess.DEVNULL)
    try:
        port = int(env["LISTEN"].rpartition(":")[2])

        def seconds_until_closed(sent: bytes) -> float:
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(sent)
                while connection.recv(65536):
                    pass
                return time.monotonic() - began

        def up() -> bool:
            try:
                seconds_until_closed(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            except OSError:
                return False
            return True

        wait_for("it is up", up)
        unfinished = b"POST /write/k HTTP/1.1\r\n" + AUTHORIZED + b"Content-Length: 9\r\n\r\nabc"
        for slow in (b"", b"GET /read/k HT", unfinished):
            assert 0.9 < seconds_until_closed(slow) < 15, slow
        assert 1.9 < seconds_until_closed(READ) < 15, "kept for KEEPALIVE_SEC, not for REQUEST_SEC"
    finally:
        process.terminate()
        process.wait(timeout=60)


#: The start of a worker, slowed down at one place; "fails": and ending there with an error.
_SLOW_START = """
import os, sys, time
from holdfast import server, settings
class Slow(server.Server):
    def load(self):
        if sys.argv[1] in ("load", "fails"):
            print("SLOW", flush=True)
            time.sleep(3)
        if sys.argv[1] == "fails":
            raise OSError("it cannot start")
        return super().load()
class SlowWorker(server.Worker):
    def patch(self):
        if sys.argv[1] == "patch":
            print("SLOW", flush=True)
            time.sleep(3)
        super().patch()
server.Worker = SlowWorker
server.run(settings.load(os.environ), Slow)
"""


@pytest.mark.parametrize("where", ["patch", "load", "fails"])
def test_stopped_while_workers_start(shared: Cluster, where: str) -> None:
    env = shared.env("cp", WORKERS="2", NETWORK_TIMEOUT_SEC="20")
    command = [sys.executable, "-c", _SLOW_START, where]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for _ in range(2):
        while process.stdout.readline() != "SLOW\n":
            assert process.poll() is None
    directories = list(Path("/dev/shm").glob(f"holdfast-{process.pid}-*"))
    assert directories
    process.terminate()
    said, _ = process.communicate(timeout=20)  # long before the master would kill workers that did not hear it
    assert process.returncode == 0, said
    assert said.count("Worker exiting") == 2, said
    assert not any(d.exists() for d in directories)


def test_workers_that_cannot_start_end_the_server_with_an_error(shared: Cluster) -> None:
    env = shared.env("cp", WORKERS="2")
    command = [sys.executable, "-c", _SLOW_START, "fails"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 3, done.stdout

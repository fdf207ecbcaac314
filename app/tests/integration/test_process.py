"""The process as a whole: drain on SIGTERM, TLS with client certificates, refusal to start, memory."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import Cluster, Tls, free_port, wait_for
from pki import authority, certificate


def test_drain(shared: Cluster) -> None:
    app = shared.run("serve", "cp", DRAIN_SEC="4")
    assert app.ready()
    began = time.monotonic()
    app.process.send_signal(signal.SIGTERM)
    wait_for("not ready", lambda: not app.ready(), 2)
    health = app.request("GET", "/health", token=None)
    assert (health.status, health.json["reason"]) == (503, "draining")
    served = 0
    while time.monotonic() - began < 2.5 and served < 50:
        assert app.write("k", "while draining").status == 200
        served += 1
    assert served > 10
    assert app.process.wait(timeout=60) == 0
    assert 4 <= time.monotonic() - began < 16


def test_a_running_request_is_finished(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC="20", CIRCUIT_BREAKER_THRESHOLD="1000")
    app.write("k", "1")
    for name in ("db_g1", "db_g2"):
        cluster.nodes[name].signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool, cluster.nodes["db_g3"].client().monitor() as asked:
        waiting = pool.submit(app.write, "k", "2")
        while "cp:k" not in asked.next_command()["command"]:
            assert not waiting.done()
        app.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        for name in ("db_g1", "db_g2"):
            cluster.nodes[name].signal(signal.SIGCONT)
        assert waiting.result().status == 200
    assert app.process.wait(timeout=60) == 0


@pytest.mark.parametrize(("name", "value"), [("APP_MODE", "xy"), ("NODES", ""), ("LOCAL_NODE", "db_g7")])
def test_serve_refuses_bad_settings_with_one_line(shared: Cluster, name: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "serve"],
        env=shared.env("ap") | {name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert name in done.stderr
    assert done.stderr.count("\n") == 1


def refused_start(command: str, env: dict[str, str]) -> str:
    """The one line that a process which must not start ends with."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", command], env=env, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", ["secret_key", "redis_password", "api_tokens"])
@pytest.mark.parametrize(
    ("content", "what"), [(None, "missing"), ("", "empty"), ("changeme", "placeholder"), ("ab", "")]
)
def test_serve_refuses_a_bad_secret(shared: Cluster, tmp_path: Path, name: str, content: str | None, what: str) -> None:
    secrets = tmp_path / "secrets"
    shutil.copytree(shared.secrets, secrets)
    (secrets / name).unlink()
    if content is not None:
        (secrets / name).write_text(content)
    said = refused_start("serve", shared.env("cp") | {"SECRETS_DIR": str(secrets)})
    assert f"secret {name}" in said
    assert what in said


@pytest.mark.parametrize("command", ["serve", "replicate"])
def test_two_names_of_one_server_are_refused(shared: Cluster, command: str) -> None:
    """By two addresses, which no comparison of the settings can see."""
    ports = [node.port for node in shared.nodes.values()]
    nodes = f"db_g1=127.0.0.1:{ports[0]},db_g2=localhost:{ports[0]},db_g3=127.0.0.1:{ports[2]}"
    said = refused_start(command, shared.env("ap") | {"NODES": nodes})
    assert "db_g1" in said
    assert "db_g2" in said
    assert "same server" in said
    nodes = f"db_g1=127.0.0.1:{ports[0]},db_g2=127.0.0.1:{ports[0]}"
    assert "the same address" in refused_start(command, shared.env("ap") | {"NODES": nodes})


def test_a_list_of_nodes_that_nobody_answers_at_is_refused(shared: Cluster) -> None:
    ports = [free_port() for _ in range(3)]
    nodes = ",".join(f"db_g{i}=127.0.0.1:{p}" for i, p in enumerate(ports, 1))
    said = refused_start("serve", shared.env("cp") | {"NODES": nodes})
    assert "NODES: no node answered" in said
    for i, port in enumerate(ports, 1):
        assert f"db_g{i} at 127.0.0.1:{port}" in said
    nodes = "db_g1=nowhere.invalid:6379,db_g2=nowhere.invalid:6380,db_g3=nowhere.invalid:6381"
    assert "db_g3 at nowhere.invalid:6381" in refused_start("serve", shared.env("cp") | {"NODES": nodes})


def test_a_node_that_is_away_does_not_stop_the_start(cluster: Cluster) -> None:
    cluster.nodes["db_g2"].kill()
    cluster.nodes["db_g3"].kill()
    app = cluster.run("serve", "cp")
    assert app.read("k").code == "no_quorum"
    away = [e["node"] for e in app.entries() if e["event"] == "NODE_AWAY_AT_START"]
    assert set(away) == {"db_g2", "db_g3"}
    cluster.nodes["db_g2"].start()
    wait_for("serves", lambda: app.write("k", "v").status == 200)


def test_memory_of_the_server(shared: Cluster) -> None:
    app = shared.run("serve", "cp")
    for i in range(200):
        app.write(f"m{i}", "x" * 1000)
    children = subprocess.run(["ps", "-o", "rss=", "--ppid", str(app.process.pid)], capture_output=True, text=True)
    assert 0 < int(children.stdout.split()[0]) < 100 * 1024


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    root = tmp_path / "pki"
    root.mkdir()
    return root


@pytest.fixture
def tls_cluster(tmp_path: Path, pki: Path) -> Iterator[Cluster]:
    ca = authority(pki, "ca")
    cert, key = certificate(pki, ca, "node", "IP:127.0.0.1,DNS:localhost")
    root = tmp_path / "cluster"
    root.mkdir()
    cluster = Cluster(root, Tls(ca.with_suffix(".crt"), cert, key))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_mutual_tls(tls_cluster: Cluster, pki: Path) -> None:
    cp, ap = tls_cluster.run("serve", "cp"), tls_cluster.run("serve", "ap")
    assert cp.write("k", "over tls").status == 200
    assert cp.read("k").json["value"] == "over tls"
    assert ap.write("k", "over tls").status == 200
    # A client whose certificate another authority signed, and one that trusts another authority, get nowhere.
    other = authority(pki, "other")
    cert, key = certificate(pki, other, "stranger", "IP:127.0.0.1")
    code, report = tls_cluster.bootstrap(REDIS_TLS_CERT_FILE=str(cert), REDIS_TLS_KEY_FILE=str(key))
    assert (code, report["changed"]) == (3, False)
    code, report = tls_cluster.bootstrap(REDIS_TLS_CA_FILE=str(other.with_suffix(".crt")))
    assert (code, report["changed"]) == (3, False)


def test_the_host_name_is_checked(tls_cluster: Cluster) -> None:
    ports = {n: node.port for n, node in tls_cluster.nodes.items()}
    nodes = ",".join(f"{n}=127.0.0.2:{port}" for n, port in ports.items())
    code, _report = tls_cluster.bootstrap(NODES=nodes)
    assert code == 3

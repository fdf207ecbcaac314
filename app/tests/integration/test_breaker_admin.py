"""Forcing breakers through HTTP: it holds for calls and votes, is limited in time, audited, and for admins only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cluster import SRC, TOKENS, App, Cluster, Reply, wait_for


def force(app: App, node: str, state: str, seconds: int | None = 60, **options: Any) -> Reply:
    body = {"state": state} if seconds is None else {"state": state, "seconds": seconds}
    return app.request("POST", f"/circuit-breaker/{node}", json.dumps(body).encode(), **options)


def shown(app: App, node: str) -> dict[str, Any]:
    return dict(app.request("GET", "/circuit-breaker", token=None).json["nodes"][node])


def sent(cluster: Cluster, node: str) -> int:
    """Scripts the node ran so far."""
    stats = cluster.nodes[node].client().info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


def test_forced_open_nothing_is_sent_and_it_ends_by_itself(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", RATE_LIMITS="unlimited")
    app.write("k", "1")
    reply = force(app, "db_g3", "OPEN", 6)
    assert reply.status == 200
    assert reply.json["forced"]["state"] == "OPEN"
    assert app.metric('circuit_breaker_state{node="db_g3"}') == 2
    time.sleep(0.2)
    before, other = sent(cluster, "db_g3"), sent(cluster, "db_g1")
    for i in range(10):
        assert app.write("k", str(i)).status == 200
    assert sent(cluster, "db_g3") == before
    assert sent(cluster, "db_g1") > other, "control: the others were asked"
    view = shown(app, "db_g3")
    assert (view["state"], len(view["workers"])) == ("OPEN", 1)
    assert view["workers"][0]["state"] == "OPEN"
    wait_for("released by itself", lambda: shown(app, "db_g3")["state"] == "CLOSED")
    assert shown(app, "db_g3")["forced"] is None
    wait_for("asked again", lambda: app.write("k", "x").status == 200 and sent(cluster, "db_g3") > before)
    audit = wait_for("audit", lambda: len(told := [e for e in app.entries() if told_of(e)]) == 2 and told)
    assert [e["event"] for e in audit] == ["BREAKER_FORCED", "BREAKER_RELEASED"]
    assert {k: audit[0][k] for k in ("stream", "actor", "state", "seconds", "node")} == {
        "stream": "audit",
        "actor": "boss",
        "state": "OPEN",
        "seconds": 6,
        "node": "db_g3",
    }


def told_of(entry: dict[str, Any]) -> bool:
    return str(entry["event"]) in ("BREAKER_FORCED", "BREAKER_RELEASED")


def test_two_nodes_forced_open_are_no_quorum(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp")
    app.write("k", "1")
    for node in ("db_g1", "db_g2"):
        assert force(app, node, "OPEN").status == 200
    reply = app.write("k", "2")
    assert (reply.status, reply.code) == (503, "no_quorum")
    assert app.read("k").code == "no_quorum"
    assert not app.ready()
    assert force(app, "db_g1", "AUTO", None).json["state"] == "CLOSED"
    assert app.read("k").json["value"] == "1"
    wait_for("ready", app.ready)


def test_forced_closed_goes_on_calling_a_failing_node(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", CIRCUIT_BREAKER_THRESHOLD="3")
    cluster.nodes["db_g3"].signal(signal.SIGSTOP)
    for i in range(8):
        app.write("k", str(i))
    wait_for("opened of its own accord", lambda: shown(app, "db_g3")["state"] != "CLOSED")
    assert force(app, "db_g3", "CLOSED", 5).json["state"] == "CLOSED"
    for i in range(8):
        assert app.write("k", str(i)).status == 200
    assert shown(app, "db_g3")["state"] == "CLOSED", "although it fails"
    wait_for("its own state again", lambda: shown(app, "db_g3")["state"] != "CLOSED")


def test_all_workers_of_an_instance_follow_also_after_a_restart_of_one(cluster: Cluster) -> None:
    """A worker that dies is replaced by the server, and finds what was forced."""
    app = cluster.run("serve", "cp")
    force(app, "db_g3", "OPEN", 60)
    first = shown(app, "db_g3")["workers"][0]["pid"]
    assert first != app.process.pid
    os.kill(first, signal.SIGKILL)

    def replaced() -> bool:
        try:
            view = shown(app, "db_g3")
        except OSError:
            return False
        return [w["pid"] for w in view["workers"]] != [first]

    wait_for("a new worker", replaced)
    view = shown(app, "db_g3")
    assert (view["state"], view["forced"]["state"]) == ("OPEN", "OPEN")
    assert first not in [w["pid"] for w in view["workers"]]
    assert app.metric('circuit_breaker_state{node="db_g3"}') == 2


@pytest.mark.parametrize("mode", ["cp", "ap"])
def test_who_may_and_what_is_refused(shared: Cluster, mode: str) -> None:
    app = shared.run("serve", mode)
    assert (force(app, "db_g1", "OPEN", token=None).status, force(app, "db_g1", "OPEN", token="reader").status) == (
        401,
        403,
    )
    assert force(app, "db_g1", "OPEN", token="writer").code == "forbidden"
    assert force(app, "db_g9", "OPEN").code == "not_found"
    for body in (b"", b"{", b"[]", b'{"state": "OPEN"}', b'{"state": "OPEN", "seconds": 3601}', b"\xff"):
        assert app.request("POST", "/circuit-breaker/db_g1", body).code == "bad_request"
    assert shown(app, "db_g1")["state"] == "CLOSED"
    schema = app.request("GET", "/openapi.json").json["components"]["schemas"]
    answer = force(app, "db_g1", "AUTO", None).json
    assert set(answer) == set(schema["Breaker"]["required"])
    assert set(shown(app, "db_g1")) == set(
        schema["Breakers"]["properties"]["nodes"]["additionalProperties"]["required"]
    )


def test_in_ap_a_forced_open_local_node_sends_writes_elsewhere(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    assert app.write("k", "1").json["acks"] == ["db_g1"]
    force(app, "db_g1", "OPEN")
    assert app.write("k", "2").json["acks"] != ["db_g1"]
    force(app, "db_g1", "AUTO", None)
    assert app.write("k", "3").json["acks"] == ["db_g1"]


def test_the_command(cluster: Cluster, tmp_path: Path) -> None:
    app = cluster.run("serve", "cp")
    (tmp_path / "token").write_text(TOKENS["boss"] + "\n")
    (tmp_path / "weak").write_text(TOKENS["writer"])

    def run(*arguments: str, token: str = "token", url: str = f"http://127.0.0.1:{app.port}") -> tuple[int, str]:
        command = [sys.executable, "-m", "holdfast", "breaker", *arguments, "--url", url]
        command += ["--token-file", str(tmp_path / token)]
        done = subprocess.run(command, env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        assert TOKENS["boss"] not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    code, text = run("db_g2", "--open", "--seconds", "60")
    assert (code, json.loads(text)["forced"]["state"]) == (0, "OPEN")
    assert shown(app, "db_g2")["state"] == "OPEN"
    assert run("db_g2", "--auto")[0] == 0
    assert shown(app, "db_g2")["state"] == "CLOSED"
    assert "forbidden" in run("db_g2", "--open", token="weak")[1]
    assert run("db_g7", "--close")[0] == 3
    assert run("db_g2", "--open", token="none")[0] == 2
    assert run("db_g2", "--open", url="ftp://x")[0] == 2
    assert run("db_g2", "--open", url="http://127.0.0.1:9")[0] == 3
    assert run("db_g2")[0] == 2


def test_two_workers_follow_one_call(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", WORKERS="2")
    wait_for("both there", lambda: len(shown(app, "db_g3")["workers"]) == 2)
    force(app, "db_g3", "OPEN", 8)
    wait_for("both", lambda: [w["state"] for w in shown(app, "db_g3")["workers"]] == ["OPEN", "OPEN"])
    time.sleep(0.2)
    before = sent(cluster, "db_g3")
    for i in range(30):
        assert app.write("k", str(i)).status == 200
    assert sent(cluster, "db_g3") == before, "neither worker sends"
    wait_for("both back", lambda: [w["state"] for w in shown(app, "db_g3")["workers"]] == ["CLOSED", "CLOSED"])
    wait_for("audited", lambda: len([e for e in app.entries() if told_of(e)]) == 2)
    time.sleep(1.5)
    told = [e["event"] for e in app.entries() if told_of(e)]
    assert told == ["BREAKER_FORCED", "BREAKER_RELEASED"], "audited once, not by each worker"

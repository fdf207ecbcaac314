"""The probe against the real service on real nodes, one of which is killed during the run."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from cluster import TOKENS, App, Cluster, wait_for
from test_probe_faults import lines, report, run, start, verify


def target(zone: str, mode: str, app: App) -> list[str]:
    return ["--target", f"{zone}/{mode}=http://127.0.0.1:{app.port}"]


def token(tmp_path: Path, name: str = "boss") -> list[str]:
    path = tmp_path / f"{name}.token"
    path.write_text(TOKENS[name] + "\n")
    return ["--token-file", str(path)]


def test_killing_one_node_loses_no_cp_write_and_breaks_no_promise(cluster: Cluster, tmp_path: Path) -> None:
    apps = [cluster.run("serve", "cp", f"db_g{i}") for i in (1, 2)]
    out = tmp_path / "probe.jsonl"
    access = token(tmp_path)
    targets = [*target("a", "cp", apps[0]), *target("b", "cp", apps[1])]
    process = start(out, *targets, *access, "--rate", "20", "--duration", "9")
    wait_for("writes", lambda: out.exists() and out.read_text().count('"write"') > 120)
    cluster.nodes["db_g1"].kill()
    fault = datetime.now(UTC).isoformat()
    assert process.wait(60) == 0
    assert verify(out, *access)["lost"] == 0
    cp = report(out, "--fault-at", fault)["modes"]["cp"]
    assert cp["violations"] == 0, cp["examples"]
    assert cp["recovery"]["complete"]
    assert cp["recovery"]["lost_acked_writes"] == cp["recovery"]["lost_acked_after_fault"] == 0
    assert cp["recovery"]["rpo_seconds"] == 0
    assert cp["recovery"]["recovered"]
    assert cp["recovery"]["rto_seconds"] < 3
    assert cp["reads"]["checked"] > 200
    assert cp["operations"]["write"]["accepted"] > 200
    seen = [r for r in lines(out) if r.get("op") == "read" and r["zone"] == "a" and r["writer"] == "b-cp"]
    assert len(seen) > 30, "readers read what other zones wrote"


def test_ap_sessions_and_replication(cluster: Cluster, tmp_path: Path) -> None:
    apps = {z: cluster.run("serve", "ap", f"db_g{z}") for z in (1, 2)}
    for z in (1, 2, 3):
        cluster.run("replicate", "ap", f"db_g{z}")
    wait_for("fresh", lambda: apps[2].write("k", "v").status == 200 and not apps[2].read("k").json["stale"])
    out = tmp_path / "probe.jsonl"
    access = token(tmp_path)
    run(out, *target("a", "ap", apps[1]), *target("b", "ap", apps[2]), *access, "--rate", "15", "--duration", "5")
    time.sleep(0.5)
    assert verify(out, *access)["lost"] == 0
    ap = report(out)["modes"]["ap"]
    assert ap["violations"] == 0, ap["examples"]
    assert ap["reads"]["session_reads"] > 20
    assert ap["operations"]["write"]["outcomes"].keys() <= {"ok", "unsent"}


def test_writes_that_vanish_from_a_node_are_found(cluster: Cluster, tmp_path: Path) -> None:
    """Negative control on the real service: acknowledged writes are deleted behind its back."""
    app = cluster.run("serve", "ap", "db_g1")
    out = tmp_path / "probe.jsonl"
    access = token(tmp_path)
    run(out, *target("a", "ap", app), *access, "--rate", "20", "--duration", "3")
    client = cluster.nodes["db_g1"].client()
    doomed = sorted(client.scan_iter("ap:__drill:*:w*"))[:7]
    assert client.delete(*doomed) == 7
    assert verify(out, *access)["lost"] == 7
    last = [r for r in lines(out) if r.get("op") == "write"][-1]["start"]
    recovery = report(out, "--fault-at", last)["modes"]["ap"]["recovery"]
    assert recovery["lost_acked_writes"] == 7
    assert 0 < recovery["rpo_seconds"] < 4


def test_a_refused_token_is_no_outage_of_another_kind(cluster: Cluster, tmp_path: Path) -> None:
    app = cluster.run("serve", "cp")
    out = tmp_path / "probe.jsonl"
    run(out, *target("a", "cp", app), *token(tmp_path, "slow"), "--rate", "20", "--duration", "2")
    outcomes = report(out)["modes"]["cp"]["operations"]["write"]["outcomes"]
    assert outcomes["rate_limited"] > 10
    assert outcomes.get("ok", 0) <= 3

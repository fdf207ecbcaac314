"""A region comes back after a failover: what only it has is found, judged and written back, on real nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cluster import SECRET_KEY, TOKENS, App, wait_for
from comparing import compare, replay
from regions import NAMES, Regions

HERE = Path(__file__).resolve().parent
HARD = 'a/ü€ "%2F\\/\u2028?x=1#'  # a key that every layer might spoil
LARGE = "ü" * (512 * 1024)  # 1 MiB


@pytest.fixture(autouse=True)
def _source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1] / "src"))


def by_class(lines: list[dict[str, Any]], face: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"safe": set(), "conflict": set()}
    for line in lines:
        if line["face"] == face:
            found[line["class"]].add(line["key"])
    return found


SAFE = {"lost", "over", "deleted", HARD, "large", "__drill:r:z:w1"}
CONFLICT = {"both", "both-deleted"}


def held(app: App) -> dict[str, tuple[str | None, str | None]]:
    """What a client is told of each key that a replay might write: the code of a refusal, or the version."""
    answers = {key: app.read(key) for key in SAFE | CONFLICT | {"one-node"}}
    return {key: (answer.code, answer.json.get("version")) for key, answer in answers.items()}


def lose(regions: Regions) -> tuple[App, App]:
    """West serves, is cut off, serves on, is fenced; east is promoted and written to. Returns east's two faces."""
    west, east = regions.west, regions.east
    pulls = west.run("replicate", "ap")
    old = {"cp": west.run("serve", "cp"), "ap": west.run("serve", "ap")}
    for app in old.values():
        for key in ("kept", "over", "deleted", "both", "both-deleted", "deleted-twice"):
            assert app.write(key, f"before {key}").status == 200
    for node in west.nodes.values():  # written long before the cut, and overwritten since: nothing is lost
        made = {"t": f"00000001.{1:016x}.{7:028x}", "k": "v", "v": "long ago"}
        node.client().hset("cp:long-ago", mapping=made)
    long_ago = {"ver": f"00000001.{1:012x}0000.db_g1", "k": "v", "v": "long ago"}
    west.nodes["db_g1"].client().hset("ap:long-ago", mapping=long_ago)
    wait_for("heartbeats", lambda: all(n.client().exists("holdfast:heartbeat") for n in west.nodes.values()))
    pulls.stop()
    regions.in_step()
    for cable in regions.cables.values():
        cable.cut = True
    for app in old.values():
        for key in ("lost", "over", HARD, "both", "both-deleted", "__drill:r:z:w1"):
            assert app.write(key, f"after {key}").status == 200
        assert app.write("large", LARGE).status == 200
        for key in ("deleted", "deleted-twice"):
            assert app.delete(key).status == 200
        assert app.write("never", "1").status == 200
        assert app.delete("never").status == 200
    stamp = f"00000001.{int(time.time() * 1000):016x}.{9:028x}"
    west.nodes["db_g2"].client().hset("cp:one-node", mapping={"t": stamp, "k": "v", "v": "not acknowledged"})
    code, told, words = west.region("fence", "--epoch", "2", "--reason", "drill")
    assert code == 0, (told, words)
    for app in old.values():
        app.stop()
    regions.fail_over()
    new = east.run("serve", "cp"), east.run("serve", "ap")
    east.run("replicate", "ap")  # without it AP reads are stale, and a replay trusts none
    wait_for("settled", lambda: east.states() == ["member"] * 3)
    for app in new:
        wait_for("serves", app.ready)
        assert app.read("long-ago").json["value"] == "long ago"
        for key in ("kept", "both", "long-ago"):
            assert app.write(key, f"since {key}").status == 200
        for key in ("both-deleted", "deleted-twice"):
            assert app.delete(key).status == 200
    wait_for("AP reads are not stale", lambda: not new[1].read("kept").json["stale"])
    return new


def test_what_was_lost_is_found_and_what_is_safe_comes_back(regions: Regions, tmp_path: Path) -> None:
    cp, ap = lose(regions)
    out = tmp_path / "lost.jsonl"
    code, told, lines = compare(regions.west, out)
    assert (code, told["result"], told["complete"]) == (4, "found", True), told
    assert (told["region"], told["serving"], told["epoch"]) == ("west", "east", 2)
    assert out.stat().st_mode & 0o777 == 0o600
    # "kept" was written over too, seconds after it came through: no heartbeat is old enough to tell.
    assert by_class(lines, "cp") == {"safe": SAFE | {"one-node"}, "conflict": CONFLICT | {"kept"}}
    assert by_class(lines, "ap") == {"safe": SAFE, "conflict": CONFLICT | {"kept"}}
    assert told["superseded"] == {"cp": 1, "ap": 1}, "long-ago"
    assert told["moot"] == {"cp": 2, "ap": 2}, "deleted-twice, never"
    assert told["found"]["cp"] == {"safe": 6, "conflict": 3, "undone": 0, "unacknowledged": 1, "drill": 1}
    assert told["found"]["ap"] == {"safe": 5, "conflict": 3, "undone": 0, "unacknowledged": 0, "drill": 1}
    cps = {line["key"]: line for line in lines if line["face"] == "cp"}
    assert cps["one-node"] | {"there": None, "nodes": ["db_g2"], "acknowledged": False} == cps["one-node"]
    assert cps["lost"] | {"kind": "value", "value": "after lost", "acknowledged": True} == cps["lost"]
    assert len(cps["lost"]["nodes"]) >= 2
    assert (cps["deleted"]["kind"], cps["deleted"]["value"], cps["deleted"]["there"]["kind"]) == (
        "tombstone",
        None,
        "value",
    )
    assert cps["both"]["there"]["version"].startswith("00000002.")
    assert cps["__drill:r:z:w1"]["drill"] is True
    assert next(ln for ln in lines if ln["face"] == "ap" and ln["key"] == "lost")["nodes"] == ["db_g1"]

    conflicts = {face: app.read("both").json for face, app in (("cp", cp), ("ap", ap))}
    code, told, words = replay(out, "--of", "west", cp=cp, ap=ap)
    assert (code, told["replayed"], told["already"], told["changed"], told["failed"]) == (0, 11, 0, 0, 0), words
    assert told["left"] == {"safe": 2, "conflict": 6, "undone": 0}, "drills and conflicts"
    for app in (cp, ap):
        for key in ("lost", "over", HARD):
            assert app.read(key).json["value"] == f"after {key}"
        assert app.read("large").json["value"] == LARGE
        assert app.read("deleted").code == "not_found"
        assert app.read("both-deleted").code == "not_found"
        assert app.read("both").json["value"] == "since both"
    assert cp.read("one-node").json["value"] == "not acknowledged"
    assert conflicts["cp"]["version"] == cp.read("both").json["version"]
    written = [e for e in cp.entries() if e["event"] == "CP_COMMIT" and e.get("key") == "lost"]
    assert [(e["actor"], e["operation"]) for e in written] == [("boss", "write")], "in the audit log, as any write"

    versions = {key: cp.read(key).json["version"] for key in ("lost", "over", "large")}
    code, told, words = replay(out, cp=cp, ap=ap)
    assert (code, told["replayed"], told["already"]) == (0, 0, 11), "run again it does nothing more"
    assert versions == {key: cp.read(key).json["version"] for key in versions}
    code, told, lines = compare(regions.west, out)
    assert by_class(lines, "cp") == {"safe": {"__drill:r:z:w1"}, "conflict": CONFLICT | {"kept"}}
    code, told, words = replay(out, "--class", "conflict", "--key", "both", "--drills", cp=cp)
    assert (code, told["replayed"]) == (0, 1), words
    assert cp.read("both").json["value"] == "after both"

    # Control: it is by the last heartbeats that came through that "long-ago" is known to have come through.
    for node in regions.east.nodes.values():
        assert node.client().hdel("holdfast:guard", "copied_ms") == 1
    lines = compare(regions.west, out)[2]
    assert [by_class(lines, face)["conflict"] & {"long-ago"} for face in ("cp", "ap")] == [{"long-ago"}] * 2


def test_what_changed_meanwhile_is_left_and_named(regions: Regions, tmp_path: Path) -> None:
    cp, ap = lose(regions)
    out = tmp_path / "lost.jsonl"
    compare(regions.west, out)
    assert cp.write("over", "by a client").status == 200
    assert cp.write("lost", "by a client").status == 200
    assert cp.delete("deleted").status == 200
    code, told, words = replay(out, cp=cp)
    assert (code, told["result"], sorted(told["changed_keys"])) == (4, "changed", ["lost", "over"]), words
    assert (told["replayed"], told["already"]) == (3, 1)
    assert cp.read("over").json["value"] == cp.read("lost").json["value"] == "by a client"
    assert ap.read("lost").code == "not_found", "no URL of that face was given"
    # Control: without the read before the write the client's value is overwritten.
    code, told, words = replay(out, launch=(str(HERE / "broken_replay.py"),), cp=cp)
    assert (code, told["changed"]) == (0, 0), words
    assert cp.read("over").json["value"] == "after over"


def test_what_is_not_replayed(regions: Regions, tmp_path: Path) -> None:
    cp, ap = lose(regions)
    out = tmp_path / "lost.jsonl"
    compare(regions.west, out)
    before = {app: held(app) for app in (cp, ap)}
    for wrong, code, what in (
        (lambda: replay(out, "--of", "east", cp=cp), 6, "of region west"),
        (lambda: replay(out, cp=cp, token="reader"), 6, "forbidden"),
        (lambda: replay(out, cp=cp, token="nobody-0000000000001"), 6, "unauthorized"),
        (lambda: replay(out), 2, "--url-cp"),
        (lambda: replay(out, "--rate", "0", cp=cp), 2, "--rate"),
        (lambda: replay(tmp_path / "none", cp=cp), 2, "cannot be read"),
    ):
        got = wrong()
        assert got[0] == code, got
        assert what in got[2]
    whole = out.read_bytes()
    cut = tmp_path / "cut.jsonl"
    for part, code in ((whole[: len(whole) // 2], 2), (whole.rpartition(b'{"type"')[0], 2)):
        cut.write_bytes(part)
        assert replay(cut, cp=cp)[0] == code
    summary = json.loads(whole.splitlines()[-1])
    for change, words in (({"complete": False}, "not complete"), ({"epoch": 3}, "compare again")):
        cut.write_bytes(whole[: whole.rindex(b'{"type"')] + json.dumps(summary | change).encode() + b"\n")
        got = replay(cut, cp=cp)
        assert got[0] == 6, got
        assert words in got[2]
    assert held(ap) == before[ap]
    written = {key for key, answer in held(cp).items() if answer != before[cp][key]}
    assert len(written) <= 1, "nothing was written, but for the one line that showed a wrong epoch"


def test_what_is_not_compared(regions: Regions, tmp_path: Path) -> None:
    out = tmp_path / "lost.jsonl"
    code, told, words = regions.west.region("compare", "--out", str(out))
    assert (code, told["result"]) == (6, "refused"), "the other region does not serve"
    assert "while the other one serves" in words
    code, told, words = regions.west.region("compare", "--out", str(out), PEER_NODES="")
    assert code == 2
    assert "PEER_NODES" in words
    assert regions.west.region("compare", "--out", str(out), "--without", "db_g9")[0] == 2
    regions.west.region("fence", "--epoch", "2", "--reason", "drill")
    regions.fail_over()
    code, told, words = regions.east.region("compare", "--out", str(out))
    assert (code, told["result"]) == (6, "refused"), "the serving region is not the old one"
    assert not out.exists()
    regions.east.nodes["db_g3"].kill()
    code, told, words = regions.west.region("compare", "--out", str(out))
    assert code == 6
    assert "db_g3 of the other region" in words
    assert regions.west.region("compare", "--out", str(out), "--without-peer", "db_g3")[0] == 0
    code, told, words = regions.west.region("compare", "--out", str(tmp_path / "no" / "x"))
    assert code in (2, 6)


def fill(regions: Regions, count: int, size: int = 20) -> None:
    """Registers of west, of before the cut."""
    for node in regions.west.nodes.values():
        pipe = node.client().pipeline(transaction=False)
        for i in range(count):
            made = {"t": f"00000001.{1:016x}.{i:028x}", "k": "v", "v": "x" * size}
            pipe.hset(f"cp:k{i}", mapping=made)
        pipe.execute()
    regions.in_step()


def test_nodes_that_go_away_leave_a_file_that_says_so(regions: Regions, tmp_path: Path) -> None:
    fill(regions, 20_000)
    cp, _ap = lose(regions)
    out = tmp_path / "lost.jsonl"
    for whose, node in ((regions.west, "db_g2"), (regions.east, "db_g2")):
        command = [sys.executable, "-m", "holdfast", "region", "compare", "--out", str(out)]
        victim = whose.nodes[node]
        running = subprocess.Popen(command, env=regions.west.env("cp"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for("it reads", lambda: list(tmp_path.glob("*.part")), pause=0.001)
        victim.kill()
        told = json.loads(running.communicate(timeout=60)[0])
        assert (running.returncode, told["result"], told["complete"]) == (3, "incomplete", False), told
        assert node in told["problem"]
        summary = json.loads(out.read_text().splitlines()[-1])
        assert (summary["type"], summary["complete"]) == ("summary", False)
        assert replay(out, cp=cp)[0] == 6
        victim.start()
        if whose is regions.east:
            break
        # The other old nodes were read to their end: only what is on db_g2 alone may be missing.
        lines = [json.loads(text) for text in out.read_text().splitlines()][:-1]
        assert by_class(lines, "cp")["safe"] >= SAFE
        out.unlink()
    assert not list(tmp_path.glob("*.part"))


def test_a_dead_old_node_is_given_up_by_name_only(regions: Regions, tmp_path: Path) -> None:
    lose(regions)
    regions.west.nodes["db_g3"].kill()
    out = tmp_path / "lost.jsonl"
    code, told, lines = compare(regions.west, out)
    assert (code, told["complete"]) == (3, False)
    assert by_class(lines, "cp")["safe"] >= SAFE
    code, told, lines = compare(regions.west, out, "--without", "db_g3")
    assert (code, told["complete"], told["without"]) == (4, True, ["db_g3"])
    one = next(line for line in lines if line["key"] == "one-node")
    assert one["acknowledged"] is True, "the node that is gone may have made it a majority"


def test_through_standard_output(regions: Regions) -> None:
    lose(regions)
    command = [sys.executable, "-m", "holdfast", "region", "compare", "--out", "-", "--json"]
    env = regions.west.env("cp", AUDIT_PSEUDONYMISE="on")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert lines[-1]["type"] == "summary"
    assert lines[-1]["complete"] is True
    assert {line["key"] for line in lines[:-1]} >= SAFE
    summary = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, summary["result"], summary["lines"]) == (4, "found", len(lines) - 1)
    assert all(e["key"].startswith("p:") for e in summary["examples"]), "pseudonyms, where the audit log has them"
    assert SECRET_KEY not in done.stdout + done.stderr


def test_nothing_lost(regions: Regions, tmp_path: Path) -> None:
    fill(regions, 1000)
    regions.west.region("fence", "--epoch", "2", "--reason", "drill")
    regions.fail_over()
    for node in regions.west.nodes.values():
        node.client().config_set("min-replicas-to-write", 1)  # it refuses whatever may write, as with a full disk
    code, told, lines = compare(regions.west, tmp_path / "lost.jsonl")
    assert (code, told["result"], told["keys"], lines) == (0, "ok", 1000, [])
    assert {regions.east.guard(n)["copied_ms"] for n in NAMES} == {""}, "nobody had written a heartbeat"


def test_a_killed_replay_is_ended_by_the_next_and_both_keep_their_rate(regions: Regions, tmp_path: Path) -> None:
    count, rate = 300, 100
    regions.west.region("fence", "--epoch", "2", "--reason", "drill")
    regions.fail_over()
    for node in regions.west.nodes.values():
        pipe = node.client().pipeline(transaction=False)
        for i in range(count):
            pipe.hset(f"cp:k{i}", mapping={"t": f"00000001.{1:016x}.{i:028x}", "k": "v", "v": f"value {i}"})
        pipe.execute()
    cp = regions.east.run("serve", "cp")
    wait_for("serves", cp.ready)
    out = tmp_path / "lost.jsonl"
    assert len(compare(regions.west, out)[2]) == count
    token = tmp_path / "token"
    token.write_text(TOKENS["boss"])
    command = [sys.executable, "-m", "holdfast", "region", "replay", str(out), "--token-file", str(token)]
    command += ["--url-cp", f"http://127.0.0.1:{cp.port}", "--rate", str(rate)]
    first = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL)
    node = regions.east.nodes["db_g1"].client()
    wait_for("it writes", lambda: len(node.keys("cp:k*")) > 50)
    first.kill()
    first.wait()
    assert len(node.keys("cp:k*")) < count
    started = time.monotonic()
    code, told, words = replay(out, "--rate", str(rate), cp=cp)
    assert time.monotonic() - started > count / rate - 0.1
    assert (code, told["replayed"] + told["already"]) == (0, count), (told, words)
    assert told["already"] > 50
    assert told["replayed"] > 0
    assert cp.read("k7").json["value"] == "value 7"

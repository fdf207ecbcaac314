"""Read-your-writes by cookie: records on the nodes, moved, lost, forged, rotated; and the clock they carry."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from cluster import SECRET_KEY, App, Cluster, Reply, wait_for


def cookie(reply: Reply) -> str | None:
    """What a browser would send back."""
    value = reply.headers["Set-Cookie"]
    return value.partition(";")[0] if value else None


def shown(value: str | None) -> dict[str, str]:
    assert value is not None
    return {"Cookie": f"other=1; {value}"}


def records(cluster: Cluster, node: str) -> list[bytes]:
    return list(cluster.nodes[node].client().scan_iter("holdfast:session:*"))


def honoured(app: App, key: str, headers: dict[str, str]) -> bool | None:
    reply = app.read(key, headers=headers)
    assert reply.status == 200, reply.body
    return reply.json.get("read_your_writes")


def test_a_write_gives_a_cookie_and_showing_it_keeps_the_record_longer(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    written = app.write("k", "1")
    text = written.headers["Set-Cookie"]
    assert text.startswith("HOLDFAST_SESSION=db_g1~")
    assert text.partition("; ")[2] == "Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Strict"
    (record,) = records(cluster, "db_g1")
    client = cluster.nodes["db_g1"].client()
    assert 0 < client.pttl(record) <= 60_000
    first = app.read("k", headers=shown(cookie(written)))
    assert first.json["read_your_writes"] is True
    assert "Max-Age=3600;" in first.headers["Set-Cookie"]
    assert cookie(first) == cookie(written)
    assert 60_000 < client.pttl(record) <= 3_600_000
    again = app.read("k", headers=shown(cookie(written)))
    assert (again.json["read_your_writes"], again.headers["Set-Cookie"]) == (True, None)
    app.write("k2", "2", headers=shown(cookie(written)))
    assert records(cluster, "db_g1") == [record], "the same session goes on"
    assert client.hget(record, "w:db_g1").endswith(b" 2")
    assert "read_your_writes" not in app.read("k").json, "who shows nothing is promised nothing"


def test_a_client_with_a_token_header_has_no_record(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    written = app.write("k", "1", headers={"X-Session-Token": ""})
    assert written.headers["Set-Cookie"] is None
    token = written.headers["X-Session-Token"]
    assert app.write("k", "2", headers={"X-Session-Token": token}).headers["Set-Cookie"] is None
    assert records(cluster, "db_g1") == []
    assert honoured(app, "k", {"X-Session-Token": token}) is True


def test_a_session_moves_to_another_zone(cluster: Cluster) -> None:
    here, there = cluster.run("serve", "ap", "db_g1"), cluster.run("serve", "ap", "db_g2")
    headers = shown(cookie(here.write("k", "mine")))
    answer = there.read("k", headers=headers).json
    assert (answer["value"], answer["source"], answer["read_your_writes"]) == ("mine", "db_g1", True)
    moved = there.write("k2", "also mine", headers=headers)
    assert cookie(moved).startswith("HOLDFAST_SESSION=db_g2~")  # type: ignore[union-attr]
    headers = shown(cookie(moved))
    missing = there.read("k", headers=headers)
    assert (missing.status, missing.json["read_your_writes"]) == (404, False), "no single node has both writes yet"
    cluster.run("replicate", "ap", "db_g2")
    wait_for("replicated", lambda: there.read("k", headers=headers).json.get("source") == "db_g2")
    assert honoured(there, "k", headers) is True
    cluster.nodes["db_g1"].kill()
    assert honoured(there, "k", headers) is True, "the old home is no longer needed"


def test_a_record_that_cannot_be_had_is_not_forgotten(cluster: Cluster) -> None:
    here, there = cluster.run("serve", "ap", "db_g1"), cluster.run("serve", "ap", "db_g2")
    headers = shown(cookie(here.write("k", "mine")))
    there.write("k2", "x", headers={"X-Session-Token": ""})
    cluster.nodes["db_g1"].kill()
    wait_for("node gone", lambda: honoured(there, "k2", headers) is False)
    moved = there.write("k2", "y", headers=headers)
    assert moved.status == 200
    assert honoured(there, "k2", shown(cookie(moved))) is False, "what was written on the lost node is not seen"
    fresh = there.write("k2", "z")
    assert honoured(there, "k2", shown(cookie(fresh))) is True, "control: another session is not affected"


def test_forged_unknown_and_expired_sessions(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    real = cookie(app.write("k", "1"))
    assert real is not None
    value = real.partition("=")[2]
    for forged in (
        "",
        "x",
        ".",
        value[:-1] + "0g"[value[-1] == "0"],
        f"db_g2{value[5:]}",
        "db_g9~x.y",
        "é",
        "y" * 5000,
    ):
        assert honoured(app, "k", {"Cookie": f"HOLDFAST_SESSION={forged}".encode().decode("latin-1")}) is False
    assert honoured(app, "k", shown(real)) is True
    cluster.nodes["db_g1"].client().delete(*records(cluster, "db_g1"))
    assert honoured(app, "k", shown(real)) is False
    later = app.write("k", "2", headers=shown(real))
    assert later.status == 200
    assert honoured(app, "k", shown(real)) is False, "what the lost record held is not known"


def test_a_dead_incarnation_is_told_also_after_writes_under_the_new_one(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    first = app.write("k", "1")
    headers, token = shown(cookie(first)), first.headers["X-Session-Token"]
    cluster.nodes["db_g1"].client().hset("holdfast:guard", "incarnation", "restored")
    wait_for("followed", lambda: honoured(app, "k", headers) is False)
    assert app.write("k", "2", headers=headers).json["acks"] == ["db_g1"]
    assert honoured(app, "k", headers) is False
    second = app.write("k", "3", headers={"X-Session-Token": token})
    assert honoured(app, "k", {"X-Session-Token": second.headers["X-Session-Token"]}) is False
    fresh = app.write("k", "4")
    assert honoured(app, "k", shown(cookie(fresh))) is True, "control"


@pytest.mark.parametrize("kind", ["token", "cookie"])
def test_a_session_goes_on_after_an_incarnation_has_ended(cluster: Cluster, kind: str) -> None:
    """As after a change of region: it cannot be told of all its writes, but those made since are found in any zone."""
    here, there = (cluster.run("serve", "ap", z) for z in ("db_g1", "db_g2"))

    def of(reply: Reply) -> dict[str, str]:
        return shown(cookie(reply)) if kind == "cookie" else {"X-Session-Token": reply.headers["X-Session-Token"]}

    headers = of(here.write("k", "old"))
    cluster.nodes["db_g1"].client().hset("holdfast:guard", "incarnation", "restored")
    wait_for("followed", lambda: honoured(here, "k", headers) is False)
    written = here.write("k", "new", headers=headers)
    headers = headers if kind == "cookie" else of(written)
    answer = there.read("k", headers=headers).json
    assert (answer.get("value"), answer["read_your_writes"]) == ("new", False), (
        "nothing replicates: its origin is asked"
    )
    cluster.run("replicate", "ap", "db_g2")
    wait_for("copied", lambda: there.read("k").json.get("value") == "new")
    assert there.read("k", headers=headers).json["read_your_writes"] is False


@pytest.mark.parametrize("kind", ["token", "cookie", "none"])
def test_a_session_never_writes_below_its_own_last_version(cluster: Cluster, kind: str) -> None:
    here, there = (cluster.run("serve", "ap", z, MAX_CLOCK_DRIFT_MS="60000") for z in ("db_g1", "db_g2"))
    ahead = int(time.time() * 1000) + 30_000
    cluster.nodes["db_g1"].client().hset("holdfast:ap", "hlc", f"{ahead:012x}0000")
    first = here.write("k", "1")
    headers = {
        "token": {"X-Session-Token": first.headers["X-Session-Token"]},
        "cookie": shown(cookie(first)),
        "none": {},
    }[kind]
    second = there.write("k", "2", headers=headers)
    assert second.json["acks"] == ["db_g2"]
    above = second.json["version"] > first.json["version"]
    assert above is (kind != "none"), "the control without a session writes below"


def test_the_secret_key_is_rotated_with_an_overlap(cluster: Cluster, tmp_path: Path) -> None:
    old = cluster.run("serve", "ap")
    written = old.write("k", "1")
    apps = {}
    for name in ("overlap", "abrupt"):
        secrets = tmp_path / name
        shutil.copytree(cluster.secrets, secrets)
        (secrets / "secret_key").write_text("f" * 31 + "0")
        if name == "overlap":
            (secrets / "secret_key_previous").write_text(SECRET_KEY)
        apps[name] = cluster.run("serve", "ap", SECRETS_DIR=str(secrets))
    for headers in (shown(cookie(written)), {"X-Session-Token": written.headers["X-Session-Token"]}):
        assert honoured(apps["overlap"], "k", headers) is True
        assert honoured(apps["abrupt"], "k", headers) is False
    renewed = apps["overlap"].write("k", "2", headers={"X-Session-Token": written.headers["X-Session-Token"]})
    assert honoured(apps["abrupt"], "k", {"X-Session-Token": renewed.headers["X-Session-Token"]}) is True
    assert honoured(old, "k", {"X-Session-Token": renewed.headers["X-Session-Token"]}) is False, "signed with the new"

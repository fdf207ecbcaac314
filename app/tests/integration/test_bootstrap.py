from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import Cluster


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes nobody has stamped."""
    cluster = Cluster(tmp_path)
    try:
        for node in cluster.nodes.values():
            node.start()
        yield cluster
    finally:
        cluster.stop()


def states(report: dict[str, dict[str, dict[str, object]]]) -> list[object]:
    return [n["state"] for n in report["nodes"].values()]


def test_stamps_once_and_check_changes_nothing(blank: Cluster) -> None:
    code, report = blank.bootstrap("--check")
    assert code == 0
    assert report["changed"] is True
    assert states(report) == ["blank"] * 3
    assert blank.nodes["db_g1"].client().dbsize() == 0
    code, report = blank.bootstrap()
    assert (code, report["changed"], states(report)) == (0, True, ["member"] * 3)
    guards = [n.client().hgetall("holdfast:guard") for n in blank.nodes.values()]
    assert len({g[b"incarnation"] for g in guards}) == 3
    code, report = blank.bootstrap()
    assert (code, report["changed"], states(report)) == (0, False, ["member"] * 3)
    assert guards == [n.client().hgetall("holdfast:guard") for n in blank.nodes.values()]


def test_an_unreachable_node_stops_the_first_bootstrap(blank: Cluster) -> None:
    blank.nodes["db_g2"].kill()
    code, report = blank.bootstrap()
    assert (code, report["changed"]) == (3, False)
    assert states(report) == ["blank", "unreachable", "blank"]
    assert "db_g2" in report["messages"][0]
    assert blank.nodes["db_g1"].client().dbsize() == 0


def test_data_without_a_guard_is_refused(blank: Cluster) -> None:
    blank.nodes["db_g3"].client().set("cp:k", "v")
    code, report = blank.bootstrap()
    assert (code, report["changed"]) == (4, False)
    assert report["nodes"]["db_g3"]["state"] == "data_without_guard"
    assert blank.nodes["db_g1"].client().dbsize() == 0


def test_a_later_blank_node_becomes_recovering_even_with_one_away(blank: Cluster) -> None:
    blank.bootstrap()
    blank.nodes["db_g1"].client().flushall()
    blank.nodes["db_g2"].kill()
    code, report = blank.bootstrap()
    assert (code, states(report)) == (0, ["recovering", "unreachable", "member"])


def test_one_server_under_two_names(blank: Cluster) -> None:
    port = blank.nodes["db_g1"].port
    code, report = blank.bootstrap(NODES=f"db_g1=127.0.0.1:{port},db_g2=localhost:{port}")
    assert (code, report["changed"]) == (5, False)
    assert states(report)[1] == "duplicate"


def test_a_node_of_another_name(blank: Cluster) -> None:
    blank.bootstrap()
    swapped = (
        f"db_g1=127.0.0.1:{blank.nodes['db_g2'].port},db_g2=127.0.0.1:{blank.nodes['db_g1'].port},"
        f"db_g3=127.0.0.1:{blank.nodes['db_g3'].port}"
    )
    code, report = blank.bootstrap(NODES=swapped)
    assert (code, states(report)) == (5, ["foreign", "foreign", "member"])


def test_several_at_once_leave_members_only(blank: Cluster) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: blank.bootstrap(), range(4)))
    assert [code for code, _ in results] == [0] * 4
    assert {n.client().hget("holdfast:guard", "state") for n in blank.nodes.values()} == {b"member"}


def test_wrong_password_and_missing_settings_are_told_apart(blank: Cluster) -> None:
    (blank.secrets / "redis_password").write_text("not-the-password-at-all")
    code, report = blank.bootstrap()
    assert code == 3
    assert report["nodes"]["db_g1"]["reason"] == "auth"
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "bootstrap"],
        env=blank.env("cp") | {"REGION": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "REGION" in done.stderr
    assert not done.stdout or json.loads(done.stdout)

"""The keys that bin/drills loads are what clients' writes would have left: read by the service, from any majority."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from cluster import PASSWORD, Cluster, Node, Tls, wait_for
from pki import authority, certificate

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "bin"))

from lab_lib import drill_keys
from lab_lib.report import Problem

COUNT = 5000


def reach(node: Node) -> drill_keys.Node:
    """Through a redis-cli that logs in by itself, as the nodes' containers have it."""
    place = node.directory / "bin"
    place.mkdir(exist_ok=True)
    tls = f"--tls --cacert {node.tls.ca} --cert {node.tls.cert} --key {node.tls.key}" if node.tls else ""
    login = f"-p {node.port} {tls} --user tester --no-auth-warning"
    script = place / "redis-cli"
    script.write_text(f'#!/bin/sh\nREDISCLI_AUTH={PASSWORD} exec /usr/bin/redis-cli {login} "$@"\n')
    script.chmod(0o755)
    return drill_keys.Node(node.name, ["env", f"PATH={place}:/usr/bin:/bin"])


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_loaded_keys_are_read_and_written_as_any_other(tmp_path: Path, over_tls: bool) -> None:
    tls = None
    if over_tls:
        ca = authority(tmp_path, "ca")
        tls = Tls(ca.with_suffix(".crt"), *certificate(tmp_path, ca, "node", "IP:127.0.0.1"))
    cluster = Cluster(tmp_path, tls)
    try:
        cluster.start()
        drill_keys.fill([reach(node) for node in cluster.nodes.values()], COUNT)
        held = [node.client().hgetall(f"cp:{drill_keys.key(COUNT - 1)}") for node in cluster.nodes.values()]
        assert held[0] == held[1] == held[2] != {}, "one register, the same on every node"
        assert {sum(1 for _ in node.client().scan_iter("cp:*", 1000)) for node in cluster.nodes.values()} == {COUNT}
        app = cluster.run("serve", "cp")
        wait_for("ready", app.ready)
        for gone in cluster.nodes.values():  # whichever two are left
            gone.kill()
            for number in (0, 1999, 2000, COUNT - 1):
                wait_for(f"without {gone.name}", lambda n=number: app.read(drill_keys.key(n)).status == 200)
                assert app.read(drill_keys.key(number)).json["value"] == drill_keys.value(number)
            gone.start()
        wait_for("a client's write wins", lambda: app.write(drill_keys.key(7), "newer").status == 200)
        assert app.read(drill_keys.key(7)).json["value"] == "newer"
    finally:
        cluster.stop()


def test_a_node_that_does_not_vote_is_not_filled(cluster: Cluster) -> None:
    cluster.nodes["db_g2"].client().hset("holdfast:guard", "state", "fenced")
    with pytest.raises(Problem, match="db_g2 does not vote: it is fenced"):
        drill_keys.fill([reach(node) for node in cluster.nodes.values()], 10)
    assert cluster.nodes["db_g2"].client().dbsize() == 1, "its guard"


@pytest.mark.parametrize("count", [10, 20_000])  # redis-cli's lines about so many do not fit into a pipe
def test_a_node_that_takes_nothing_is_noticed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(drill_keys, "FILL_SECONDS", 120)
    cluster.nodes["db_g1"].client().config_set("maxmemory", 1)
    with pytest.raises(Problem, match="db_g1 did not take the keys") as problem:
        drill_keys.fill([reach(cluster.nodes["db_g1"])], count)
    assert f"errors: {count}, replies: {count}" in problem.value.detail


def test_a_redis_cli_that_hangs_is_ended(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_keys, "FILL_SECONDS", 2)
    node = cluster.nodes["db_g1"]
    feed = drill_keys.Node._feed

    def stopped(self: drill_keys.Node, chunks: Iterator[bytes], out: IO[bytes]) -> int:
        node.signal(signal.SIGSTOP)
        return feed(self, chunks, out)

    monkeypatch.setattr(drill_keys.Node, "_feed", stopped)
    try:
        with pytest.raises(Problem, match="db_g1 did not take the keys"):
            drill_keys.fill([reach(node)], 200_000)
    finally:
        node.signal(signal.SIGCONT)


@pytest.mark.parametrize("changed", [{"incarnation": "another"}, {"region_epoch": "9"}])
def test_a_node_whose_guard_changes_meanwhile_is_noticed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    """Each store is refused then, by an answer that redis-cli takes for none of its errors."""
    node, feed = cluster.nodes["db_g1"], drill_keys.Node._feed

    def after_a_change(self: drill_keys.Node, chunks: Iterator[bytes], out: IO[bytes]) -> int:
        node.client().hset("holdfast:guard", mapping=changed)
        return feed(self, chunks, out)

    monkeypatch.setattr(drill_keys.Node, "_feed", after_a_change)
    with pytest.raises(Problem, match="the guard of db_g1 changed while it was filled"):
        drill_keys.fill([reach(node)], 10)
    assert node.client().dbsize() == 1, "its guard, and no key"


@pytest.mark.parametrize("gone", [0, 9])
def test_a_register_that_is_not_there_is_noticed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, gone: int) -> None:
    node, feed = cluster.nodes["db_g1"], drill_keys.Node._feed

    def and_lost(self: drill_keys.Node, chunks: Iterator[bytes], out: IO[bytes]) -> int:
        code = feed(self, chunks, out)
        node.client().delete(f"cp:{drill_keys.key(gone)}")
        return code

    monkeypatch.setattr(drill_keys.Node, "_feed", and_lost)
    with pytest.raises(Problem, match=f"db_g1 does not hold {drill_keys.key(gone)}"):
        drill_keys.fill([reach(node)], 10)

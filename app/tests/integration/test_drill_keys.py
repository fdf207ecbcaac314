"""The keys that bin/drills loads are what clients' writes would have left: read by the service, from any majority."""

from __future__ import annotations

import sys
from pathlib import Path

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


def test_a_node_that_takes_nothing_is_noticed(cluster: Cluster) -> None:
    cluster.nodes["db_g1"].client().config_set("maxmemory", 1)
    with pytest.raises(Problem, match="db_g1 did not take the keys"):
        drill_keys.fill([reach(cluster.nodes["db_g1"])], 10)

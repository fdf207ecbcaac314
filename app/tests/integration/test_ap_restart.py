"""What a script wrote in several commands is there after a node's restart: Redis replays its file as `default`."""

from __future__ import annotations

import pytest
from cluster import Cluster
from test_ap import contents

FINE = "user default off resetpass ~* &* +@all"


def restart(cluster: Cluster, rule: str) -> tuple[dict[bytes, dict[bytes, bytes]], bytes | None, int]:
    """Kill db_g1 and start it with ``rule`` for the user default: (AP values, last sequence number, outbox length)."""
    node = cluster.nodes["db_g1"]
    node.kill()
    node.start(default=rule)
    client = node.client()
    return contents(cluster, "db_g1"), client.hget("holdfast:ap", "seq"), client.xlen("holdfast:outbox")


def test_ap_writes_survive_the_restart_of_their_node(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap")
    for i in range(5):
        assert app.write(f"k{i}", "x").status == 200
    assert app.delete("k0").status == 200
    before = contents(cluster, "db_g1")
    assert len(before) == 5
    assert restart(cluster, FINE) == (before, b"6", 6)
    log = (cluster.nodes["db_g1"].directory / "redis.log").read_text()
    assert "NOPERM" not in log


@pytest.mark.parametrize("rule", ["user default off", "user default off resetkeys resetchannels -@all"])
def test_without_rights_for_default_they_would_not(cluster: Cluster, rule: str) -> None:
    """The control. A Redis that has the gap closed says so by failing here: then the rule may be tightened again."""
    app = cluster.run("serve", "ap")
    assert app.write("k", "x").status == 200
    before = contents(cluster, "db_g1")
    assert restart(cluster, rule) == ({}, None, 0)
    assert restart(cluster, FINE)[0] == before, "the file still has it"

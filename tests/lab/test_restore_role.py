"""Role restore on real nodes: what comes back does not vote before it was healed, what was there is kept, a refusal changes nothing."""

import os

import pytest
from restores import Cluster, Restores

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the role gives files to the node's user, which needs root")


@pytest.fixture
def restores(tmp_path):
    cluster = Cluster(tmp_path)
    for node in cluster.nodes.values():
        node.extra = ["aof-timestamp-enabled yes"]
    try:
        cluster.start()
        made = Restores(cluster)
        yield made
        made.stop()
    finally:
        cluster.stop()


def test_a_lost_node_comes_back_without_voting_and_is_healed(restores):
    app = restores.cluster.run("serve")
    assert app.write("kept", "1").status == 200
    assert restores.backups.collect().code == 0
    assert app.write("later", "2").status == 200
    restores.lose()
    assert app.write("meanwhile", "3").status == 200
    code, said = restores.play("find", "others", "make", "swap", restore_run="first")
    assert code == 0, said
    assert restores.state() == "recovering" and restores.kept() == []
    client = restores.node.client()
    assert client.exists("cp:kept") and not client.exists("cp:later")
    assert (restores.own.stat().st_uid, restores.own.stat().st_mode & 0o777) == (10002, 0o700)
    code, said = restores.play("find", "repair", "verify")
    assert code == 0, said
    assert "REPAIR_FINISHED" in said and restores.state() == "member"
    assert client.exists("cp:later") and client.exists("cp:meanwhile")
    app.stop()

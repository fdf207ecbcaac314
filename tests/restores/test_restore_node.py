"""runbooks/restore_node.yml from its first to its last phase, on real nodes: a restore, its inverse, and runs that are refused."""

import os

import pytest
from restores import running, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the role gives files to the node's user, which needs root")
PHASES = ["Open", "Preflight", "Confirm", "Prepare", "Switch", "Verify", "Close"]


@pytest.fixture(scope="module")
def restores(tmp_path_factory):
    with running(tmp_path_factory.mktemp("restores")) as made:
        yield made


@pytest.fixture(scope="module")
def faces(restores):
    return {mode: restores.cluster.run("serve", mode) for mode in ("cp", "ap")}


@pytest.mark.long
def test_a_lost_node_is_restored_and_what_a_run_kept_is_put_back(restores, faces):
    assert faces["cp"].write("kept", "1").status == 200
    restores.backups.collect()
    restores.lose()
    assert faces["cp"].write("meanwhile", "2").status == 200
    code, said = restores.runbook(faces, to="newest")
    assert code == 0, said
    [record] = restores.records()
    assert record["verdict"] == "passed" and [phase["title"] for phase in record["phases"]] == PHASES
    assert record["facts"]["restored"]["source"] == "host" and record["facts"]["restored"]["moment"]
    assert restores.state() == "member" and restores.kept() == []
    assert restores.node.client().hget("cp:meanwhile", "v") == b"2"

    code, said = restores.runbook(faces, to="nothing")
    assert code == 0, said
    assert restores.state() == "member" and restores.node.client().exists("cp:kept")
    [kept] = restores.kept()
    run = kept.removeprefix("db_g1.before-")
    assert (restores.cluster.root / "evidence" / run / "record.json").is_file()

    code, said = restores.runbook(faces, undo=run)
    assert code == 0, said
    assert f"its data becomes what run {run} kept" in said
    assert restores.state() == "member" and restores.kept() != [kept] and len(restores.kept()) == 1


@pytest.mark.long
def test_a_node_is_left_alone_when_another_one_fails_while_its_files_are_made(restores, faces):
    """Without the two there would be no majority. The control is the run that is not disturbed, above."""
    restores.backups.collect()
    before = restores.node.client().info("server")["run_id"], restores.kept()
    other = restores.cluster.nodes["db_g2"]
    (restores.place / "ends").write_text(str(other.process.pid))
    try:
        code, said = restores.runbook(faces, to="newest")
        assert code != 0 and "Without db_g1 no majority of the region's nodes can vote" in said, said
        assert said.index("Build the data directories of the moment") < said.index("Without db_g1"), said
        assert (restores.node.client().info("server")["run_id"], restores.kept()) == before
    finally:
        (restores.place / "ends").unlink()
        other.kill()
        other.start()
    wait_for("all vote", lambda: restores.state() == "member" and faces["cp"].ready())


@pytest.mark.long
def test_what_is_refused_changes_nothing(restores, faces):
    """The control is the run that is not refused, at the end, in check mode."""
    restores.backups.collect()
    before = restores.tree()
    for said, variables in {
        "host is 'there'": {"host": "there", "to": "newest"},
        "to is 'newest', undo is 'x'. Nothing was changed": {"to": "newest", "undo": "x"},
        "to is '', undo is ''. Nothing was changed": {},
        "node is db_g9; here has db_g1": {"node": "db_g9", "to": "newest"},
        "node is not given; here has db_g1": {"node": "", "to": "newest"},
        "is before the first in the backups": {"to": "2020-01-01T00:00:00Z"},
        "'db_g7' is not 'db_g1', so nothing was changed": {"to": "newest", "confirm": "db_g7"},
        "reason is ''": {"to": "newest", "reason": ""},
    }.items():
        code, told = restores.runbook(faces, **variables)
        assert code != 0 and said in told, told
    assert restores.tree() == before and restores.state() == "member"
    code, told = restores.runbook(faces, "--check", to="newest")
    assert code == 0 and "stop db_g1 of here for a moment" in told, told
    assert restores.tree() == before

"""Role restore on real nodes: what comes back does not vote before it was healed, what was there is kept, a refusal changes nothing."""

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess

import pytest
from restores import KINDS, ROOT, moment, next_second, repository, running, west_fenced

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the role gives files to the node's user, which needs root")


def load_module():
    spec = importlib.util.spec_from_file_location("restore_find", ROOT / "roles/restore/library/restore_find.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def restores(tmp_path):
    with running(tmp_path) as made:
        yield made


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


@pytest.mark.long
def test_a_node_is_emptied_and_filled_by_the_others_and_put_back_again(restores):
    """`nothing`, and its inverse: what was kept comes back, does not vote before it was healed, and then has what the others have."""
    app = restores.cluster.run("serve")
    assert app.write("before", "1").status == 200
    code, said = restores.play("find", "others", "make", "swap", restore_to="nothing", restore_run="first")
    assert code == 0, said
    client = restores.node.client()
    assert restores.kept() == ["db_g1.before-first"] and restores.state() != "member" and not client.exists("cp:before")
    assert app.write("meanwhile", "2").status == 200
    code, said = restores.play("find", "repair", "verify", restore_to="nothing")
    assert code == 0, said
    assert restores.state() == "member" and client.exists("cp:before") and client.exists("cp:meanwhile")
    code, said = restores.play("undo_find", "others", "undo", restore_undo="first", restore_run="second")
    assert code == 0, said
    assert restores.kept() == ["db_g1.before-second"] and restores.state() == "recovering"
    assert client.exists("cp:before") and not client.exists("cp:meanwhile")
    code, said = restores.play("undo_find", "undo", "repair", "verify", restore_undo="first", restore_run="third")
    assert code == 0, said  # started again as after an interruption: it is in its place already
    assert restores.kept() == ["db_g1.before-second"] and restores.state() == "member" and client.exists("cp:meanwhile")
    started = client.info("server")["run_id"]
    code, said = restores.play("undo_find", "undo", restore_undo="first", restore_run="fourth")
    assert code == 0, said  # it votes by now, rightly: it is not stopped, and not judged
    assert restores.state() == "member" and client.info("server")["run_id"] == started
    code, said = restores.play("undo_find", restore_undo="first", restore_undo_again=False)
    assert code != 0 and "db_g1.before-first is not on here, or holds no data" in said and "without" in said, said
    app.stop()


def test_an_exchange_that_was_interrupted_is_gone_on_with(restores):
    restores.backups.collect()
    restores.stop()
    restores.own.rename(restores.data / "db_g1.before-first")  # between the two renames
    restores.own.mkdir()  # by Docker, at a start
    code, said = restores.play("find", "make", "swap", restore_run="first")
    assert code == 0, said
    assert restores.kept() == ["db_g1.before-first"] and restores.state() == "recovering"
    (restores.data / "db_g1.before-third").mkdir()
    code, said = restores.play("find", "make", "swap", restore_run="third")
    assert code != 0 and "is there already: nothing is ever overwritten" in said


def test_what_cannot_be_made_leaves_nothing_behind_and_the_node_at_work(restores):
    restores.node.client().set("cp:x", "1")
    restores.backups.collect()
    [piece] = [path for path in (restores.store / "db_g1/files").rglob("*.incr.aof.*") if path.stat().st_size > 0]
    piece.write_bytes(b"x" * piece.stat().st_size)
    code, said = restores.play("find", "make", "swap")
    assert (
        code != 0 and "its checksum differs" in said and "This run stopped and exchanged nothing, and what was half made is removed" in said
    ), said
    assert [path.name for path in (restores.data / ".restore").iterdir()] == []
    assert restores.state() == "member" and restores.kept() == []


def test_check_mode_changes_nothing(restores):
    restores.backups.collect()
    before = restores.tree()
    code, said = restores.play("find", "others", "make", "swap", "repair", check=True)
    assert code == 0, said
    assert restores.tree() == before and restores.state() == "member"


def test_what_cannot_be_restored_is_refused_before_anything_changes(restores):
    """The control is the last line: the same without a fault is found."""
    before = restores.tree()
    refused = restores.play("find")[1]
    assert (
        "there is no backup of db_g1 here, and no access to the repository. Nothing was changed. Cure: run playbooks/backup.yml" in refused
    )
    assert restores.tree() == before
    restores.backups.collect()
    before = restores.tree()
    for said, variables in {
        "is before the first in the backups. Nothing was changed. Cure: choose a moment in": {"restore_to": "2020-01-01T00:00:00Z"},
        "2090-01-01T00:00:00Z is in the future": {"restore_to": "2090-01-01T00:00:00Z"},
        "to is 'yesterday'. Nothing was changed.": {"restore_to": "yesterday"},
        "node is db_g9; here has db_g1. Nothing was changed": {"restore_nodes": ["db_g9"]},
        "db_g9 has no container on this host": {
            "restore_nodes": ["db_g9"],
            "restore_host_nodes": [{**restores.address("db_g2"), "name": "db_g9"}],
        },
        "restore_image names no digest": {"restore_image": ""},
        "undo is ''. Nothing was changed": {"verbs": ["undo_find"]},
        "db_g1.before-never is not on here, or holds no data. Nothing was changed": {"verbs": ["undo_find"], "restore_undo": "never"},
    }.items():
        code, told = restores.play(*variables.pop("verbs", ["find"]), **variables)
        assert code != 0 and said in told, told
    (restores.data / ".restore").mkdir()
    (restores.place / "huge").touch()
    code, told = restores.play("find")
    assert code != 0 and "beside the data that is kept. Nothing was changed. Make room" in told, told
    (restores.place / "huge").unlink()
    with (restores.data / ".restore/.db_g1.restore.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, told = restores.play("find")
        assert code != 0 and "another restore of db_g1 is running. Nothing was changed. Cure: wait" in told, told
    assert restores.state() == "member"
    assert restores.play("find")[0] == 0


def test_the_epoch_that_serves_is_not_that_of_a_fence_of_the_other_region(restores):
    """It was fenced higher than the region that serves; nobody has written there."""
    restores.backups.collect()
    with west_fenced(restores.cluster.root / "west", restores.place, epoch=9):
        assert json.loads(restores.docker("exec", "app_cp_1", "holdfast", "region", "status"))["epoch"] == 9
        code, said = restores.play("find", "others")
        assert code == 0, said


def test_a_backup_of_an_older_region_epoch_is_refused(restores):
    """Its data would not be merged. The control is test_a_lost_node_comes_back_without_voting_and_is_healed."""
    restores.backups.collect()
    for node in restores.cluster.nodes.values():
        node.client().hset("holdfast:guard", "region_epoch", 3)
    code, said = restores.play("find", "others")
    assert code != 0 and "is of region epoch 1; epoch 3 serves now" in said and "-e to=nothing" in said, said
    assert restores.play("find", "others", restore_to="nothing")[0] == 0


@pytest.fixture(params=["here", *KINDS])
def kept(request, tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    with repository(request.param, tmp_path / "restic") as made:
        yield made


@pytest.mark.long
def test_the_host_has_lost_its_backups_too(restores, kept):
    """They come from the repository, of whatever kind, for the newest moment and for an older one; a wrong password is refused."""
    client = restores.node.client()
    restores.backups.collect()
    first = next_second()
    client.set("cp:younger", "1")
    next_second()
    restores.backups.collect()
    kept.keep(restores.store / "db_g1")
    kept.keep(restores.store / "db_g1")
    shutil.rmtree(restores.store)
    restores.lose()
    left = restores.tree()
    for said, variables in {
        "the repository's password on this host is wrong. Nothing was changed. Cure: set backup_repository_password": {"password": "wrong"},
        "is after the newest backup": {"restore_to": "2090-01-01T00:00:00Z"},
        "is before the first in the backups": {"restore_to": "2020-01-01T00:00:00Z"},
        "there is no backup of db_g2 in this host's repository": {"tag": "db_g2"},
    }.items():
        tag = variables.pop("tag", "db_g1")
        code, told = restores.play(
            "find",
            restore_nodes=[tag],
            restore_host_nodes=[restores.address(tag)],
            **{"__restore_restic": kept.restic(variables.pop("password", "right")), **variables},
        )
        assert code != 0 and said in told, told
    assert restores.tree() == left
    for to, there in ((moment(first), 0), ("newest", 1)):
        code, told = restores.play("find", "make", "swap", restore_to=to, restore_run=f"run-{there}", __restore_restic=kept.restic())
        assert code == 0, told
        assert restores.node.client().exists("cp:younger") == there and restores.state() == "recovering"
        assert [path.name for path in (restores.data / ".restore").iterdir()] == []


def test_a_follower_is_refused(restores, tmp_path):
    (tmp_path / "records/db_g1").mkdir(parents=True)
    wanted = {"node": "db_g1", "place": str(tmp_path), "records": str(tmp_path / "records")}
    module = load_module()
    module.run = lambda _command: subprocess.CompletedProcess([], 0)
    module.check_node(wanted)
    (tmp_path / "records/db_g1/role").write_text("replica\n")
    with pytest.raises(module.Refused, match=r"follows its namesake .* runbooks/dr_follow\.yml"):
        module.check_node(wanted)


def test_without_a_majority_of_the_others_nothing_is_changed(restores):
    restores.backups.collect()
    restores.cluster.nodes["db_g2"].kill()
    before = restores.tree()
    code, said = restores.play("find", "others")
    assert code != 0 and "Without db_g1 no majority of the region's nodes can vote" in said and "Bring db_g2, db_g3 up" in said, said
    assert restores.tree() == before and restores.state() == "member"
    restores.cluster.nodes["db_g2"].start()
    assert restores.play("find", "others")[0] == 0


def test_a_repair_that_stops_is_said_and_can_be_started_again(restores):
    restores.backups.collect()
    assert restores.play("find", "make", "swap")[0] == 0
    restores.cluster.nodes["db_g2"].kill()
    code, said = restores.play("find", "repair")
    assert code != 0 and "db_g1 runs and does not vote: no majority of nodes" in said, said
    restores.cluster.nodes["db_g2"].start()
    code, said = restores.play("find", "repair", "verify")
    assert code == 0 and restores.state() == "member", said


@pytest.mark.long
def test_a_node_that_votes_and_lacks_a_key_is_noticed(restores):
    """And one that does not vote. The control is test_a_lost_node_comes_back_without_voting_and_is_healed."""
    app = restores.cluster.run("serve")
    assert app.write("a", "1").status == 200
    app.stop()
    restores.backups.collect()
    restores.node.client().delete("cp:a")
    code, said = restores.play("find", "verify", __restore_count_tries=1)
    assert code != 0 and "db_g1: 0 keys; db_g2: 1 db_g3: 1" in said, said
    assert restores.play("find", "make", "swap")[0] == 0
    code, said = restores.play("find", "verify", __restore_count_tries=1)
    assert code != 0 and "Read what the region's nodes say of themselves" in said, said


def test_a_service_that_was_stopped_meanwhile_is_noticed(restores):
    restores.backups.collect()
    (restores.place / "started_again").touch()
    code, said = restores.play("find", "verify")
    assert code != 0 and "do not run any more, or were started anew: /app_cp_1" in said, said

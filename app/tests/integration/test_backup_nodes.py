"""What `holdfast backup` refuses, and nodes that are down, or follow another. With real Redis, as in test_backup.py."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest
from backups import Backups, next_second, write
from cluster import PASSWORD, Cluster, wait_for

from holdfast.backup.refusals import Refused
from holdfast.backup.scratch_node import ScratchNode


def test_bad_input_is_refused_before_anything_changes(
    backups: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = tmp_path / "r"
    assert backups.restore("newest", into).refused("there is no backup in")
    backups.collect()
    write(backups.node.client(), 0)
    next_second()
    backups.collect()
    assert backups.restore(time.time() - 3600, into).refused("before the first")
    assert backups.restore(time.time() + 60, into).refused("in the future")
    assert backups.restore(next_second(), into).refused("after the last")
    assert backups.restore("2026-05-01T10:14:59", into).refused("is no moment", 2)
    assert backups.restore("newest", tmp_path / "no" / "r").refused("is no directory")
    assert backups.verify("newest", tmp_path).refused("was not restored")
    (tmp_path / ".r.restore.lock").touch()
    with (tmp_path / ".r.restore.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert backups.restore("newest", into).refused("another restore")
    monkeypatch.setattr("holdfast.backup.backup_collect.ALONE_SEC", 0.2)
    with (backups.store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert backups.collect().refused("another backup")
    assert not into.exists()
    (tmp_path / ".r.restoring" / "half").mkdir(parents=True)  # of one that was killed
    assert backups.restore("newest", into).code == 0
    assert not (tmp_path / ".r.restoring").exists()
    assert sorted(p.name for p in into.iterdir()) == ["appendonlydir", "restored.json"]
    assert backups.restore("newest", into).refused("not an empty directory")
    assert backups.verify("newest", into).refused("no census")
    other = Backups(backups.cluster, backups.store, "db_g2")
    assert other.collect().refused("holds backups of db_g1")
    assert Backups(backups.cluster, Path("/proc/self/nothing")).collect().code == 4
    missing = Backups(backups.cluster, tmp_path / "s2", "db_g2")
    missing.data = tmp_path
    assert missing.collect().refused("is no directory")
    nobody = backups.run("collect", "nobody", "--data", backups.data, "--store", backups.store)
    assert nobody.code == 2


def test_a_store_on_another_file_system_is_refused(backups: Backups) -> None:
    other = Path(f"/dev/shm/holdfast-backup-test-{os.getpid()}")
    assert other.parent.stat().st_dev != backups.data.stat().st_dev
    try:
        assert Backups(backups.cluster, other).collect().refused("not on the file system")
    finally:
        shutil.rmtree(other, ignore_errors=True)


def test_a_node_that_is_down_is_refused_and_its_files_stay_held(backups: Backups, tmp_path: Path) -> None:
    backups.collect()
    backups.node.kill()
    try:
        assert backups.collect().refused("does not answer", 3)
    finally:
        backups.node.start()
    assert not backups.collect().has("BACKUP_LINE_BEGAN")


def test_a_follower_is_backed_up_but_not_while_its_file_lacks_its_new_history(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "c")
    for node in cluster.nodes.values():
        node.extra = ["aof-timestamp-enabled yes", "masteruser tester", f"masterauth {PASSWORD}"]
    try:
        cluster.start()
        source, node = cluster.nodes["db_g1"], cluster.nodes["db_g2"]
        client, follower = source.client(), Backups(cluster, tmp_path / "c" / "store", "db_g2")
        for number in range(500):
            write(client, number)
        assert follower.collect().code == 0
        client.config_set("repl-diskless-sync-delay", 0)
        node.client().config_set("rdb-key-save-delay", 8000)  # its rewrite takes four seconds
        node.client().replicaof("127.0.0.1", source.port)
        wait_for("it follows", lambda: node.client().info("replication")["master_link_status"] == "up")
        assert node.client().dbsize() >= 500
        assert follower.collect().refused("follows a new history")
        wait_for("its file is whole", lambda: follower.collect().code == 0, pause=0.2)
        assert len(follower.keys_at("newest", tmp_path / "r")) == 500
        listed = follower.run("list", "--store", follower.store)
        assert [e["keys"] >= 500 for e in listed.events if e["event"] == "BACKUP_SET"] == [False, True]
    finally:
        cluster.stop()


def test_the_scratch_redis_is_the_first_to_go_without_memory_and_says_why_it_did_not_start(tmp_path: Path) -> None:
    with ScratchNode(tmp_path) as node:
        assert Path(f"/proc/{node._process.pid}/oom_score_adj").read_text() == "1000\n"
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(Refused, match="does not load"), ScratchNode(tmp_path):
        pass

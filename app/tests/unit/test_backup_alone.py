"""A backup works alone in its store, and with the node it is told: no other one's files, answers or half a history."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest
from fake_node import START, FakeNode, run

from holdfast.backup import backup_collect, backup_plan, backup_sets
from holdfast.backup.node_facts import NodeFacts
from holdfast.backup.refusals import Refused


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)


def test_a_census_and_a_prune_do_not_meet(node: FakeNode, monkeypatch: pytest.MonkeyPatch):
    """A prune in the middle of a census waits for its set; before, it removed the file that the set would name."""
    node.write("a")
    node.collect()
    node.clock += 5
    monkeypatch.setattr(backup_collect, "ALONE_SEC", 20.0)
    path, done = node.store / "files" / "census" / "c.gz", []
    threads: list[threading.Thread] = []

    def census() -> dict:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x")
        threads.append(
            threading.Thread(target=lambda: done.append(run("prune", "--store", node.store, "--keep-hours", 9)))
        )
        threads[0].start()
        time.sleep(0.3)
        assert not done
        return {"census": {"path": "census/c.gz", "bytes": 1, "sha256": "", "began": 1, "ended": 2, "keys": 1}}

    node.collect(census)
    threads[0].join()
    assert done[0][0] == 0
    assert path.exists()


def test_who_waits_too_long_is_refused(node: FakeNode, monkeypatch: pytest.MonkeyPatch):
    node.collect()
    monkeypatch.setattr(backup_collect, "ALONE_SEC", 0.2)
    with (node.store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="another backup"):
            node.collect()


def test_a_prune_of_a_store_that_is_not_there_makes_none(tmp_path: Path):
    code, events = run("prune", "--store", tmp_path / "typo", "--keep-hours", 1)
    assert code == 4
    assert "there is no backup" in events[0]["why"]
    assert not (tmp_path / "typo").exists()


def test_a_follower_with_a_new_history_is_refused_until_its_file_has_it(node: FakeNode):
    following = node.directory / "temp-appendonly.aof.incr"
    following.touch()
    node.collect()  # of a resync long ago
    node.facts["rewriting"] = True
    with pytest.raises(Refused, match="new history") as refusal:
        node.collect()
    assert "wait until the rewrite is through" in refusal.value.cure
    following.unlink()
    node.collect()  # any other rewrite


def test_another_nodes_directory_or_answers_are_refused(tmp_path: Path):
    facts = NodeFacts(START, {"role": "master", "guard": {"node": "db_g1"}})
    facts.refuse_other("db_g1", tmp_path)
    (tmp_path / ".node-id").write_text("db_g1\n")
    facts.refuse_other("db_g1", tmp_path)
    with pytest.raises(Refused, match="says that it is db_g1"):
        facts.refuse_other("db_g2", tmp_path / "none")
    (tmp_path / ".node-id").write_text("db_g2\n")
    with pytest.raises(Refused, match="belongs to db_g2"):
        facts.refuse_other("db_g1", tmp_path)
    facts.facts["role"] = "slave"  # its guard is its primary's
    facts.refuse_other("db_g2", tmp_path)


def test_collect_keeps_few_marks_in_memory(node: FakeNode):
    for _ in range(300):
        node.clock += 1
        node.write("k")
    node.collect()
    node.clock += 1
    node.write("k")
    assert node.collect().doubt is None
    path = backup_sets.paths(node.store)[0]
    assert len(backup_sets.read(path).pieces[0].marks) == 300
    assert backup_sets.read(path, brief=True).pieces[0].marks == backup_sets.read(path).pieces[0].marks[-1:]
    told: list = []
    brief = backup_sets.load(node.store, told.append, brief=True)
    assert backup_plan.spans(brief) == backup_plan.spans(node.sets())

"""What goes wrong on a host: clocks, damaged files, full disks, other nodes: a fault costs what it must."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from unittest import mock

import pytest
from fake_node import START, FakeNode, command, run

from holdfast.backup import backup_sets
from holdfast.backup.aof_hold import Hold, Watch
from holdfast.backup.refusals import Refused


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)


# Damaged files


def test_damage_in_a_file_is_named_and_backups_go_on(node: FakeNode):
    node.write("a")
    node.collect()
    node.clock += 10
    node.write("b")
    at = node.incr.stat().st_size
    node.append(b"\0" * 300)
    node.clock += 10
    node.write("c")
    made = node.collect()
    path, why, cure = made.facts["damaged"][0]
    assert path == str(node.incr)
    assert f"no command at byte {at}" in why
    assert "BGREWRITEAOF" in cure
    assert node.keys_at(int(node.clock) - 10) == {"a"}
    with pytest.raises(Refused):
        node.keys_at(int(node.clock) - 5)  # nothing says that "b" was all until then
    with pytest.raises(Refused, match="not whole"):
        node.keys_at(None)
    # The node writes all anew: from the end of the rewrite on there are moments again.
    node.begin_rewrite()
    node.clock += 1
    node.end_rewrite()
    node.clock += 10
    node.write("d")
    node.clock += 10
    made = node.collect()
    assert [p.incr for p in made.pieces] == [node.incr.name]
    assert node.keys_at(int(node.clock)) == {"d"}  # and the base
    assert "x.1.incr.aof" not in [name for _, name, _ in made.closed]
    # The last trace of the damaged file is kept until somebody removes it, and each backup says so.
    link = next(node.store.glob("held/2*/x.1.incr.aof"))
    assert [d[0] for d in node.collect().facts["damaged"]] == [str(link)]
    link.unlink()
    assert not node.collect().facts["damaged"]


def test_a_retired_file_that_was_not_read_to_its_end_is_kept(node: FakeNode):
    node.write("a")
    node.append(command("SET", "b", "1")[:-4])
    node.begin_rewrite()
    node.collect()
    node.end_rewrite()
    made = node.collect()
    assert list(node.store.glob("held/2*/x.1.incr.aof"))
    assert "ends within a command" in made.facts["damaged"][0][1]
    with next(node.store.glob("held/2*/x.1.incr.aof")).open("ab") as file:
        file.write(command("SET", "b", "1")[-4:])
    node.clock += 1
    assert not node.collect().facts["damaged"]
    assert not list(node.store.glob("held/2*/x.1.incr.aof"))


def test_it_is_kept_also_when_another_line_began(node: FakeNode):
    node.write("a")
    node.append(command("SET", "b", "1")[:-4])
    line = node.collect().listing[0]
    node.incr.unlink()
    node._open()
    node._list([f"file {node.incr.name} seq 1 type i"])
    node.clock += 1
    assert node.collect().listing[0] != line
    assert (node.store / "held" / line / "x.1.incr.aof").exists()
    (node.store / "held" / line / "x.1.incr.aof").unlink()
    node.clock += 1
    node.collect()
    assert not (node.store / "held" / line).exists()


def test_one_damaged_set_costs_its_own_time_only(node: FakeNode):
    seconds = []
    for number in range(5):
        node.write(f"k{number}")
        node.clock += 10
        seconds.append(int(node.clock))
        node.collect()
        node.clock += 10
        node.begin_rewrite()
        node.end_rewrite()
        node.collect()
    paths = backup_sets.paths(node.store)
    whole = paths[4].read_bytes()
    paths[4].write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    good = [to for to in seconds if to != seconds[2]]
    for to in good:
        node.keys_at(to)
    with pytest.raises(Refused):
        node.keys_at(seconds[2])
    node.clock += 10
    node.collect()
    assert [why.path for why in node.told] == [str(paths[4])]
    for name, code in (("list", 0), ("check", 5)):
        done, events = run(name, "--store", node.store)
        assert done == code
        assert [e["path"] for e in events if e["event"] == "BACKUP_DAMAGED"] == [str(paths[4])]
    # What it named is still there when it is brought back.
    prune = ("prune", "--store", node.store, "--keep-hours")
    assert run(*prune, (time.time() - seconds[2] + 5) / 3600)[1][-1]["sets"] == 0
    paths[4].write_bytes(whole)
    assert run("check", "--store", node.store)[0] == 0
    node.keys_at(seconds[2])
    paths[0].write_bytes(b"")
    assert run(*prune, (time.time() - seconds[2] + 5) / 3600)[1][-1]["sets"] > 0
    assert not paths[0].exists()
    node.keys_at(seconds[2])


def test_a_damaged_set_may_have_said_that_moments_are_in_doubt(node: FakeNode):
    node.write("a")
    node.collect()
    node.clock += 20
    node.collect()
    node.clock += 20
    node.write("b")
    node.collect()
    first, second, third = backup_sets.paths(node.store)
    second.write_bytes(b"")
    assert node.sets()[-1].doubt == (pytest.approx(START), pytest.approx(START + 40))
    with pytest.raises(Refused, match="cannot be told apart"):
        node.keys_at(int(START) + 30)
    for path in (first, third):
        path.write_bytes(b"")
    code, events = run("plan", "--store", node.store, "--to", "newest")
    assert code == 5
    assert "damaged" in events[-1]["why"]


@pytest.mark.parametrize("torn", [b'[null, ["x.1.in', b"\0" * 40, b"7\n", b'[null, ["x.1.incr.aof"]]'])
def test_a_torn_note_ends_the_line_and_nothing_else(node: FakeNode, torn: bytes):
    node.write("a")
    first = node.collect()
    with (node.store / "held" / first.listing[0] / "seen.jsonl").open("ab") as notes:
        notes.write(torn)
    node.clock += 10
    node.write("b")
    node.clock += 10
    made = node.collect()
    assert made.listing[0] != first.listing[0]
    assert node.collect().listing[0] == made.listing[0]
    assert node.keys_at(None) == {"a", "b"}


def test_files_that_cannot_be_linked_leave_no_heap_of_lines(node: FakeNode):
    """fs.protected_hardlinks: who neither owns the files nor may write them may not link them."""
    hold = Hold(node.data, node.store)
    denied = PermissionError(errno.EPERM, "Operation not permitted")
    for _ in range(3):
        with mock.patch("os.link", side_effect=denied), pytest.raises(Refused, match="cannot be linked") as refusal:
            hold.take()
    assert "owner" in refusal.value.cure
    assert len(hold.lines()) == 1
    assert hold.take().began


def test_a_full_disk_leaves_no_half_note(node: FakeNode):
    hold = Hold(node.data, node.store)
    line = hold.take().line
    notes = node.store / "held" / line / "seen.jsonl"
    before = notes.read_bytes()
    (node.directory / "y").touch()
    node._list([f"file {node.incr.name} seq 1 type i", "file y seq 2 type i"])
    real = Path.open

    class Full:
        def __init__(self, file) -> None:
            self.file, self.name = file, str(notes)

        def __enter__(self):
            return self

        def __exit__(self, *_what) -> None:
            self.file.close()

        def write(self, row: bytes) -> int:
            return self.file.write(row[:7])

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    def full(path: Path, mode: str = "r", *more, **most):
        file = real(path, mode, *more, **most)
        return Full(file) if "a" in mode else file

    with mock.patch.object(Path, "open", full), pytest.raises(OSError, match="No space"):
        hold.take()
    assert notes.read_bytes() == before
    assert not hold.take().began


def test_an_error_of_the_system_is_a_refusal_with_path_and_cure(node: FakeNode):
    node.collect()
    problem = OSError(errno.ENOSPC, "No space left on device", "/srv/x")
    with mock.patch("holdfast.backup.backup_prune.prune", side_effect=problem):
        code, events = run("prune", "--store", node.store, "--keep-hours", 1)
    assert code == 4
    assert "/srv/x: No space" in events[0]["why"]
    assert "make room" in events[0]["cure"]


def test_the_watch_outlives_an_error_of_the_system(node: FakeNode):
    looks = [OSError(errno.EIO, "Input/output error", "/srv/x"), OSError(errno.EIO, "Input/output error", "/srv/x")]
    real, seen = Hold.take, []

    def take(hold: Hold, anew: bool = False):
        seen.append(1)
        if looks:
            raise looks.pop()
        if len(seen) > 3:
            os.kill(os.getpid(), 15)
        return real(hold, anew)

    with mock.patch.object(Hold, "take", take), mock.patch("holdfast.backup.backup_command.WATCH_SEC", 0.05):
        code, events = run("watch", "--data", node.data, "--store", node.store)
    assert code == 0
    assert [e["event"] for e in events].count("BACKUP_WATCH_TROUBLE") == 1
    assert list(node.store.glob("held/2*/x.1.incr.aof"))


def test_the_watch_hears_a_directory_that_came_back_under_the_same_inode(node: FakeNode):
    hold = Hold(node.data, node.store)
    watch = Watch(hold)
    assert not watch.wait(0)
    real = node.directory.stat().st_ino
    for _ in range(50):
        shutil.rmtree(node.directory)
        node.directory.mkdir()
        if node.directory.stat().st_ino == real:
            break
    assert watch.wait(0)
    watch.wait(0)
    for name in ("a", "b"):
        (node.directory / name).touch()
        assert watch.wait(0)
        assert not watch.wait(0)
    shutil.rmtree(node.directory)
    with pytest.raises(Refused, match="cannot be watched") as refusal:
        watch.wait(0)
    assert "bring the node's data directory back" in refusal.value.cure

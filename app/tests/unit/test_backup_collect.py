"""When the moments between two backups cannot be told apart, and when there is no room for one."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from holdfast.backup import backup_collect, backup_restore, moments
from holdfast.backup.aof_files import Listing
from holdfast.backup.aof_hold import Held, Hold
from holdfast.backup.backup_collect import Collect
from holdfast.backup.backup_plan import Plan
from holdfast.backup.backup_sets import Base, Set
from holdfast.backup.node_facts import NodeFacts
from holdfast.backup.refusals import Refused

NOW = 1_777_630_300.4
LINE = moments.stamp(NOW - 600) + "-abcdef"
HELD = Held(LINE, Listing(None, ("i",)), False, {}, {})
BEFORE = Set(NOW - 300, "n", (LINE, None, ("i",)), 0, (), (), (), ())


def doubt(
    first: int | None, last: int | None, written: float = NOW, commands: int = 9, sets: tuple[Set, ...] = (BEFORE,)
):
    found = backup_collect._Found([], [], [], commands, 0, written, first, last)
    return backup_collect._doubt(list(sets), HELD, NodeFacts(NOW, {}), found)


SINCE, SECOND = NOW - 300, int(NOW)


def test_marks_of_this_time_leave_no_doubt():
    assert doubt(SECOND - 300, SECOND) is None
    assert doubt(SECOND - 200, SECOND, sets=()) is None
    assert doubt(None, None, commands=0) is None  # nothing was written


def test_a_clock_that_went_back_is_in_doubt_until_it_has_caught_up():
    assert doubt(SECOND - 300, SECOND + 90) == (SINCE, SECOND + 90)
    assert doubt(SECOND - 300, SECOND + 1) is None


def test_without_timestamps_all_since_the_last_mark_is_in_doubt():
    assert doubt(SECOND - 301, SECOND - 301) == (SECOND - 301, NOW)
    assert doubt(None, None) == (SINCE, NOW)
    assert doubt(None, None, sets=()) == (NOW - 601, NOW)
    # The last mark is of the second of the last backup, yet the file was written to long after.
    assert doubt(SECOND - 300, SECOND - 300) == (SECOND - 300, NOW)
    assert doubt(SECOND - 300, SECOND - 300, written=NOW - 298) is None


Usage = namedtuple("Usage", "total used free")


def test_a_backup_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = tmp_path / "data" / "appendonlydir"
    directory.mkdir(parents=True)
    (directory / "appendonly.aof.manifest").write_text("file x.1.incr.aof seq 1 type i\n")
    (directory / "x.1.incr.aof").write_bytes(b"#TS:1777630000\r\n" + b"*1\r\n$4\r\nPING\r\n" * 10)
    collect = Collect(tmp_path / "data", tmp_path / "store", "n", lambda: NodeFacts(NOW, {"keys": 1}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1000, 800, 200))
    with pytest.raises(Refused, match="free"):
        collect.run()
    assert not list((tmp_path / "store").rglob("*.json"))
    assert list((tmp_path / "store" / "held").rglob("x.1.incr.aof"))  # it stays held for the next one
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1000, 600, 400))
    assert collect.run()[0].pieces[0].bytes == 156


def test_with_little_room_the_watch_lets_go_what_only_it_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = tmp_path / "data" / "appendonlydir"
    directory.mkdir(parents=True)
    for number in (1, 2):
        (directory / f"x.{number}.incr.aof").touch()
        (directory / "m").write_text(f"file x.{number}.incr.aof seq 1 type i\nfile x.2.incr.aof seq 2 type i\n")
        (directory / "x.2.incr.aof").touch()
        (directory / "m").rename(directory / "appendonly.aof.manifest")
        hold = Hold(tmp_path / "data", tmp_path / "store")
        held = hold.take()
    (directory / "x.1.incr.aof").unlink()
    assert hold.spare_the_node() == []
    monkeypatch.setattr("holdfast.backup.aof_hold.KEEP_FREE", 1.1)
    assert hold.spare_the_node() == ["x.1.incr.aof"]
    assert hold.names(held.line) == ["x.2.incr.aof"]


def test_a_restore_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = tmp_path / "store" / "files" / "l"
    directory.mkdir(parents=True)
    (directory / "b.base.rdb").write_bytes(b"x" * 100)
    plan = Plan(0, False, "l", Base("l", "b.base.rdb", 100, "", 1), ())
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1 << 40, 0, 1000))
    with pytest.raises(Refused, match="1000 bytes free"):
        backup_restore.restore(tmp_path / "store", plan, tmp_path / "r", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]

"""When the moments between two backups cannot be told apart, and when there is no room for one."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from unittest import mock

import pytest
from fake_node import START, FakeNode

from holdfast.backup import backup_doubt, backup_restore, moments
from holdfast.backup.aof_hold import Hold
from holdfast.backup.backup_collect import Collect
from holdfast.backup.backup_doubt import UNSEEN_SEC, Written
from holdfast.backup.backup_plan import Plan
from holdfast.backup.backup_sets import Base, Set
from holdfast.backup.node_facts import NodeFacts
from holdfast.backup.refusals import Refused

NOW = 1_777_630_300.4
LINE = moments.stamp(NOW - 600) + "-abcdef"
BEFORE = Set(NOW - 300, "n", (LINE, None, ("i",)), 0, (), (), (), ())


def doubt(
    first: int | None, last: int | None, written: float = NOW, commands: int = 9, sets: tuple[Set, ...] = (BEFORE,)
):
    return backup_doubt.doubt(sets, LINE, NOW, Written(commands, written, first, last))


SINCE, SECOND = NOW - 300, int(NOW)


def test_marks_of_this_time_leave_no_doubt():
    assert doubt(SECOND - 300, SECOND) is None
    assert doubt(SECOND - 200, SECOND, sets=()) is None
    assert doubt(None, None, commands=0) is None  # nothing was written


def test_a_clock_that_went_back_is_in_doubt_until_it_has_caught_up():
    assert doubt(SECOND - 300, SECOND + 90) == (SINCE - UNSEEN_SEC, SECOND + 90)
    assert doubt(SECOND - 300, SECOND + 1) is None


def test_without_timestamps_all_since_the_last_mark_is_in_doubt():
    assert doubt(SECOND - 301, SECOND - 301) == (SECOND - 301, NOW)
    assert doubt(None, None) == (SINCE, NOW)
    assert doubt(None, None, sets=()) == (NOW - 601, NOW)
    # The last mark is of the second of the last backup, yet the file was written to long after.
    assert doubt(SECOND - 300, SECOND - 300) == (SECOND - 300, NOW)
    assert doubt(SECOND - 300, SECOND - 300, written=NOW - 298) is None


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_goes_back_leaves_no_moment_that_is_restored_wrong(node: FakeNode, restarted: bool):
    """An hour of writes and backups, the clock put right by 50 minutes, and on until long after it has caught up."""
    ran: list[tuple[int, float, str]] = []  # order, clock, key

    def pass_five_minutes() -> None:
        for _ in range(5):
            node.clock += 60
            node.write(f"k{len(ran)}")
            ran.append((len(ran), node.clock, f"k{len(ran)}"))
        node.clock += 0.3
        node.collect()

    node.collect()
    for _ in range(12):
        pass_five_minutes()
    top, count = node.clock, len(ran)
    node.clock -= 3000
    if restarted:
        node.restart()
    for _ in range(14):
        pass_five_minutes()
    assert node.collect().doubt is None  # long over
    right = refused = 0
    for to in range(int(START) + 400, int(node.clock), 131):
        try:
            found = node.keys_at(to)
        except Refused:
            refused += 1
            assert top - 3000 - 1000 < to <= top + 1
            continue
        right += 1
        before_the_jump = to <= top - 3000
        expected = {k for n, at, k in ran if at < to and (n < count or not before_the_jump)}
        assert found == expected, moments.shown(to)
    assert right > 8
    assert refused > 20


def test_a_clock_that_went_back_between_two_backups_is_in_doubt_though_nothing_was_written(node: FakeNode):
    node.write("a")
    node.clock += 3600
    node.collect()
    node.clock -= 1800
    assert node.collect().doubt == (pytest.approx(START + 1800 - 900), pytest.approx(START + 3600))


def collect_at(node: FakeNode, uptime: float, boot: str = "b"):
    with mock.patch("holdfast.backup.backup_collect.boot", return_value=(boot, uptime)):
        return node.collect()


def test_a_clock_that_came_less_far_than_the_machine_went_back(node: FakeNode):
    """Though it is ahead of the last backup, and of all marks: nobody wrote while it was ahead."""
    node.write("a")
    collect_at(node, 1000)
    node.clock += 300
    assert collect_at(node, 1300).doubt is None
    node.clock += 2000 - 60
    assert collect_at(node, 3300).doubt == (pytest.approx(START + 240 - 900), pytest.approx(START + 300 + 2000 + 10))
    node.clock += 298.5
    assert collect_at(node, 3600).doubt is None  # within what clocks may differ
    # An answer that took 15 seconds to come is no sign of it.
    node.clock += 300
    uptime = [3900]
    node.on_answer = lambda: uptime.append(3915)
    with mock.patch("holdfast.backup.backup_collect.boot", side_effect=lambda: ("b", uptime[-1])):
        assert node.collect().doubt is None
    node.on_answer = lambda: None
    node.clock += 300
    assert collect_at(node, 4200).doubt is None
    node.clock += 10
    assert collect_at(node, 9000, "another start").doubt is None


def test_the_doubt_reaches_back_to_the_last_backup_however_long_ago_it_was(node: FakeNode):
    node.write("a")
    collect_at(node, 1000)
    node.clock -= 7200
    assert collect_at(node, 6000).doubt == (pytest.approx(START - 7200 - 5000 - 900), pytest.approx(START + 5010))
    node.clock += 10
    assert collect_at(node, 4000, "another start").doubt[0] == pytest.approx(node.clock - 4000 - 900)


def test_a_mark_smaller_than_one_before_is_in_doubt(node: FakeNode):
    """Redis was started again after the clock was put right, and the clock has caught up since."""
    node.write("a")
    node.collect()
    node.clock += 200
    node.write("b")
    node.clock -= 100
    node.restart()
    node.write("c")
    node.clock += 250
    node.write("d")
    made = node.collect()
    assert made.doubt == (pytest.approx(START - 900), int(START) + 200)
    with pytest.raises(Refused, match="cannot be told apart"):
        node.keys_at(int(START) + 150)


def test_a_new_line_is_the_last_one_though_the_clock_went_back(node: FakeNode):
    node.collect()
    node.clock -= 5000
    node.incr.unlink()
    node._open()
    node._list([f"file {node.incr.name} seq 1 type i"])
    hold = Hold(node.data, node.store)
    with node.at_its_time():
        taken = [hold.take() for _ in range(3)]
    assert [t.began for t in taken] == [True, False, False]
    assert len({t.line for t in taken}) == 1


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

"""What `verify` compares a restored directory with. No Redis runs."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_node import START, FakeNode, run

from holdfast.backup import backup_plan, backup_restore, backup_verify, census, moments
from holdfast.backup.backup_plan import Part, Plan
from holdfast.backup.backup_sets import Base, Set
from holdfast.backup.refusals import Refused

OLD, NEW = moments.stamp(START) + "-aaaaaa", moments.stamp(START + 7200) + "-bbbbbb"


def noted(line: str, at: float, sentinel: str | None = None) -> Set:
    about = {"path": f"census/{at}.gz", "bytes": 1, "sha256": "", "began": at - 10, "ended": at, "keys": 9}
    return Set(at + 10, "n", (line, "b", ("i",)), 0, (), (), (), (), None, {"census": about, "sentinel": sentinel})


def test_what_was_there_before_a_restore_in_place_is_not_asked_for_after_it():
    before, after = noted(OLD, START + 3600), noted(NEW, START + 7300)
    assert backup_verify.pick([before, after], NEW, START + 7400).ended == START + 7300
    assert backup_verify.pick([before, after], OLD, START + 7400).ended == START + 3600
    with pytest.raises(Refused, match="no census ended before"):
        backup_verify.pick([before], NEW, START + 7290)


class Restored:
    """Answers as a restored node."""

    def __init__(self, version: str) -> None:
        self.version = version

    def __enter__(self):
        return self

    def __exit__(self, *_what: object) -> None:
        pass

    load_sec = 0.0

    def ask(self, commands):
        return [self._one(*c) for c in commands]

    def _one(self, verb: str, *words):
        if verb == "INFO":
            return b"db0:keys=1,expires=0"
        if verb == "HMGET":
            return [self.version.encode(), b"v", b"x"]
        return b"recovering" if verb == "HGET" else str(int(START + 5) * 1000).encode()


def verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, version: str, to: float, newest: bool = False):
    row = census.Row(key.encode(), "00000001.0000000000000001.a", "v", "c")
    monkeypatch.setattr(backup_verify, "ScratchNode", lambda _directory: Restored(version))
    monkeypatch.setattr(backup_verify.censuses, "rows", lambda *_what: iter([row]))
    # The heartbeat of the older line is younger than what was restored: it is not asked for.
    sets = [noted(OLD, START + 7000, str(int(START + 7000) * 1000)), noted(NEW, START + 7290, str(int(START) * 1000))]
    return backup_verify.verify(tmp_path, sets, Plan(to, newest, NEW, None, ()), tmp_path)


def test_an_ap_version_of_after_the_moment_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    to = math.floor(START) + 7295
    at = f"00000001.{to * 1000 + 1000:012x}0000.db_g1"
    late = verdict(tmp_path, monkeypatch, "ap:a", at, to)
    assert late.wrong_count == 1
    assert "not before the moment" in late.wrong[0][1]
    early = f"00000001.{to * 1000 + 999:012x}0000.db_g1"  # written elsewhere, by a clock that is ahead
    for good in (
        verdict(tmp_path, monkeypatch, "ap:a", early, to),
        verdict(tmp_path, monkeypatch, "ap:a", at, to, newest=True),
        verdict(tmp_path, monkeypatch, "cp:a", at, to),  # it counts, it tells no time
    ):
        assert (good.wrong_count, good.younger) == (0, 1)


def piece(incr: str, take: int) -> Part:
    return Part(incr, take, ())


def test_a_directory_is_of_a_plan_if_both_end_in_the_same_place():
    plan = Plan(7, False, "l", Base("l", "b.rdb", 1, "", 1), (piece("i", 100), piece("j", 50)))
    assert plan.made(json.loads(json.dumps(plan.told())))
    older = replace(plan, base=None, parts=(piece("h", 20), *plan.parts))  # of a damaged base the one before was used
    assert plan.made(older.told())
    assert older.made(plan.told())
    assert plan.made(replace(plan, parts=(*plan.parts, piece("k", 0))).told())
    for other in (
        replace(plan, moment=8),
        replace(plan, newest=True),
        replace(plan, line="m"),
        replace(plan, parts=(piece("i", 100), piece("j", 51))),
        replace(plan, parts=(piece("i", 99), piece("j", 50))),
        replace(plan, parts=()),
    ):
        assert not plan.made(other.told())
    assert not plan.made({})


def test_verify_refuses_what_was_restored_to_another_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    node = FakeNode(tmp_path)
    for number in range(3):
        node.write(f"k{number}")
        node.clock += 10
        node.collect()
    to, into = int(START) + 10, tmp_path / "r"
    backup_restore.restore(node.store, backup_plan.choose(node.sets(), to), into, "x" * 32)
    told = json.loads((into / "restored.json").read_text())
    assert (told["moment"], told["line"]) == (to, node.sets()[0].listing[0])
    verify = ("verify", "--store", node.store, "--directory", into, "--to")
    assert "no census" in run(*verify, moments.shown(to))[1][-1]["why"]  # as far as that it is the right one
    for other in (moments.shown(to + 10), "newest"):
        code, events = run(*verify, other)
        assert code == 4
        assert "holds another restore" in events[-1]["why"]
    # The newest of then is what it was when newer backups have come.
    shutil.rmtree(into)
    backup_restore.restore(node.store, backup_plan.choose(node.sets(), None), into, "x" * 32)
    node.clock += 10
    node.write("later")
    node.collect()
    assert "no census" in run(*verify, "newest")[1][-1]["why"]
    (into / "restored.json").unlink()
    assert "was not restored" in run(*verify, "newest")[1][-1]["why"]

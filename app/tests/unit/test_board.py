"""The workers' common board, and what is forced there, with several boards and breakers on one directory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast import board as board_module
from holdfast.board import Board, Force
from holdfast.breaker import Breaker, State
from holdfast.breaker_admin import BreakerAdmin, parse
from holdfast.errors import BadRequest, NotFound


class FakeNodes:
    def __init__(self) -> None:
        self.names = ("a", "b")
        self.breakers = {n: Breaker(5, 10, 2, time.monotonic()) for n in self.names}

    def guard_state(self, node: str) -> str:
        return "member"


class Worker:
    def __init__(self, directory: Path) -> None:
        self.nodes, self.audit = FakeNodes(), []
        self.admin = BreakerAdmin(self.nodes, Board(directory), self.note)  # type: ignore[arg-type]

    def note(self, name: str, **fields: Any) -> None:
        self.audit.append((name, fields))

    def tick(self) -> None:
        self.admin.tick(time.monotonic())
        for breaker in self.nodes.breakers.values():
            breaker.expire(time.monotonic())


def test_a_force_reaches_every_worker_also_a_later_one_and_is_audited_once(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    two.tick()
    shown = one.admin.force("a", "OPEN", 1, "boss", "203.0.113.9")
    assert shown["state"] == "OPEN"
    assert shown["forced"]["state"] == "OPEN"
    assert one.nodes.breakers["a"].state is State.OPEN
    assert two.nodes.breakers["a"].state is State.CLOSED, "control: it is the tick that brings it"
    two.tick()
    later = Worker(tmp_path)
    later.tick()
    assert [w.nodes.breakers["a"].state for w in (two, later)] == [State.OPEN] * 2
    assert [w.nodes.breakers["b"].state for w in (two, later)] == [State.CLOSED] * 2
    time.sleep(1.1)
    for _ in range(2):
        for worker in (one, two, later):
            worker.tick()
    assert all(w.nodes.breakers["a"].state is State.CLOSED for w in (one, two, later))
    told = [name for w in (one, two, later) for name, _fields in w.audit]
    assert told == ["BREAKER_FORCED", "BREAKER_RELEASED"]
    assert one.audit[0][1] == {"node": "a", "actor": "boss", "client": "203.0.113.9", "state": "OPEN", "seconds": 1}
    assert one.admin.view()["a"]["forced"] is None


def test_auto_releases(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    one.admin.force("a", "CLOSED", 60, "boss", "c")
    two.tick()
    assert two.nodes.breakers["a"].status(0).forced
    two.admin.force("a", "AUTO", 0, "other", "c")
    one.tick()
    assert not one.nodes.breakers["a"].status(0).forced
    assert two.audit[-1][0] == "BREAKER_RELEASED"
    two.admin.force("a", "AUTO", 0, "other", "c")
    assert len(two.audit) == 1, "nothing to release"
    with pytest.raises(NotFound):
        one.admin.force("zz", "OPEN", 1, "boss", "c")


def test_the_worst_state_of_all_workers_is_shown(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from holdfast.board import Board\n"
        "Board(Path(sys.argv[1])).publish({'nodes': {'a': {'state': 'HALF_OPEN', 'last_failure': 'timeout'}}})\n"
        "print('there', flush=True); time.sleep(60)"
    )
    one = Worker(tmp_path)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        view = one.admin.view()
        assert (view["a"]["state"], view["a"]["last_failure"]) == ("HALF_OPEN", "timeout")
        assert other.pid in [w["pid"] for w in view["a"]["workers"]]
        assert view["b"]["state"] == "CLOSED"
        other.kill()
    assert one.admin.view()["a"]["state"] == "CLOSED", "a dead worker is not asked"
    assert not list(tmp_path.glob(f"worker-{other.pid}-*"))


def test_stale_broken_and_foreign_files_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Worker(tmp_path)
    one.tick()
    board = Board(tmp_path)
    assert len(board.workers()) == 1
    (tmp_path / "worker-1-zz.json").write_text("{")
    (tmp_path / "worker-x-zz.json").write_text("{}")
    assert len(board.workers()) == 1
    monkeypatch.setattr(board_module, "STALE_SEC", -1)
    assert board.workers() == []


def test_a_board_that_cannot_be_used_stops_no_monitor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = Worker(tmp_path / "gone")
    one.tick()
    one.tick()
    assert [r.message for r in caplog.records] == ["BREAKER_BOARD_ERROR"], "once, not ten times a second"


def test_an_expired_force_is_not_taken_up(tmp_path: Path) -> None:
    Board(tmp_path).force("a", Force("OPEN", time.time() - 1, "boss"))
    assert json.loads((tmp_path / "forced.json").read_text())["a"]["state"] == "OPEN"
    one = Worker(tmp_path)
    one.tick()
    assert one.nodes.breakers["a"].state is State.CLOSED


def test_parse() -> None:
    assert parse({"state": "OPEN", "seconds": 3600}) == ("OPEN", 3600)
    assert parse({"state": "AUTO"}) == ("AUTO", 0)
    bad: list[Any] = [None, [], "OPEN", {}, {"state": "OPEN"}, {"state": "HALF_OPEN", "seconds": 1}, {"state": []}]
    bad += [{"state": "CLOSED", "seconds": s} for s in (0, 3601, 1.5, "5", True, None, -1)]
    bad += [{"state": "AUTO", "second": 1}]
    for body in bad:
        with pytest.raises(BadRequest):
            parse(body)

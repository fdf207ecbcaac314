"""`holdfast parked restamp` judges the clocks of nodes that answer late: by the quickest of a few readings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.audit import Audit
from holdfast.link import Answer
from holdfast.parked_command import LOOKS, ParkedCommand, Stopped
from holdfast.settings import BootstrapSettings, RedisAccess

NAMES = ("db_g1", "db_g2", "db_g3")
SETTINGS = BootstrapSettings("lab", dict.fromkeys(NAMES), 1.0, 500, RedisAccess("u", "p", False, "", "", ""))  # type: ignore[arg-type]


class SlowNodes:
    """Clocks of which db_g1's is ahead. Answers take so many ms, the way back nothing, and from then on ``last``."""

    names = NAMES

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ahead_ms: int, took_ms: Iterator[int], last: int) -> None:
        self.now, self.ahead, self.took, self.last, self.asked = 1_780_000_000_000, ahead_ms, took_ms, last, 0
        monkeypatch.setattr(time, "time", lambda: self.now / 1000)

    def ask(self, node: str, *_script: Any) -> Answer:
        self.asked += 1
        self.now += next(self.took, self.last)
        clock = self.now + (self.ahead if node == "db_g1" else 0)
        return Answer([b"OK", [b"member", b"lab", node.encode(), b"1", b"1", b"x"], b"%d" % clock])


def command(nodes: SlowNodes) -> ParkedCommand:
    made = ParkedCommand(SETTINGS, Audit("0" * 32, False))
    made._nodes = nodes  # type: ignore[assignment]
    return made


def judged(made: ParkedCommand) -> str:
    try:
        made._check_clock("db_g1", made._look())
    except Stopped as why:
        return str(why)
    return ""


def test_answers_that_come_late_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    late = iter([1, 1, 1, 900, 1, 900, 900, 900, 1, 1, 900, 900])
    nodes = SlowNodes(monkeypatch, 0, late, 1)
    assert judged(command(nodes)) == ""
    assert nodes.asked == 12, "one round that counts no readings, and three until each node had answered quickly once"


@pytest.mark.parametrize(("ahead", "said"), [(600, "is still 600 ms"), (-600, "is still -600 ms"), (400, "")])
def test_the_quickest_reading_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch, ahead: int, said: str) -> None:
    nodes = SlowNodes(monkeypatch, ahead, iter([0, 0, 0, 0, 800, 0, 1000, 0, 700]), 0)
    told = judged(command(nodes))
    assert (said in told, bool(told)) == (True, bool(said)), told


def test_a_node_that_is_always_late_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = SlowNodes(monkeypatch, 0, iter(()), 126)
    assert "cannot be judged" in judged(command(nodes))
    assert nodes.asked == 3 * LOOKS

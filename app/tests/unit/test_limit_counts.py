"""The shared counters without a network: the nodes are tables that keep the script's rule (the larger count stays)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from holdfast import limit_counts
from holdfast.guard import Guard
from holdfast.limit_counts import LimitCounts, choose
from holdfast.link import Answer, Failed

GUARD = Guard("member", "lab", "n", 1, 1, "i")


class FakeNodes:
    """Three nodes that answer at once. ``lose_answers``: the node counts, its answer is lost."""

    def __init__(self) -> None:
        self.names = ("a", "b", "c")
        self.guards = self
        self.down: set[str] = set()
        self.lose_answers = False
        self.held: dict[str, dict[str, dict[str, int]]] = {n: {} for n in self.names}

    def usable(self, node: str) -> Guard | None:
        return GUARD

    def answering(self, node: str) -> bool:
        return node not in self.down

    def send(self, node: str, script: Any, keys: list[str], args: list[str], deadline: float, done: Any) -> None:
        process, out = args[6], []
        for key, mine in zip(keys[1:], args[7::2], strict=True):
            fields = self.held[node].setdefault(key, {})
            fields[process] = max(fields.get(process, 0), int(mine))
            out.append(sum(v for p, v in fields.items() if p != process))
        done(Failed("timeout", False) if self.lose_answers else Answer(out))


def make(nodes: FakeNodes, secret: bytes = b"s" * 32) -> LimitCounts:
    return LimitCounts(nodes, "cp", secret, 0.2)  # type: ignore[arg-type]


def test_all_processes_choose_the_same_node_and_only_its_counters_move() -> None:
    keys = [f"k{i}" for i in range(300)]
    before = {k: choose(k, ["a", "b", "c"]) for k in keys}
    assert {k: choose(k, ["c", "b", "a"]) for k in keys} == before
    assert min(list(before.values()).count(n) for n in "abc") > 50
    after = {k: choose(k, ["a", "c"]) for k in keys}
    assert all(after[k] == before[k] for k in keys if before[k] != "b")
    assert choose("k", []) is None


def test_two_processes_see_each_others_counts() -> None:
    nodes = FakeNodes()
    one, two = make(nodes), make(nodes)
    assert [one.add("x", 3600) for _ in range(3)] == [1, 2, 3]
    assert one.sync()
    assert two.add("x", 3600) == 1, "nothing known before the first exchange"
    assert two.sync()
    assert two.add("x", 3600) == 5
    assert two.add("y", 3600) == 1


def test_a_lost_answer_counts_nothing_twice_and_another_node_takes_over() -> None:
    nodes = FakeNodes()
    one, two = make(nodes), make(nodes)
    one.add("x", 3600, 10)
    nodes.lose_answers = True
    assert not one.sync()
    nodes.lose_answers = False
    assert one.sync(), "sent again, to a node that is not avoided"
    two.add("x", 3600)
    two.sync()
    assert two.get("x") in (1, 11), "each counter has one process's count once"
    first = choose(two._counts["x"].key, list(nodes.names))
    assert first is not None
    nodes.down = {first}
    for counts in (one, two):
        counts.add("x", 3600)
        assert counts.sync()
    two.add("x", 3600)
    assert two.sync()
    assert two.get("x") == 14


def test_without_nodes_the_local_count_goes_on() -> None:
    nodes = FakeNodes()
    nodes.down = set(nodes.names)
    one = make(nodes)
    assert one.add("x", 3600) == 1
    assert not one.sync()
    assert one.add("x", 3600) == 2
    nodes.down = set()
    one.add("x", 3600)
    assert one.sync()
    assert sum(v for held in nodes.held.values() for fields in held.values() for v in fields.values()) == 3


def test_a_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    one = make(FakeNodes())
    one.add("x", 60)
    end = one.ends("x")
    assert 0 < end - clock[0] <= 60
    clock[0] = end - 0.001
    assert one.add("x", 60) == 2
    clock[0] = end
    assert one.get("x") == 0
    assert one.add("x", 60) == 1
    assert one.ends("x") == pytest.approx(end + 60, abs=0.01)


def test_names_do_not_show_the_client_and_differ_by_secret() -> None:
    nodes = FakeNodes()
    for secret in (b"s" * 32, b"t" * 32):
        counts = make(nodes, secret)
        counts.add("LIMITER/address:203.0.113.9/global/1/1/minute", 60)
        counts.sync()
    keys = [k for held in nodes.held.values() for k in held]
    assert len(set(keys)) == 2
    assert not any("203.0.113.9" in k for k in keys)


def test_many_addresses_fill_neither_memory_nor_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_counts, "MAX_KEPT", 50)
    monkeypatch.setattr(limit_counts, "MAX_SHARED", 20)
    nodes = FakeNodes()
    one = make(nodes)
    for i in range(200):
        one.add(f"address:{i}", 3600)
        one.sync()
    assert len(one._counts) == 50
    assert one._shared_kept <= 20
    assert one.forget() == 50
    assert one._shared_kept == 0

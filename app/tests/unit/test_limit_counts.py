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
        self.longest = 0
        self.held: dict[str, dict[str, dict[str, int]]] = {n: {} for n in self.names}

    def usable(self, node: str) -> Guard | None:
        return GUARD

    def answering(self, node: str) -> bool:
        return node not in self.down

    def send(self, node: str, script: Any, keys: list[str], args: list[str], deadline: float, done: Any) -> None:
        out = []
        for key, field, mine, ttl in zip(keys[1:], args[6::3], args[7::3], args[8::3], strict=True):
            fields = self.held[node].setdefault(key, {})
            fields[field] = max(fields.get(field, 0), int(mine))
            out.append(sum(v for f, v in fields.items() if f != field))
            self.longest = max(self.longest, int(ttl))
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


class Clocks:
    """A wall clock and a monotonic one; ``step`` moves the first alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.monotonic = 1_000_000.0, 500.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def step(self, seconds: float) -> None:
        self.wall += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_a_window_ends(clocks: Clocks) -> None:
    one = make(FakeNodes())
    one.add("x", 60)
    left = one.ends("x") - clocks.wall
    assert 0 < left <= 60
    clocks.go_on(left - 0.001)
    assert one.add("x", 60) == 2
    clocks.go_on(0.001)
    assert one.get("x") == 0
    assert one.add("x", 60) == 1
    assert one.ends("x") == pytest.approx(clocks.wall + 60, abs=0.01)


def test_a_wall_clock_that_steps_back_keeps_nobody_longer(clocks: Clocks) -> None:
    nodes = FakeNodes()
    one, two = make(nodes), make(nodes)
    for counts in (one, two):
        counts.add("x", 3600, 50)
        counts.sync()
    left = one.ends("x") - clocks.wall
    clocks.step(-7 * 3600)
    assert one.ends("x") - clocks.wall == pytest.approx(left), "Retry-After stays true"
    assert one.add("x", 3600) == 51, "the window goes on"
    clocks.go_on(left)
    for counts in (one, two):
        assert counts.get("x") == 0
        assert counts.add("x", 3600) == 1
        assert 0 < counts.ends("x") - clocks.wall <= 3600
    assert one.sync()
    assert two.sync()
    assert two.add("x", 3600) == 3
    assert nodes.longest <= 3600_000 + limit_counts.LINGER_MS


def test_a_window_that_is_repeated_does_not_find_its_old_counts(clocks: Clocks) -> None:
    nodes = FakeNodes()
    one, two = make(nodes), make(nodes)
    for counts in (one, two):
        counts.add("x", 3600, 50)
        counts.sync()
    clocks.go_on(one.ends("x") - clocks.wall - 1)
    clocks.step(-600)
    clocks.go_on(1)
    for _ in range(2):
        for counts in (one, two):
            counts.add("x", 3600)
            counts.sync()
    assert (one.get("x"), two.get("x")) == (3, 4), "shared, and without the 100 of before"
    assert one.ends("x") - clocks.wall == pytest.approx(600, abs=1)


def test_names_do_not_show_the_client_and_differ_by_secret() -> None:
    nodes = FakeNodes()
    for secret in (b"s" * 32, b"t" * 32):
        counts = make(nodes, secret)
        counts.add("LIMITER/address:203.0.113.9/global/1/1/minute", 60)
        counts.sync()
    keys = [k for held in nodes.held.values() for k in held]
    assert len(set(keys)) == 2
    assert not any("203.0.113.9" in k for k in keys)


def flood(counts: LimitCounts, addresses: range) -> None:
    for i in addresses:
        counts.add(f"{limit_counts.ADDRESS}{i}/global/1/1/hour", 3600)
        counts.sync()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_counts, "MAX_KEPT", 50)
    monkeypatch.setattr(limit_counts, "MAX_SHARED", 20)


@pytest.mark.usefixtures("small")
def test_many_addresses_fill_neither_memory_nor_nodes() -> None:
    one = make(FakeNodes())
    flood(one, range(200))
    assert len(one._counts) == len(one._addresses) == 50
    assert one._shared_kept <= 20
    assert one.forget() == 50
    assert (one._shared_kept, len(one._addresses)) == (0, 0)


@pytest.mark.usefixtures("small")
def test_many_addresses_do_not_reset_the_limit_of_a_token() -> None:
    nodes = FakeNodes()
    one, two = make(nodes), make(nodes)
    token = "LIMITER/token:t/global/100/1/hour"
    flood(one, range(30))
    assert one.add(token, 3600, 90) == 90
    flood(one, range(30, 300))
    assert one.add(token, 3600) == 91
    one.sync()
    two.add(token, 3600)
    two.sync()
    assert two.get(token) == 92, "it is shared although addresses have all the room"


@pytest.mark.usefixtures("small")
def test_an_address_that_was_dropped_finds_its_count_on_the_node() -> None:
    nodes = FakeNodes()
    one = make(nodes)
    address = f"{limit_counts.ADDRESS}203.0.113.9/global/100/1/hour"
    one.add(address, 3600, 90)
    one.sync()
    flood(one, range(50))
    assert one.get(address) == 0, "control: this process has dropped it"
    nodes.lose_answers = True
    one.add(address, 3600)
    one.sync()
    nodes.lose_answers = False
    one._avoid.clear()
    one.add(address, 3600)
    one.sync()
    assert one.get(address) == 92, "also when an answer was lost: nothing is counted twice"

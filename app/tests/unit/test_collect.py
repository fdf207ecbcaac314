"""Floors, vouching and batches of collection, one decision at a time. Under faults: tests/simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast.collect import Busy, Collected, CollectStep, CollectTold, Drop, Dropped, Held, Hold, Lock, Locked, collect
from holdfast.contract import TOMBSTONE, VALUE, Floored, NotDone, Query, Register, Reply, Store
from holdfast.guard import MEMBER, Guard
from holdfast.registers import EMPTY, RESTARTS, Read, Send, Verdict
from holdfast.tags import Tag

NODES = ("a", "b", "c")
GUARDS = {n: Guard(MEMBER, "lab", n, 1, 1, f"inc-{n}") for n in NODES}
OLD, NEW = (str(Tag(1, counter, "0" * 28)) for counter in (4, 7))
VALUE_OLD = Register(OLD, VALUE, "x")


def refused(batch: str) -> Floored:
    return Floored("floor", True, NEW, batch)


def reading() -> tuple[Read, int]:
    """A read that found OLD on a and nothing on b, and has sent its stores."""
    read = Read(NODES)
    read.start()
    read.on_reply("a", 1, Reply(VALUE_OLD))
    send = read.on_reply("b", 1, Reply(EMPTY))
    assert send is not None
    assert send.to == ("b", "c")
    return read, send.phase


def sent(send: Send | None) -> Send:
    assert send is not None
    return send


def test_a_member_that_still_holds_the_value_vouches_for_a_node_that_refused_it() -> None:
    read, phase = reading()
    ask = sent(read.on_reply("b", phase, refused("batch 1")))
    assert ask.to == ("a",)
    assert ask.request_to("a") == Query(want_value=False, bare=True)
    store = sent(read.on_reply("a", ask.phase, Reply(replace(VALUE_OLD, value=None))))
    assert store.to == ("b",)
    assert store.request_to("b") == Store(VALUE_OLD, "batch 1")
    read.on_reply("b", store.phase, Reply(VALUE_OLD))
    assert read.decision is not None
    assert (read.decision.verdict, read.decision.register) == (Verdict.SUCCESS, VALUE_OLD)


@pytest.mark.parametrize("now", ["", NEW])
def test_a_read_starts_over_when_the_member_does_not_hold_it_any_more(now: str) -> None:
    read, phase = reading()
    for _ in range(RESTARTS):
        ask = sent(read.on_reply("b", phase, refused("batch 1")))
        again = sent(read.on_reply("a", ask.phase, Reply(Register(now, VALUE, None))))
        assert (again.to, again.request) == (NODES, Query(want_value=True))
        read.on_reply("a", again.phase, Reply(VALUE_OLD))
        phase = sent(read.on_reply("b", again.phase, Reply(EMPTY))).phase
    ask = sent(read.on_reply("b", phase, refused("batch 1")))
    assert read.on_reply("a", ask.phase, Reply(Register(now, VALUE, None))) is None
    assert read.decision is not None
    assert read.decision.verdict is Verdict.NO_QUORUM


def test_refusals_of_a_tombstone_are_no_acknowledgement() -> None:
    read = Read(NODES)
    read.start()
    read.on_reply("a", 1, Reply(Register(OLD, TOMBSTONE, None)))
    phase = sent(read.on_reply("b", 1, Reply(EMPTY))).phase
    ask = sent(read.on_reply("b", phase, refused("batch 1")))
    read.on_reply("c", phase, refused("batch 1"))
    read.on_reply("a", ask.phase, NotDone("timeout", False))
    assert read.decision is not None
    assert read.decision.verdict is Verdict.NO_QUORUM


def test_an_acknowledgement_that_comes_while_a_member_is_asked_still_counts() -> None:
    read, phase = reading()
    read.on_reply("b", phase, refused("batch 1"))
    read.on_reply("c", phase, Reply(VALUE_OLD))
    assert read.decision is not None
    assert read.decision.acks == ("a", "c")


class Fake:
    """Nodes that hold ``registers``; ``change`` is called before each round."""

    def __init__(self, registers: dict[str, dict[str, tuple[str, str]]], locked: str = "") -> None:
        self.registers, self.batch = registers, dict.fromkeys(NODES, locked)
        self.rounds: list[list[CollectStep]] = []

    def run(self, change: Callable[[int], None] = lambda _round: None, over: str = "", members: int = 3) -> Collected:
        believed = {n: GUARDS[n] for n in NODES[:members]}
        steps = collect((("k", OLD),), believed, NODES, "mine", over)
        try:
            wanted = next(steps)
            while True:
                change(len(self.rounds))
                self.rounds.append([step for _, step in wanted])
                wanted = steps.send([self.answer(node, step) for node, step in wanted])
        except StopIteration as end:
            result: Collected = end.value
            return result

    def answer(self, node: str, step: CollectStep) -> CollectTold:
        held, batch = self.registers.setdefault(node, {}), self.batch[node]
        if isinstance(step, Lock):
            if batch not in ("", step.over):
                return Busy(batch)
            self.batch[node] = step.batch
            return Locked()
        if isinstance(step, Hold):
            if step.batch and step.batch != batch:
                return Busy(batch)
            return Held(tuple(held.get(k, ("", "")) for k in step.keys))
        if isinstance(step, Drop):
            gone = [k for k, tag in step.rows if held.get(k, ("", ""))[0] == tag]
            for key in gone:
                del held[key]
            self.batch[node] = "" if batch == step.batch else batch
            return Dropped(len(gone))
        assert isinstance(step.request, Store)
        held[step.key] = (step.request.register.tag, step.request.register.kind)
        return Reply(step.request.register)


def everywhere() -> dict[str, dict[str, tuple[str, str]]]:
    return {n: {"k": (OLD, TOMBSTONE)} for n in NODES}


def test_a_tombstone_that_all_hold_or_lack_goes_from_all() -> None:
    registers = everywhere()
    del registers["b"]["k"]
    fake = Fake(registers)
    assert fake.run().count == 1
    assert registers == {n: {} for n in NODES}
    assert set(fake.batch.values()) == {""}


def test_a_node_that_cannot_vote_keeps_everything() -> None:
    fake = Fake(everywhere())
    assert "cannot vote" in fake.run(members=2).why
    assert not fake.rounds


def test_a_node_that_missed_the_delete_gets_it_and_the_tombstone_stays_for_now() -> None:
    registers = everywhere()
    registers["c"]["k"] = (str(Tag(1, 2, "0" * 28)), VALUE)
    fake = Fake(registers)
    assert fake.run().count == 0
    assert registers == everywhere()
    assert fake.run().count == 1


def test_a_key_written_again_stays() -> None:
    registers = everywhere()
    registers["c"]["k"] = (NEW, VALUE)
    assert Fake(registers).run().count == 0
    assert registers["a"] == {"k": (OLD, TOMBSTONE)}


@pytest.mark.parametrize("at", [2, 3])
def test_a_lock_that_is_lost_before_the_last_look_stops_the_batch(at: int) -> None:
    fake = Fake(everywhere())

    def break_lock(number: int) -> None:
        if number == at:
            fake.batch["b"] = "another"

    assert fake.run(break_lock).count == 0
    assert fake.registers == everywhere()
    assert fake.batch == {"a": "", "b": "another", "c": ""}


def test_a_foreign_lock_is_respected_until_it_may_be_taken_over() -> None:
    fake = Fake(everywhere(), locked="dead")
    assert fake.run().busy == "dead"
    assert fake.registers == everywhere()
    assert fake.run(over="dead").count == 1

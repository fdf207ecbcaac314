"""Reads of promoted copies that are not settled: all nodes, or a majority that has the present region epoch."""

from __future__ import annotations

import pytest

from holdfast.contract import VALUE, NotDone, Register, Reply, Store
from holdfast.registers import Read, Send, Verdict, Write
from holdfast.tags import Tag, epoch_of

NODES = ("a", "b", "c")
SURE = NotDone("refused", True)


def reg(epoch: int, counter: int) -> Reply:
    return Reply(Register(str(Tag(epoch, counter, "0" * 28)), VALUE, f"{epoch}.{counter}"))


def read(*replies: Reply | NotDone, nodes: tuple[str, ...] = NODES, unsettled: int = 2) -> tuple[Read, Send | None]:
    operation = Read(nodes, unsettled_epoch=unsettled)
    operation.start()
    send = None
    for node, reply in zip(nodes, replies, strict=False):
        send = operation.on_reply(node, 1, reply) or send
    return operation, send


def test_a_majority_is_not_enough_and_all_are() -> None:
    operation, send = read(reg(1, 1), reg(1, 1))
    assert (operation.decision, send) == (None, None)
    send = operation.on_reply("c", 1, reg(1, 2))
    assert send is not None
    assert isinstance(send.request, Store)
    assert send.request.register.value == "1.2"
    assert set(send.to) == {"a", "b"}
    operation.on_reply("a", send.phase, reg(1, 2))
    assert operation.decision is not None
    assert operation.decision.register.value == "1.2"


def test_control_settled_copies_need_a_majority() -> None:
    operation, _ = read(reg(1, 1), reg(1, 1), unsettled=0)
    assert operation.decision is not None
    assert operation.decision.register.value == "1.1"


def test_the_present_epoch_in_a_majority_is_enough() -> None:
    operation, _ = read(reg(2, 1), reg(2, 1))
    assert operation.decision is not None
    assert operation.decision.verdict is Verdict.SUCCESS
    operation, send = read(reg(1, 9), reg(2, 1))
    assert operation.decision is None
    assert send is not None
    assert send.to == ("a", "c")


@pytest.mark.parametrize("first", [0, 1, 2])
def test_who_cannot_be_heard_makes_it_no_quorum_at_once(first: int) -> None:
    replies: list[Reply | NotDone] = [reg(1, 1), reg(1, 1)]
    replies.insert(first, SURE)
    operation, _ = read(*replies)
    assert operation.decision is not None
    assert operation.decision.verdict is Verdict.NO_QUORUM
    assert "all nodes are needed" in operation.decision.reasons[-1]


def test_one_that_is_silent_makes_it_no_quorum_at_the_deadline() -> None:
    operation, _ = read(reg(1, 1), reg(1, 1))
    operation.on_deadline()
    assert operation.decision is not None
    assert operation.decision.verdict is Verdict.NO_QUORUM


def test_five_nodes_wait_for_the_present_epoch_beyond_a_majority() -> None:
    nodes = ("a", "b", "c", "d", "e")
    operation, send = read(reg(1, 1), SURE, reg(1, 1), reg(1, 1), nodes=nodes)
    assert (operation.decision, send) == (None, None)
    send = operation.on_reply("e", 1, reg(2, 1))
    assert send is not None
    assert isinstance(send.request, Store)


def test_a_write_needs_a_majority_only_and_is_above_all_of_before() -> None:
    operation = Write(NODES, 2, "1" * 28, VALUE, "new")
    operation.start()
    operation.on_reply("a", 1, reg(1, 7))
    send = operation.on_reply("b", 1, SURE) or operation.on_reply("c", 1, reg(1, 3))
    assert send is not None
    assert isinstance(send.request, Store)
    assert epoch_of(send.request.register.tag) == 2

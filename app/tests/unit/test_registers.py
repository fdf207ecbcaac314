"""CP registers: the decisions one by one. Whole histories over many seeds: tests/simulation."""

from __future__ import annotations

import pytest
from linearizability import INFINITY, Op, linearizable

from holdfast.contract import TOMBSTONE, VALUE, NotDone, Query, Register, Reply, Store
from holdfast.registers import EMPTY, Read, Verdict, Write
from holdfast.tags import Tag

NODES = ("a", "b", "c")
SURE = NotDone("refused", True)
LOST = NotDone("timeout", False)


def tag(counter: int, writer: str = "0" * 28, epoch: int = 1) -> str:
    return str(Tag(epoch, counter, writer))


def reg(counter: int, value: str = "x") -> Reply:
    return Reply(Register(tag(counter), VALUE, value))


def write() -> Write:
    operation = Write(NODES, 1, "1" * 28, VALUE, "new")
    send = operation.start()
    assert send.to == NODES
    assert send.request == Query(want_value=False)
    return operation


def test_write_stores_one_above_the_majoritys_largest_tag() -> None:
    operation = write()
    assert operation.on_reply("a", 1, reg(4)) is None
    send = operation.on_reply("b", 1, reg(7))
    assert send is not None
    assert isinstance(send.request, Store)
    assert send.to == NODES
    assert send.request.register == Register(tag(8, "1" * 28), VALUE, "new")
    operation.on_reply("c", 2, reg(8))
    assert operation.decision is None
    operation.on_reply("a", 2, reg(8))
    assert operation.decision is not None
    assert operation.decision.verdict is Verdict.SUCCESS
    assert operation.decision.acks == ("c", "a")


def test_first_write_starts_at_one() -> None:
    operation = write()
    operation.on_reply("a", 1, Reply(EMPTY))
    send = operation.on_reply("b", 1, Reply(EMPTY))
    assert send is not None
    assert isinstance(send.request, Store)
    assert send.request.register.tag == tag(1, "1" * 28)


def test_no_store_sent_means_no_quorum_at_once() -> None:
    operation = write()
    operation.on_reply("a", 1, LOST)
    assert operation.decision is None
    operation.on_reply("b", 1, LOST)
    assert operation.decision is not None
    assert operation.decision.verdict is Verdict.NO_QUORUM


def test_deadline_in_phase_one_is_no_quorum_and_in_phase_two_unknown() -> None:
    first = write()
    first.on_reply("a", 1, reg(1))
    first.on_deadline()
    assert first.decision is not None
    assert first.decision.verdict is Verdict.NO_QUORUM
    second = write()
    second.on_reply("a", 1, reg(1))
    second.on_reply("b", 1, reg(1))
    second.on_deadline()
    assert second.decision is not None
    assert second.decision.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("replies", "verdict"),
    [
        ((SURE, SURE, SURE), Verdict.NO_QUORUM),
        ((SURE, SURE, LOST), Verdict.UNKNOWN),
        ((SURE, LOST), Verdict.UNKNOWN),
        ((reg(2), SURE, SURE), Verdict.UNKNOWN),
        ((SURE, reg(2), SURE), Verdict.UNKNOWN),
        ((SURE, reg(2), reg(2)), Verdict.SUCCESS),
    ],
)
def test_a_store_that_surely_happened_nowhere_is_no_quorum(
    replies: tuple[Reply | NotDone, ...], verdict: Verdict
) -> None:
    operation = write()
    operation.on_reply("a", 1, reg(1))
    operation.on_reply("b", 1, reg(1))
    for node, reply in zip(NODES, replies, strict=False):
        assert operation.decision is None
        operation.on_reply(node, 2, reply)
    assert operation.decision is not None
    assert operation.decision.verdict is verdict


def test_read_answers_when_the_majority_agrees_and_writes_back_when_not() -> None:
    agreed = Read(NODES)
    agreed.on_reply("a", 1, reg(3))
    assert agreed.on_reply("c", 1, reg(3)) is None
    assert agreed.decision is not None
    assert agreed.decision.register.value == "x"
    split = Read(NODES)
    split.on_reply("a", 1, reg(3, "old"))
    send = split.on_reply("b", 1, reg(4, "new"))
    assert send is not None
    assert send.to == ("a", "c")
    assert split.decision is None
    split.on_reply("c", 2, reg(4))
    assert split.decision is not None
    assert split.decision.register.value == "new"


def test_a_read_is_never_unknown() -> None:
    operation = Read(NODES)
    operation.on_reply("a", 1, reg(3))
    operation.on_reply("b", 1, reg(4))
    operation.on_deadline()
    assert operation.decision is not None
    assert operation.decision.verdict is Verdict.NO_QUORUM


def test_read_of_a_tombstone_hands_it_back_with_its_kind() -> None:
    operation = Read(NODES)
    for node in ("a", "b"):
        operation.on_reply(node, 1, Reply(Register(tag(2), TOMBSTONE, None)))
    assert operation.decision is not None
    assert operation.decision.register.kind == TOMBSTONE


def test_late_duplicate_and_foreign_replies_do_not_count() -> None:
    operation = write()
    operation.on_reply("a", 1, reg(1))
    assert operation.on_reply("a", 1, reg(1)) is None
    assert operation.on_reply("zz", 1, reg(1)) is None
    assert operation.on_reply("b", 2, reg(1)) is None
    operation.on_reply("b", 1, reg(1))
    operation.on_reply("c", 1, reg(1))  # phase 1 is over: not an acknowledgement
    operation.on_reply("a", 2, reg(2))
    operation.on_reply("a", 2, reg(2))
    assert operation.decision is None


def test_five_nodes_need_three() -> None:
    operation = Read(("a", "b", "c", "d", "e"))
    operation.on_reply("a", 1, reg(1))
    operation.on_reply("b", 1, reg(1))
    assert operation.decision is None
    operation.on_reply("e", 1, reg(1))
    assert operation.decision is not None


def test_the_checker_sees_a_stale_read_and_accepts_a_pending_write() -> None:
    stale = [Op(0, 1, "write", "a"), Op(2, 3, "write", "b"), Op(4, 5, "read", "a")]
    assert not linearizable(stale)
    pending = [Op(0, 1, "write", "a"), Op(2, INFINITY, "write", "b"), Op(4, 5, "read", "a"), Op(6, 7, "read", "b")]
    assert linearizable(pending)
    inversion = [Op(0, 9, "write", "a"), Op(1, 2, "read", "a"), Op(3, 4, "read", None)]
    assert not linearizable(inversion)


def test_the_same_tag_again_after_a_raised_epoch_can_still_succeed_but_never_be_a_refusal() -> None:
    operation = write()
    operation.on_reply("a", 1, reg(1))
    operation.on_reply("b", 1, reg(1))
    operation.on_reply("a", 2, reg(2))
    assert operation.again() is None, "it has not ended"
    operation.on_reply("b", 2, SURE)
    operation.on_reply("c", 2, SURE)
    assert operation.decision is not None
    assert operation.decision.verdict is Verdict.UNKNOWN
    send = operation.again()
    assert send is not None
    assert isinstance(send.request, Store)
    assert send.request.register == Register(tag(2, "1" * 28), VALUE, "new")
    operation.on_reply("b", 2, reg(2))  # late, of the first try
    operation.on_reply("b", send.phase, reg(2))
    assert operation.decision is None
    operation.on_reply("c", send.phase, reg(2))
    assert operation.decision is not None
    assert operation.decision.verdict is Verdict.SUCCESS
    refused = write()
    refused.on_reply("a", 1, reg(1))
    refused.on_reply("b", 1, reg(1))
    refused.on_deadline()
    send = refused.again()
    assert send is not None
    for node in NODES:
        refused.on_reply(node, send.phase, SURE)
    assert refused.decision is not None
    assert refused.decision.verdict is Verdict.UNKNOWN

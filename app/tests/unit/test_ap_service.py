"""Where an AP write goes on when a node's answer is lost, and which node's answer a session is shown."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.ap_service import ApService
from holdfast.errors import OutcomeUnknown
from holdfast.guard import MEMBER, Guard
from holdfast.link import Answer, Failed
from holdfast.nodes import Result
from holdfast.sessions import Session

NAMES = ("a", "b", "c")
VERSION = "00000001.000000000001" + "0000" + ".b"
LOST, NOT_SENT = Failed("timeout", False), Failed("connect", True)


class Guards:
    def usable(self, node: str) -> Guard:
        return Guard(MEMBER, "r", node, 1, 1, f"inc-{node}")

    known = usable

    def withheld(self) -> None:
        return None


class Nodes:
    """``results`` by node; the others take the write. ``asked`` in order."""

    names = NAMES

    def __init__(self, **results: Result) -> None:
        self.guards, self.results, self.asked = Guards(), results, list[str]()

    def guard_state(self, _node: str) -> str:
        return MEMBER

    def call(self, node: str, *_request: Any) -> Result:
        self.asked.append(node)
        return self.results.get(node, Answer([VERSION.encode(), b"1", b"inc", b"0"]))


def write(nodes: Nodes, *known: str) -> None:
    """``known``: the nodes whose clock was read."""
    service = ApService(nodes, "a", 1.0, 1000, 500, latest=lambda n, _until: 5 if n in known else None)  # type: ignore[arg-type]
    service.write("k", "v", Session())


def test_a_lost_answer_sends_the_write_on_where_the_node_takes_none_late() -> None:
    nodes = Nodes(a=LOST)
    write(nodes, *NAMES)
    assert nodes.asked == ["a", "b"]


def test_a_lost_answer_of_a_node_whose_clock_was_never_read_ends_the_write() -> None:
    """It may come to it minutes later, above all that other nodes acknowledge meanwhile."""
    nodes = Nodes(a=LOST)
    with pytest.raises(OutcomeUnknown):
        write(nodes, "b", "c")
    assert nodes.asked == ["a"]
    nodes = Nodes(a=LOST, b=LOST)
    with pytest.raises(OutcomeUnknown):
        write(nodes, "a", "c")
    assert nodes.asked == ["a", "b"]


def test_what_was_never_sent_goes_on_whatever_is_known() -> None:
    nodes = Nodes(a=NOT_SENT)
    write(nodes)
    assert nodes.asked == ["a", "b"]
    nodes = Nodes(a=LOST, b=NOT_SENT)
    write(nodes, "a")
    assert nodes.asked == ["a", "b", "c"], "what was lost is taken by nobody late"


def seen(node: str, own: int, **others: int) -> Answer:
    """A read at the node, whose value is its name; it has its own writes up to ``own`` and those of others so far."""
    peers = [p for o, n in others.items() for p in (o.encode(), f"inc-{o} {n} 5".encode())]
    return Answer([VERSION.encode(), b"v", node.encode(), b"5", str(own).encode(), peers, b"0", b"", []])


def read(session: Session, **results: Result) -> tuple[str | None, bool | None]:
    got = ApService(Nodes(**results), "a", 1.0, 1000, 500).read("k", session, True)  # type: ignore[arg-type]
    return got.value, got.read_your_writes


def test_a_session_is_shown_no_node_that_lacks_what_its_own_zone_has() -> None:
    written = Session({n: (f"inc-{n}", 1) for n in NAMES})
    behind = {"a": seen("a", 1), "b": seen("b", 1, c=1), "c": seen("c", 1)}
    assert read(written, **behind) == ("a", False), "b lacks fewer, but not what a has"
    assert read(written, **(behind | {"c": seen("c", 1, a=1)})) == ("c", False)
    assert read(written, **(behind | {"c": seen("c", 1, a=1, b=1)})) == ("c", True)


def test_a_session_with_an_ended_history_is_shown_its_newer_writes() -> None:
    ended = Session({"a": ("before", 9), "b": ("inc-b", 1)}, frozenset({"b"}))
    assert read(ended, a=seen("a", 1), b=seen("b", 1)) == ("b", False)
    assert read(ended, a=seen("a", 1, b=1), b=seen("b", 1)) == ("a", False)

"""The link to one node, against a node of a few lines: deadlines of its own for each batch, and a bounded queue."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator

import hiredis
import pytest

from holdfast.core import _Busy, _Slots
from holdfast.link import MAX_QUEUE_BYTES, Answer, Failed, NodeLink, plain_command
from holdfast.settings import Address, RedisAccess

ACCESS = RedisAccess("service", "a" * 32, False, "", "", "")
LARGE = b"v" * 8_000_000


class Node:
    """Answers every command with OK. ``busy``: seconds it rests before it reads on, once it has seen a byte."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.busy = 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _addr = self.listener.accept()
            except OSError:
                return
            reader = hiredis.Reader()
            while data := accepted.recv(65536):
                time.sleep(self.busy)
                self.busy = 0.0
                reader.feed(data)
                while reader.gets() is not False:
                    accepted.sendall(b"+OK\r\n")


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.listener.close()


def link_to(node: Node) -> NodeLink:
    return NodeLink("n", Address(*node.listener.getsockname()), ACCESS, 10.0)


def ask(link: NodeLink, seconds: float, *args: str | bytes) -> Answer | Failed:
    box: queue.SimpleQueue[Answer | Failed] = queue.SimpleQueue()
    link.submit(plain_command(args, time.monotonic() + seconds, box.put))
    return box.get(timeout=60)


def test_a_batch_is_sent_under_its_own_deadline(node: Node) -> None:
    link = link_to(node)
    link.start()
    assert ask(link, 30.0, "PING") == Answer(b"OK")
    assert ask(link, 0.5, "PING") == Answer(b"OK")  # leaves a short timeout on the socket
    node.busy = 1.5
    assert ask(link, 30.0, "SET", "k", LARGE) == Answer(b"OK")
    link.stop()


def test_large_commands_wait_for_a_node_up_to_a_bound(node: Node) -> None:
    link = link_to(node)  # not started: a node that takes nothing
    outcomes: list[Answer | Failed] = []
    for _ in range(MAX_QUEUE_BYTES // len(LARGE) + 2):
        link.submit(plain_command(("SET", "k", LARGE), time.monotonic() + 60, outcomes.append))
    assert outcomes == [Failed("queue_full", True)] * 2
    link.submit(plain_command(("PING",), time.monotonic() + 60, outcomes.append))
    assert len(outcomes) == 2, "small commands still wait"
    link.start()
    while len(outcomes) < MAX_QUEUE_BYTES // len(LARGE) + 3:
        time.sleep(0.01)
    assert ask(link, 30.0, "SET", "k", LARGE) == Answer(b"OK"), "there is room again"
    link.stop()


def test_nobody_waits_for_a_slot_for_ever() -> None:
    slots, started = _Slots(1, 0.05), time.monotonic()
    with slots, pytest.raises(_Busy), slots:
        pass
    assert time.monotonic() - started < 2
    with slots:
        pass

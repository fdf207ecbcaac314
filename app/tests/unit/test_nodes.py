"""What a node's answers mean for its breaker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from holdfast import scripts, settings
from holdfast.breaker import State
from holdfast.link import Answer, Command, Failed
from holdfast.nodes import Nodes


class Link:
    """Answers every command at once with ``outcome``."""

    def __init__(self, outcome: Answer | Failed) -> None:
        self.outcome = outcome

    def submit(self, command: Command) -> None:
        command.done(self.outcome)


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    for name, content in (("secret_key", "0123456789abcdef" * 2), ("redis_password", "a-long-enough-password")):
        (tmp_path / name).write_text(content)
    (tmp_path / "api_tokens").write_text('[{"name": "t", "role": "read", "sha256": "%s"}]' % ("a" * 64))
    env = {"APP_MODE": "cp", "REGION": "r", "ZONE": "z", "NODES": "a=h1:1,b=h2:1,c=h3:1", "REDIS_TLS": "off"}
    return Nodes(settings.load(env | {"SECRETS_DIR": str(tmp_path)}))


def ask(nodes: Nodes, node: str, outcome: Answer | Failed, times: int) -> list[Any]:
    nodes._links[node] = Link(outcome)  # type: ignore[assignment]
    got: list[Any] = []
    for _ in range(times):
        nodes.send(node, scripts.CP_STORE, [], [], time.monotonic() + 1, got.append)
    return got


def test_a_full_node_refuses_and_its_breaker_stays_closed(nodes: Nodes) -> None:
    """It still answers reads, which the breaker would keep away."""
    assert ask(nodes, "a", Failed("oom", True), 50) == [Failed("oom", True)] * 50
    status = nodes.breakers["a"].status(time.monotonic())
    assert (status.state, status.calls, status.failures) == (State.CLOSED, 50, 0)
    assert status.last_failure == "oom", "operators see why writes fail"


@pytest.mark.parametrize("reason", ["timeout", "reset", "misconf", "loading", "auth", "protocol"])
def test_every_other_failure_counts(nodes: Nodes, reason: str) -> None:
    got = ask(nodes, "a", Failed(reason, True), 50)
    assert nodes.breakers["a"].state is State.OPEN
    assert got[-1] == Failed("breaker_open", True)
    assert nodes.breakers["b"].state is State.CLOSED


def test_a_full_node_that_also_hangs_opens_the_breaker(nodes: Nodes) -> None:
    for _ in range(5):
        ask(nodes, "a", Failed("oom", True), 1)
        ask(nodes, "a", Failed("timeout", False), 1)
    assert nodes.breakers["a"].state is State.OPEN

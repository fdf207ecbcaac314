"""AP writes keep away from a node whose clock is known to be bad, and return to it when it is right again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import App, Cluster, wait_for
from test_parked import parked
from wrong_clock import WrongClock

#: With the 500 ms of a deployment an answer that takes 125 ms says too little of a clock; a busy machine takes longer.
DRIFT_MS = 2000


def start(cluster: Cluster, *clocks: WrongClock) -> App:
    """An AP instance of the first zone that reaches the first nodes through the proxies."""
    ports = {f"db_g{i}": clock.port for i, clock in enumerate(clocks, 1)}
    nodes = ",".join(f"{n}=127.0.0.1:{ports.get(n, node.port)}" for n, node in cluster.nodes.items())
    return cluster.run("serve", "ap", NODES=nodes, MAX_CLOCK_DRIFT_MS=str(DRIFT_MS))


@pytest.fixture
def clocks(cluster: Cluster) -> Iterator[list[WrongClock]]:
    made = [WrongClock(node.port) for node in cluster.nodes.values()]
    yield made
    for clock in made:
        clock.stop()


def test_writes_go_to_a_zone_whose_clock_is_good(cluster: Cluster, clocks: list[WrongClock]) -> None:
    app = start(cluster, clocks[0])
    assert app.write("k", "1").json["acks"] == ["db_g1"]
    wait_for("judged", lambda: abs(app.metric('node_clock_offset_ms{node="db_g1"}')) < 100)
    clocks[0].ahead_ms = 1800  # below the drift itself, above 0.8 of it
    wait_for("known to be bad", lambda: app.metric('node_clock_good{node="db_g1"}') == 0)
    assert app.write("k", "2").json["acks"] == ["db_g2"]
    assert app.metric('node_clock_good{node="db_g2"}') == 1, "one bad clock does not make the others look bad"
    wait_for("by how much", lambda: 1500 < app.metric('node_clock_offset_ms{node="db_g1"}') < 2100)
    assert app.read("k").json["source"] == "db_g1", "reads stay at home"
    clocks[0].ahead_ms = 0
    wait_for("good again", lambda: app.metric('node_clock_good{node="db_g1"}') == 1)
    assert app.write("k", "3").json["acks"] == ["db_g1"]

    def told() -> set[tuple[str, str]]:
        return {(e["stream"], e["event"]) for e in app.entries() if e["event"].startswith("CLOCK_")}

    said = {(s, e) for s in ("log", "audit") for e in ("CLOCK_BAD", "CLOCK_GOOD")}
    wait_for("in both streams", lambda: told() == said)


def test_a_bad_clock_is_still_written_to_when_no_other_node_answers(cluster: Cluster, clocks: list[WrongClock]) -> None:
    app = start(cluster, clocks[0])
    clocks[0].ahead_ms = -8000
    wait_for("known to be bad", lambda: app.metric('node_clock_good{node="db_g1"}') == 0)
    for name in ("db_g2", "db_g3"):
        cluster.nodes[name].kill()
    wait_for("written at home", lambda: app.write("k", "1").json.get("acks") == ["db_g1"])


def test_clocks_that_disagree_all_over_change_nothing(cluster: Cluster, clocks: list[WrongClock]) -> None:
    for clock, ahead in zip(clocks, (0, 12_000, -12_000), strict=True):
        clock.ahead_ms = ahead
    app = start(cluster, *clocks)
    wait_for("ready", app.ready)
    for _ in range(3):
        assert app.write("k", "1").json["acks"] == ["db_g1"]
    assert [app.metric(f'node_clock_good{{node="db_g{i}"}}') for i in (1, 2, 3)] == [1, 1, 1]


def test_restamping_is_refused_while_the_clock_is_wrong(cluster: Cluster, clocks: list[WrongClock]) -> None:
    clocks[0].ahead_ms = 3_600_000
    real, cluster.nodes["db_g1"].port = cluster.nodes["db_g1"].port, clocks[0].port
    try:
        code, lines = parked(cluster, "restamp", "db_g1", "--confirm", "db_g1")
        assert (code, lines[-1]["code"]) == (4, "clock"), lines
        assert "chronyc" in lines[-1]["why"]
    finally:
        cluster.nodes["db_g1"].port = real

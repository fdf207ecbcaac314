"""Linearizability per key on real nodes, under lag that differs by path and changes, kills, pauses and cuts.

Kills alone prove nothing: a node that is dead cannot answer with an old value. What breaks a wrong read is a node that
is alive and behind. The same harness must therefore catch a build that reads from one node and one without write-back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from broken_build import BUILDS
from cluster import App, Cluster, wait_for
from histories import Histories
from lag_proxy import Path as Route
from lag_proxy import Proxies

INSTANCES, WRITERS, READERS = 3, 3, 6
#: Seconds, each way; most paths are fast, so that a majority is.
DELAYS = (0.0, 0.0, 0.0, 0.005, 0.03, 0.08)
REGIME_SEC = 0.15
#: Long enough that a slow write is running when two readers come one after the other.
INVERSION_SEC, INVERSION_DELAY = 0.6, 0.07
SOUND_SEC, CONTROL_SEC = 20.0, 90.0


class Rig:
    """Three nodes, three instances, and a path of its own between each two of them."""

    def __init__(self, cluster: Cluster, proxies: Proxies, build: str | None) -> None:
        self.cluster = cluster
        self.random = Random(7)
        self.changes = 0
        self.routes: list[dict[str, Route]] = []
        self.apps: list[App] = []
        for number in range(INSTANCES):
            routes = {name: proxies.path(node.port) for name, node in cluster.nodes.items()}
            nodes = ",".join(f"{name}=127.0.0.1:{route.port}" for name, route in routes.items())
            launch = ("-m", "holdfast") if build is None else (str(Path(__file__).with_name("broken_build.py")), build)
            self.routes.append(routes)
            self.apps.append(cluster.run("serve", "cp", f"db_g{number + 1}", launch=launch, NODES=nodes))
        wait_for("all instances are ready", lambda: all(a.ready() for a in self.apps))

    def clients(self) -> Histories:
        histories = Histories([a.port for a in self.apps], 0.6, 7)
        histories.start(WRITERS, READERS)
        return histories

    def change_lag(self, histories: Histories) -> None:
        """A while of lag, of one of two kinds in turn."""
        self.changes += 1
        if self.changes % 2:
            self._anyhow()
            histories.writing = None
            time.sleep(REGIME_SEC)
        else:
            histories.writing = self._inversion()
            time.sleep(INVERSION_SEC)

    def _inversion(self) -> int:
        """The textbook's case: a write has reached one node and is on its way to the others; one reader is near that
        node, the next one is far from it. Returns the writing instance."""
        writer, near, far = self.random.sample(range(INSTANCES), 3)
        reached = self.random.choice(list(self.cluster.nodes))
        for name in self.cluster.nodes:
            self.routes[writer][name].delay = 0.0 if name == reached else INVERSION_DELAY
            self.routes[near][name].delay = 0.0
            self.routes[far][name].delay = INVERSION_DELAY if name == reached else 0.0
        return writer

    def _anyhow(self) -> None:
        """Every path gets a new delay; one node is behind for everybody."""
        behind = self.random.choice(list(self.cluster.nodes))
        for routes in self.routes:
            for name, route in routes.items():
                route.delay = self.random.choice(DELAYS) + (0.04 if name == behind else 0.0)

    def whole(self) -> None:
        for routes in self.routes:
            for route in routes.values():
                route.delay, route.cut = 0.0, False

    def delayed(self) -> int:
        return sum(route.delayed for routes in self.routes for route in routes.values())


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    made = Proxies()
    yield made
    made.stop()


def kill_node(rig: Rig) -> None:
    node = rig.cluster.nodes[rig.random.choice(list(rig.cluster.nodes))]
    node.kill()
    time.sleep(0.3)
    node.start()


def pause_node(rig: Rig) -> None:
    node = rig.cluster.nodes[rig.random.choice(list(rig.cluster.nodes))]
    node.signal(signal.SIGSTOP)
    time.sleep(rig.random.uniform(0.2, 0.6))
    node.signal(signal.SIGCONT)


def cut_paths(rig: Rig) -> None:
    """One instance from one node, another from two: what it had sent arrives late."""
    one, other = rig.random.sample(rig.routes, 2)
    names = rig.random.sample(list(rig.cluster.nodes), 2)
    cut = [one[names[0]], other[names[0]], other[names[1]]]
    for route in cut:
        route.cut = True
    time.sleep(rig.random.uniform(0.6, 1.4))
    for route in cut:
        route.cut = False


def kill_worker(rig: Rig) -> None:
    """The process that serves, not its parent: the parent starts another."""
    app = rig.random.choice(rig.apps)
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(app.process.pid)], capture_output=True, text=True)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)


FAULTS: tuple[Callable[[Rig], None], ...] = (kill_node, pause_node, cut_paths, kill_worker)


def test_every_key_is_linearizable_under_lag_kills_pauses_and_cuts(cluster: Cluster, proxies: Proxies) -> None:
    rig = Rig(cluster, proxies, None)
    histories = rig.clients()
    done: list[str] = []
    end = time.monotonic() + SOUND_SEC
    next_fault = 0.0
    while time.monotonic() < end:
        rig.change_lag(histories)
        if time.monotonic() > next_fault:
            fault = FAULTS[len(done) % len(FAULTS)]
            fault(rig)
            done.append(fault.__name__)
            next_fault = time.monotonic() + 0.4
    histories.stop()
    rig.whole()
    wait_for("all instances are ready", lambda: all(a.ready() for a in rig.apps))
    for app in rig.apps:
        wait_for("every key is answered", lambda a=app: histories.read_all(a.port) == len(histories.ops))
    assert histories.problem() is None
    operations = sum(map(len, histories.ops.values()))
    held = sum(route.held for routes in rig.routes for route in routes.values())
    print(f"{operations} operations, {len(histories.ops)} keys, {dict(histories.outcomes)}, {len(done)} faults")
    print(f"{rig.delayed()} messages delayed, {held} held by a cut")
    assert operations > 800
    assert len(histories.ops) > 20
    assert histories.outcomes["write 200"] > 100
    assert rig.delayed() > 300
    assert held > 5
    assert {f.__name__ for f in FAULTS} <= set(done)
    failed = sum(n for outcome, n in histories.outcomes.items() if outcome.split()[1] not in ("200", "404"))
    assert failed > 2, "the faults were felt"


@pytest.mark.parametrize("build", BUILDS)
def test_negative_control_a_broken_build_is_caught(cluster: Cluster, proxies: Proxies, build: str) -> None:
    rig = Rig(cluster, proxies, build)
    histories = rig.clients()
    began = time.monotonic()
    problem = None
    while problem is None and time.monotonic() < began + CONTROL_SEC:
        rig.change_lag(histories)
        problem = histories.problem()
    seconds = time.monotonic() - began
    histories.stop()
    assert problem is not None, f"{build}: no violation in {seconds:.0f} s, {dict(histories.outcomes)}"
    print(f"{build}: found after {seconds:.1f} s, {sum(map(len, histories.ops.values()))} operations: {problem}")

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from backups import Backups
from cluster import Cluster
from regions import Regions
from restored import Restorable


def _made(path: Path) -> Iterator[Cluster]:
    if shutil.which("redis-server") is None:
        pytest.fail("these tests need redis-server (Debian: apt-get install redis-server)")
    cluster = Cluster(path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for tests that leave the nodes alone."""
    yield from _made(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of its own, for tests that break things."""
    yield from _made(tmp_path)


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    """An active region and its standby, of their own."""
    made = Regions(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def east(tmp_path: Path) -> Iterator[Restorable]:
    """A region of its own whose nodes can be put back to a moment."""
    made = Restorable(tmp_path / "east")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose files tell the time."""
    cluster = Cluster(tmp_path_factory.mktemp("backups"))
    for node in cluster.nodes.values():
        node.extra = ["aof-timestamp-enabled yes"]
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def backups(backed_up: Cluster, tmp_path: Path) -> Backups:
    """Of its first node; the store is the test's own."""
    client = backed_up.nodes["db_g1"].client()
    for key in client.keys("cp:*"):
        client.delete(key)
    return Backups(backed_up, tmp_path / "store")

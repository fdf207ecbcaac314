"""Runs `holdfast backup` as an operator would, against a node of a test cluster."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from cluster import Cluster, wait_for

from holdfast import cli
from holdfast.backup import moments
from holdfast.backup.scratch_node import ScratchNode

COMMAND = [sys.executable, "-m", "holdfast", "backup"]
#: The same, and says at the end how much memory it ever had (the kernel's count begins anew with each program).
MEASURED = """
import json, re, sys
from pathlib import Path
from holdfast.cli import main
code = main(["backup", *sys.argv[1:]])
most = re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())
print(json.dumps({"event": "MEMORY", "kib": int(most[1])}))
sys.exit(code)
"""


@dataclass
class Ran:
    code: int
    events: list[dict[str, Any]]

    def event(self, name: str) -> dict[str, Any]:
        return next(e for e in self.events if e["event"] == name)

    def has(self, name: str) -> bool:
        return any(e["event"] == name for e in self.events)

    def refused(self, cause: str, code: int = 4) -> bool:
        """It said why in these words, and a cure."""
        said = self.event("BACKUP_REFUSED")
        assert cause in said["why"], said
        assert said["cure"], said
        return self.code == code


class Backups:
    """The store of one node; ``name`` of the node is db_g1 unless told otherwise."""

    def __init__(self, cluster: Cluster, store: Path, name: str = "db_g1") -> None:
        self.cluster, self.store, self.name = cluster, store, name
        self.node = cluster.nodes[name]
        self.data = self.node.directory / "data"

    def run(self, *arguments: object) -> Ran:
        """In this process: a start of Python is most of what a command costs."""
        out = io.StringIO()
        quiet = mock.patch("holdfast.logs.configure")  # the test run's own logs stay as they are
        with quiet, contextlib.redirect_stdout(out), mock.patch.dict(os.environ, self.cluster.env("cp")):
            code = cli.main(["backup", *map(str, arguments)])
        return Ran(code, [json.loads(line) for line in out.getvalue().splitlines()])

    def launch(self, *arguments: object) -> Ran:
        """In a process of its own, as an operator does."""
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, arguments)],
            env=self.cluster.env("cp"),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode != 1, done.stdout
        return Ran(done.returncode, [json.loads(line) for line in done.stdout.splitlines()])

    def collect(self, *more: object) -> Ran:
        return self.run(*self.collecting, *more)

    @property
    def collecting(self) -> tuple[object, ...]:
        return ("collect", self.name, "--data", self.data, "--store", self.store)

    def restore(self, to: float | str, into: Path) -> Ran:
        return self.run("restore", "--store", self.store, "--to", moment(to), "--into", into)

    def verify(self, to: float | str, directory: Path) -> Ran:
        return self.run("verify", "--store", self.store, "--to", moment(to), "--directory", directory)

    def keys_at(self, to: float | str, into: Path) -> set[str]:
        done = self.restore(to, into)
        assert done.code == 0, done.events
        return keys_of(into)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        arguments = ["watch", "--data", str(self.data), "--store", str(self.store)]
        process = subprocess.Popen([*COMMAND, *arguments], env=self.cluster.env("cp"), stdout=subprocess.PIPE)
        try:
            wait_for("the watch holds files", lambda: list(self.store.glob("held/2*/seen.jsonl")))
            yield
        finally:
            process.terminate()
            assert process.wait(60) == 0


def moment(to: float | str) -> str:
    return to if isinstance(to, str) else moments.shown(to)


def keys_of(directory: Path) -> set[str]:
    """The service's keys that Redis has after a start on ``directory``."""
    with ScratchNode(directory) as node:
        return {key.decode() for key in node.ask((("KEYS", "*"),))[0] if not key.startswith(b"holdfast:")}


def write(client: Any, number: int, value: bytes = b"x") -> str:
    """A register as the service writes it; returns the key as it is on the node."""
    key = f"cp:key{number}"
    client.hset(key, mapping={"t": f"00000001.{number:016x}.{'0' * 28}", "k": "v", "v": value})
    return key


def rewrite(client: Any) -> None:
    """One rewrite, from its begin to its end."""
    wait_for("no rewrite runs", lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    before = client.info("persistence")["aof_rewrites"]
    client.bgrewriteaof()

    def over() -> bool:
        now = client.info("persistence")
        return now["aof_rewrites"] > before and now["aof_rewrite_in_progress"] == 0

    wait_for("the rewrite is through", over)


def next_second(extra: float = 0.05) -> float:
    """Waits until a new second has begun, and says which."""
    time.sleep(1 - time.time() % 1 + extra)
    return float(int(time.time()))


class Load:
    """Writes new keys as fast as the node takes them, one by one, and rewrites its file again and again."""

    def __init__(self, backups: Backups, first: int) -> None:
        self.written: list[tuple[str, float, float]] = []  # key, begun, acknowledged
        self.rewrites = 0
        self._node, self._first, self._over = backups.node, first, threading.Event()
        self._threads = [threading.Thread(target=self._write), threading.Thread(target=self._rewrite)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        client, number = self._node.client(), self._first
        while not self._over.is_set():
            begun = time.time()
            key = write(client, number, b"v" * (number % 300))
            self.written.append((key, begun, time.time()))
            number += 1

    def _rewrite(self) -> None:
        client = self._node.client()
        while not self._over.is_set():
            rewrite(client)
            self.rewrites += 1
            # Redis lets a file live for two rewrites: time enough for the watch also on a machine that is busy.
            self._over.wait(0.5)

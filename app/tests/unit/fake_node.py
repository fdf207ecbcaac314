"""A node's data directory, written as Redis writes it, under a clock that the test sets. No Redis runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from holdfast import cli
from holdfast.backup import backup_plan, backup_restore, backup_sets
from holdfast.backup.aof_hold import Hold
from holdfast.backup.backup_collect import Collect
from holdfast.backup.backup_sets import Set
from holdfast.backup.node_facts import NodeFacts
from holdfast.backup.refusals import Damaged

START = 1_777_630_000.5


def command(*words: str) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(w)}\r\n{w}\r\n".encode() for w in words)


class FakeNode:
    """``clock``: what the node and this machine take for the time."""

    def __init__(self, place: Path, clock: float = START) -> None:
        self.data, self.store, self.clock = place / "data", place / "store", clock
        self.directory = self.data / "appendonlydir"
        self.directory.mkdir(parents=True)
        self.facts: dict[str, Any] = {"keys": 1, "sentinel": None}
        self.marked, self.number = 0, 0
        self.told: list[Damaged] = []
        self.base: Path | None = None
        self.on_answer: Callable[[], None] = lambda: None
        self._open()
        self._list([f"file {self.incr.name} seq 1 type i"])

    def _open(self) -> None:
        self.number += 1
        self.incr = self.directory / f"x.{self.number}.incr.aof"
        self.incr.touch()

    def _list(self, lines: list[str]) -> None:
        draft = self.directory / "m"
        draft.write_text("\n".join(lines) + "\n")
        draft.rename(self.directory / "appendonly.aof.manifest")

    def append(self, *parts: bytes) -> None:
        with self.incr.open("ab") as out:
            out.write(b"".join(parts))
        os.utime(self.incr, (self.clock, self.clock))

    def write(self, key: str) -> None:
        second = int(self.clock)
        mark = b"#TS:%d\r\n" % second if second > self.marked else b""
        self.marked = max(self.marked, second)
        self.append(mark, command("SET", key, "1"))

    def restart(self) -> None:
        self.marked = 0

    def look(self) -> None:
        """As the watch does."""
        with self.at_its_time():
            Hold(self.data, self.store).take()

    def begin_rewrite(self) -> None:
        before = [p.name for p in (self.base, self.incr) if p]
        self._open()
        kinds = ["b", "i"][-len(before) :]
        files = [f"file {name} seq 1 type {kind}" for name, kind in zip(before, kinds, strict=True)]
        self._list([*files, f"file {self.incr.name} seq 2 type i"])
        self.look()

    def end_rewrite(self) -> None:
        base = self.directory / f"x.{self.number}.base.rdb"
        base.write_bytes(b"REDIS0010\xfa\x05ctime\xc2" + int(self.clock).to_bytes(4, "little") + b"\xfa\x08used-mem")
        self._list([f"file {base.name} seq 2 type b", f"file {self.incr.name} seq 2 type i"])
        self.base = base
        for old in self.directory.glob("x.*"):
            if old not in (base, self.incr):
                old.unlink()
        self.look()

    def at_its_time(self) -> Any:
        return mock.patch("time.time", side_effect=lambda: self.clock)

    def collect(self, census: Callable[[], dict[str, Any]] = dict) -> Set:
        with self.at_its_time():
            return Collect(self.data, self.store, "n", self._answer).run(census, self.told.append)[0]

    def _answer(self) -> NodeFacts:
        clock = self.clock
        self.on_answer()
        return NodeFacts(clock, dict(self.facts))

    def sets(self) -> list[Set]:
        told: list[Damaged] = []
        return backup_sets.load(self.store, told.append)

    def keys_at(self, to: int | None) -> set[str]:
        """What a restore would have: read from the commands, which are the keys' only trace. Raises Refused."""
        plan = backup_plan.choose(self.sets(), to)
        with tempfile.TemporaryDirectory(dir=self.data.parent) as place:
            backup_restore.restore(self.store, plan, Path(place) / "r", "x" * 32)
            files = sorted((Path(place) / "r").rglob("*.incr.aof"))
            return set(re.findall(r"\$3\r\nSET\r\n\$\d+\r\n(.*?)\r\n", "".join(f.read_bytes().decode() for f in files)))


def run(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
    """`holdfast backup ...`: exit code and events."""
    out = io.StringIO()
    with mock.patch("holdfast.logs.configure"), contextlib.redirect_stdout(out):
        code = cli.main(["backup", *map(str, arguments)])
    return code, [json.loads(line) for line in out.getvalue().splitlines()]

"""How long a restore takes, beside what Redis itself needs: its own load of the same file, and a plain copy.

    PYTHONPATH=app/src python app/benchmarks/restore.py [--sizes 10,100,1000] [--rounds 3] [--directory DIR]

For each size (MB of values, a thousand keys each) a real node is filled with records of both faces and backed up by
`holdfast backup collect`; once as it is, every record a command, once after a rewrite, all in a base. Then in turns

    restore + load   `holdfast backup restore` as a process, then redis-server on it until it answers a PING
    copy + load      the same files copied block by block and synced, then redis-server on the copy

The ratio is of the first to the second, which of them is first changes. What restore and copy are to read is read once
before, so that whatever caches lie below this machine treat both alike, and dropped from its page cache (these files
only); what they wrote is in it for both loads. Each load must show as many keys as the node had.
Prints a table of medians, then a line of JSON; memory is the most a process had. Exit codes: 1 a step failed,
2 not started: a tool or room on the disk is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import redis
from backup_steps import (
    HOLDFAST,
    PATIENCE_SEC,
    RECORD_BYTES,
    SHIPPED,
    VALUE_BYTES,
    Ran,
    client_of,
    fill,
    missing,
    no_room,
    rewrite,
    run,
    timed,
)
from cluster import Cluster, Node, wait_for

from holdfast.backup import aof_files

NAME = "db_g1"
BLOCK = 1024 * 1024
#: The node's files, the backup's, one directory that is restored or copied, and what a rewrite adds meanwhile.
COPIES = 5


class Bench:
    """One node under ``root`` and its backups. ``slower``: see --slower."""

    def __init__(self, root: Path, keys: int, rounds: int, slower: float) -> None:
        self.root, self.keys, self.rounds, self.slower = root, keys, rounds, slower
        self.cluster = Cluster(root)
        self.node = self.cluster.nodes[NAME]
        self.data = self.node.directory / "data"
        self.held = 0

    def measure(self) -> list[dict[str, Any]]:
        # A rewrite when it suits Redis would make the file a mix of both.
        self.node.extra = [*SHIPPED, "auto-aof-rewrite-percentage 0"]
        try:
            self.cluster.start()
            for other in set(self.cluster.nodes) - {NAME}:
                self.cluster.nodes[other].kill()
            fill(self.node, self.keys)
            self.held = int(client_of(self.node).dbsize())
            measured = [self._shape("commands")]
            self.node.start(wait=False)
            answering(self.node)
            rewrite(self.node)
            measured.append(self._shape("base"))
        finally:
            self.cluster.stop()
        return measured

    def _shape(self, shape: str) -> dict[str, Any]:
        store = self.root / "store"
        collected = self._backup("collect", NAME, "--data", self.data, "--store", store)
        self.node.kill()  # it shall not take part in what is measured
        source = _listed(self.data)
        rounds = [self._round(number, store, source) for number in range(self.rounds)]
        shutil.rmtree(store)
        return {
            "megabytes": self.keys * VALUE_BYTES / 1e6,
            "shape": shape,
            "keys": self.held,
            "bytes": sum(path.stat().st_size for path in source),
            **{name: _median(rounds, name) for name in rounds[0]},
            "collect": collected.seconds,
            "collect_mib": collected.mib,
            "rounds": rounds,
        }

    def _round(self, number: int, store: Path, source: list[Path]) -> dict[str, float]:
        steps = [lambda: self._restored(store), lambda: self._copied(source)]
        found: dict[str, float] = {}
        for step in steps if number % 2 == 0 else reversed(steps):
            found |= step()
        ours, plain = found["restore"] + found["load_restored"], found["copy"] + found["load_copied"]
        return {**found, "ratio": ours / plain}

    def _restored(self, store: Path) -> dict[str, float]:
        directory = self.root / "restored"
        directory.mkdir()
        _forget([path for path in store.rglob("*") if path.is_file()])
        wait = ["sh", "-c", 'sleep "$0" && exec "$@"', str(self.slower)] if self.slower else []
        words = ("--store", store, "--to", "newest", "--into", directory / "data")
        done = self._backup("restore", *words, before=wait)
        return {"restore": done.seconds, "restore_mib": done.mib, "load_restored": self._load(directory)}

    def _copied(self, source: list[Path]) -> dict[str, float]:
        directory = self.root / "copied"
        target = directory / "data" / aof_files.DIRECTORY
        target.mkdir(parents=True)
        _forget(source)
        seconds = timed(lambda: [_copy(path, target) for path in source])
        return {"copy": seconds, "load_copied": self._load(directory)}

    def _backup(self, *words: object, before: list[str] | None = None) -> Ran:
        command = [*(before or []), *HOLDFAST, "backup", *map(str, words)]
        return run(command, self.cluster.env("cp"), self.root)

    def _load(self, directory: Path) -> float:
        """Seconds from the start of redis-server to its first PONG. Removes ``directory``."""
        node = Node("loading", directory)
        node.extra = SHIPPED
        try:
            seconds = timed(lambda: (node.start(wait=False), answering(node)))
            found = client_of(node).dbsize()
        finally:
            node.kill()
        if found != self.held:
            raise RuntimeError(f"{directory} has {found} keys after its load, the node had {self.held}")
        shutil.rmtree(directory)
        return seconds


def answering(node: Node) -> None:
    client = node.client()

    def pings() -> bool:
        if node.process is not None and node.process.poll() is not None:
            raise RuntimeError(f"{node.name} ended: {(node.directory / 'redis.log').read_text()[-500:]}")
        try:
            return bool(client.ping())
        except redis.RedisError:  # not yet there, or LOADING
            return False

    wait_for(f"{node.name} answers", pings, PATIENCE_SEC)


def _listed(data: Path) -> list[Path]:
    """What Redis would load, and the manifest."""
    directory = data / aof_files.DIRECTORY
    manifest = directory / aof_files.MANIFEST
    return [directory / name for name in aof_files.parse_manifest(manifest.read_text()).files] + [manifest]


def _forget(paths: list[Path]) -> None:
    """Read once, and out of the page cache, so that they are read from the disk."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(BLOCK):
                pass
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _copy(path: Path, target: Path) -> None:
    with path.open("rb") as source, (target / path.name).open("wb") as out:
        while block := source.read(BLOCK):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(one[name] for one in rounds)


def table(measured: list[dict[str, Any]], rounds: int) -> str:
    lines = [
        f"seconds, medians of {rounds} alternating rounds; ratio = (restore + load) / (copy + load)",
        "",
        "| values | kept as | on disk | ratio | restore | load | copy | load | collect | MiB: restore | collect |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in measured:
        names = ("restore", "load_restored", "copy", "load_copied", "collect")
        seconds = " | ".join(f"{one[name]:.2f}" for name in names)
        lines.append(
            f"| {one['megabytes']:.0f} MB | {one['shape']} | {one['bytes'] / 1e6:.0f} MB | **{one['ratio']:.2f}** "
            f"| {seconds} | {one['restore_mib']:.0f} | {one['collect_mib']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10,100,1000", help="MB of values, a thousand keys each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--slower", type=float, default=0.0, metavar="SECONDS", help="a check of this: slow restores")
    given = parser.parse_args()
    counts = [round(float(size) * 1e6 / VALUE_BYTES) for size in given.sizes.split(",")]
    why = missing("redis-server", "redis-cli") or no_room(
        given.directory, COPIES * RECORD_BYTES * max(counts), f"{max(counts) * VALUE_BYTES / 1e6:.0f} MB of values"
    )
    if why:
        print(f"benchmark: {why}", file=sys.stderr)
        return 2
    measured = []
    for keys in counts:
        with tempfile.TemporaryDirectory(prefix="holdfast-restore-", dir=given.directory) as root:
            measured += Bench(Path(root), keys, given.rounds, given.slower).measure()
    print(table(measured, given.rounds))
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How much a running backup adds to the service's p99, and how much memory the processes of a backup take.

    PYTHONPATH=app/src python app/benchmarks/backup_load.py [--pairs 5] [--seconds 30] [--no-census] [--anew]

Three real nodes as deployed (`appendfsync always`), filled; `holdfast serve` CP; 200 requests a second, writes and
reads in turns, by wrk: 64 connections that pause at random, so the pace hardly follows how fast answers come. Windows
alternate without and with backups: of one node after the other, without a rest, with the priorities of the unit
holdfast-backup@ (idle, for processor and disk): `collect --census`, then `restic backup` if there is restic, into a
repository in memory (--repository: elsewhere), as that is on another machine otherwise. On hosts there are minutes
between two backups, a census once a day only (--no-census: none), and a machine for each node. `watch` runs all the
time. With --anew each backup is a node's first one: all its data is read, copied and encrypted.
Prints each pair, p99 ratios first, and a line of JSON. Exit codes: 1 an answer was an error, or a step failed,
2 not started: a tool or room on the disk is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import targets
from backup_steps import HOLDFAST, RECORD_BYTES, SHIPPED, fill, missing, no_room, run
from cluster import Node, wait_for
from load import CONNECTIONS, KEYS, Measured
from load import run as load

RATE = 200
#: As holdfast-backup@.service and the program that it starts have it.
IDLE = ["chrt", "--idle", "0", "ionice", "-c", "3"]
RESTIC_ENV = {"GOMEMLIMIT": "200MiB", "GOMAXPROCS": "1", "RESTIC_PASSWORD": "of-a-benchmark"}
#: On hosts the repository is on another machine's disk.
MEMORY = Path("/dev/shm")  # noqa: S108
#: The nodes' files (with a rewrite's), the stores and the repository, of three nodes.
COPIES = 3 * 5


class Job(threading.Thread):
    """Backups of the nodes in turns until it is told to end; the last one is finished. ``problem``: why one failed."""

    def __init__(self, backup: Callable[[str], None], names: list[str]) -> None:
        super().__init__()
        self._backup, self._names, self._over = backup, names, threading.Event()
        self.count, self.problem = 0, ""

    def run(self) -> None:
        while not self._over.is_set():
            try:
                self._backup(self._names[self.count % len(self._names)])
            except (RuntimeError, OSError) as why:
                self.problem = str(why)
                return
            self.count += 1

    def end(self) -> None:
        self._over.set()
        self.join()
        if self.problem:
            raise RuntimeError(self.problem)


class Bench:
    def __init__(self, root: Path, repository: Path, census: bool, anew: bool, disturb: bool) -> None:
        self.root, self.repository, self.anew = root, repository, anew
        self.census = ["--census"] if census else []
        self.targets = targets.Targets(root, workers=os.cpu_count() or 1)
        self.cluster = self.targets.cluster
        self.names = list(self.cluster.nodes)
        self.restic = shutil.which("restic")
        self.peaks: dict[str, float] = {}
        self.watches: dict[str, subprocess.Popen[bytes]] = {}
        self._action = self._disturb if disturb else self._backup

    def measure(self, keys: int, pairs: int, seconds: int) -> dict[str, Any]:
        try:
            return self._measure(keys, pairs, seconds)
        finally:
            for process in self.watches.values():
                process.terminate()
                process.wait()
            self.targets.stop()

    def _measure(self, keys: int, pairs: int, seconds: int) -> dict[str, Any]:
        for node in self.cluster.nodes.values():
            node.extra = SHIPPED
        self.targets.nodes()
        for node in self.cluster.nodes.values():
            fill(node, keys)
        for name, node in self.cluster.nodes.items():
            self._watch(name, node)
        if self.restic:
            self._restic("init")
        if not self.anew:
            for name in self.names:
                self._backup(name)
        app = self.targets.service("cp")
        url = f"http://127.0.0.1:{app.port}"
        sent = 0.0
        while sent < 2 * KEYS:  # through all keys, so that no read is a 404
            sent += load(url, targets.WRITE, 1, self.root).rate
        calm = self._window(url, seconds, CONNECTIONS / RATE * 1000)
        pause = CONNECTIONS / RATE * 1000 - calm.p50
        self.peaks.clear()
        found, backups = [], 0
        for number in range(pairs):
            pair: dict[str, Measured] = {}
            for kind in ("without", "with") if number % 2 == 0 else ("with", "without"):
                if kind == "without":
                    pair[kind] = self._window(url, seconds, pause)
                    continue
                job = Job(self._action, self.names)
                job.start()
                try:
                    pair[kind] = self._window(url, seconds, pause)
                finally:
                    job.end()
                backups += job.count
            found.append(pair)
        for name, process in self.watches.items():
            self.peaks["watch"] = max(self.peaks.get("watch", 0.0), _most(process.pid))
            if process.poll() is not None:
                raise RuntimeError(f"the watch of {name} ended")
        return {
            "ratio_p99": statistics.median(p["with"].p99 / p["without"].p99 for p in found),
            "ratio_p50": statistics.median(p["with"].p50 / p["without"].p50 for p in found),
            "backups": backups,
            "peak_mib": self.peaks,
            "errors": sum(m.errors for p in found for m in p.values()),
            "pairs": [{kind: asdict(m) for kind, m in p.items()} for p in found],
        }

    def _window(self, url: str, seconds: int, pause_ms: float) -> Measured:
        time.sleep(0.5)  # what came before is over
        return load(url, (targets.WRITE, targets.READ), seconds, self.root, pause_ms)

    def _watch(self, name: str, node: Node) -> None:
        places = ["--data", str(node.directory / "data"), "--store", str(self._store(name))]
        log = (self.root / "watch.log").open("ab")
        command = [*HOLDFAST, "backup", "watch", *places]
        self.watches[name] = subprocess.Popen(command, env=self.cluster.env("cp"), stdout=log, stderr=log)  # noqa: S603
        held = self._store(name) / "held"
        wait_for(f"the watch of {name} holds files", lambda: list(held.glob("2*/seen.jsonl")), 30)

    def _store(self, name: str) -> Path:
        return self.root / f"store-{name}"

    def _backup(self, name: str) -> None:
        store = self._store(name)
        if self.anew:
            for directory in (store / "sets", store / "files"):
                shutil.rmtree(directory, ignore_errors=True)
            if self.restic:
                shutil.rmtree(self.repository, ignore_errors=True)
                self._restic("init")
        data = self.cluster.nodes[name].directory / "data"
        collect = [*HOLDFAST, "backup", "collect", name, "--data", str(data), "--store", str(store), *self.census]
        done = run([*IDLE, *collect], self.cluster.env("cp"), self.root)
        self._note(" ".join(["collect", *self.census]), done.mib)
        if self.restic:
            marks = ["--host", "benchmark", "--tag", name]
            places = [str(store / "sets"), str(store / "files")]
            self._note("restic backup", self._restic("backup", "--ignore-ctime", *marks, *places))

    def _restic(self, *words: str) -> float:
        """MiB."""
        common = ["-r", str(self.repository), "--cache-dir", str(self.root / "cache"), "--quiet"]
        return run([*IDLE, "restic", *common, *words], {**os.environ, **RESTIC_ENV}, self.root).mib

    def _disturb(self, _name: str) -> None:
        """Instead of a backup: no majority for 150 ms."""
        stopped = [self.cluster.nodes[name] for name in self.names[1:]]
        for node in stopped:
            node.signal(signal.SIGSTOP)
        time.sleep(0.15)
        for node in stopped:
            node.signal(signal.SIGCONT)
        time.sleep(0.35)

    def _note(self, name: str, mib: float) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0.0), mib)


def _most(pid: int) -> float:
    """MiB of memory that a running process had at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has ended")


def table(result: dict[str, Any]) -> str:
    lines = [
        f"p99 with backups / without, median of {len(result['pairs'])} pairs: **{result['ratio_p99']:.2f}**; "
        f"p50: {result['ratio_p50']:.2f}; {result['backups']} backups; {result['errors']} errors",
        "",
        "| pair | p99 ratio | p99 without, with, ms | p50 without, with, ms | requests/s |",
        "| ---: | ---: | --- | --- | --- |",
    ]
    for number, pair in enumerate(result["pairs"], 1):
        without, beside = pair["without"], pair["with"]
        both = (f"{without[v]:.1f}, {beside[v]:.1f}" for v in ("p99", "p50", "rate"))
        lines.append(f"| {number} | {beside['p99'] / without['p99']:.2f} | {' | '.join(both)} |")
    lines += ["", "most memory: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in result["peak_mib"].items())]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=30, help="of each window")
    parser.add_argument("--keys", type=int, default=100_000, help="of 1,000 bytes, on each node")
    parser.add_argument("--no-census", action="store_true", help="as all backups but one a day")
    parser.add_argument("--anew", action="store_true", help="each backup a first one, of all data")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--repository", type=Path, default=MEMORY, metavar="DIR", help="where restic's is made")
    parser.add_argument("--disturb", action="store_true", help="a check of this: nodes that stall instead of backups")
    given = parser.parse_args()
    what = f"{given.keys} keys on three nodes"
    why = missing("redis-server", "redis-cli", "wrk", "chrt", "ionice")
    why = why or no_room(given.directory, COPIES * RECORD_BYTES * given.keys, what)
    why = why or no_room(given.repository, 3 * RECORD_BYTES * given.keys, what)
    if why:
        print(f"benchmark: {why}", file=sys.stderr)
        return 2
    prefix = "holdfast-backup-load-"
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=given.directory) as root,
        tempfile.TemporaryDirectory(prefix=prefix, dir=given.repository) as remote,
    ):
        bench = Bench(Path(root), Path(remote) / "repository", not given.no_census, given.anew, given.disturb)
        result = bench.measure(given.keys, given.pairs, given.seconds)
    print(table(result))
    print(json.dumps(result))
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures the service beside an empty route, etcd and webdis, in one run on one machine; prints a Markdown table.

    python app/benchmarks/run.py [--quick] [--rounds 3] [--seconds 5] [--only cp,ap,empty,etcd,webdis]

Needs redis-server, wrk and, unless left out, etcd and webdis (Debian: redis-server, wrk, etcd-server, webdis).
Everything is on: tokens, the limiter counts, metrics, audit, and every store is on disk before it is acknowledged.
The rounds alternate over all targets; figures are medians. "At half" is with pauses on each
connection so that about half of the peak is asked for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import targets
from load import CONNECTIONS, KEYS, Measured, Requests, run

WANTED = ("cp", "ap", "empty", "etcd", "webdis")
COMMANDS = {"etcd": ("etcd",), "webdis": ("webdis",)}


@dataclass
class Row:
    name: str
    url: str
    what: Requests
    peak: list[Measured] = field(default_factory=list)
    half: list[Measured] = field(default_factory=list)

    def median(self, runs: list[Measured], value: str) -> float:
        return statistics.median(getattr(m, value) for m in runs)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of a second: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default=",".join(WANTED))
    given = parser.parse_args(argv)
    if given.quick:
        given.rounds, given.seconds = 1, 1
    only = given.only.split(",")
    missing = [
        c for c in ("redis-server", "wrk", *(c for o in only for c in COMMANDS.get(o, ()))) if not shutil.which(c)
    ]
    if missing or not set(only) <= set(WANTED):
        print(
            f"benchmark: needs {', '.join(missing) or 'known names in --only'}: install it or use --only",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as directory:
        started = targets.Targets(Path(directory), given.workers)
        try:
            started.nodes()
            return measure(started, only, given.rounds, given.seconds)
        finally:
            started.stop()


def measure(started: targets.Targets, only: list[str], rounds: int, seconds: int) -> int:
    rows: list[Row] = []
    apps = {}
    for mode in ("cp", "ap"):
        if mode in only:
            apps[mode] = started.service(mode)
            url = f"http://127.0.0.1:{apps[mode].port}"
            rows += [Row(f"{mode} write", url, targets.WRITE), Row(f"{mode} read", url, targets.READ)]
    if "empty" in only:
        rows.append(Row("empty route", started.empty_route(), targets.EMPTY))
    if "etcd" in only:
        url = started.etcd()
        rows += [Row("etcd write", url, targets.ETCD_WRITE), Row("etcd read", url, targets.ETCD_READ)]
    if "webdis" in only:
        url = started.webdis()
        rows += [Row("webdis write", url, targets.WEBDIS_WRITE), Row("webdis read", url, targets.WEBDIS_READ)]
    for row in rows:  # writes come first and go through all keys, so that no read is a 404
        sent = 0.0
        while sent < 2 * KEYS:
            sent += run(row.url, row.what, 1, started.root).rate
    for _round in range(rounds):
        for row in rows:
            row.peak.append(run(row.url, row.what, seconds, started.root))
    for row in rows:
        pause = CONNECTIONS / row.median(row.peak, "rate") * 2 * 1000
        pause = max(0.1, pause - row.median(row.peak, "p50") / 2)
        for _round in range(rounds):
            row.half.append(run(row.url, row.what, seconds, started.root, pause))
    report(rows, apps, started.workers, rounds, seconds)
    return 1 if any(m.errors for row in rows for m in row.peak + row.half) else 0


def report(rows: list[Row], apps: dict[str, targets.App], workers: int, rounds: int, seconds: int) -> None:
    rates = {row.name: row.median(row.peak, "rate") for row in rows}
    print(f"\n{workers} workers, {CONNECTIONS} connections, medians of {rounds} alternating runs of {seconds} s\n")
    print("| what | requests/s | p50 ms | p99 ms | at half: requests/s | p50 ms | p99 ms | ratio | errors |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |")
    for row in rows:
        face, _, kind = row.name.partition(" ")
        base = {"cp": f"etcd {kind}", "ap": "empty route"}.get(face)
        ratio = f"{rates[row.name] / rates[base]:.2f} x {base}" if base in rates else ""
        cells = [f"{row.median(row.peak, v):.{d}f}" for v, d in (("rate", 0), ("p50", 1), ("p99", 1))]
        cells += [f"{row.median(row.half, v):.{d}f}" for v, d in (("rate", 0), ("p50", 1), ("p99", 1))]
        errors = sum(m.errors for m in row.peak + row.half)
        print(f"| {row.name} | {' | '.join(cells)} | {ratio} | {errors} |")
    for mode, app in apps.items():
        sizes = ", ".join(f"{size:.0f}" for size in targets.pss_per_worker(app))
        print(f"\nMemory of the {mode} workers afterwards (PSS): {sizes} MiB")


if __name__ == "__main__":
    sys.exit(main())

"""How fast a backlog of AP writes drains, beside what one Redis can take at most. One command, prints a table.

    PYTHONPATH=app/src python app/benchmarks/backlog.py [--entries 1000000] [--json]

Real redis-server processes on loopback with `appendfsync always`. While the reading zone's replicator is away,
`entries` writes are made on one node through the service's own script; then `holdfast replicate` is started and timed
from the first moved cursor to the last. In the same run the same rows are put into an empty node by `redis-cli --pipe`:
once as one HSET a row (the most one Redis can apply), once as HGET and HSET (what last-writer-wins has to do for a row
at the least). Everything shares the machine's cores, as the real thing would not; read the ratios.
Exit code 1: what arrived is not what was written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from cluster import PASSWORD, App, Cluster, Node, wait_for

from holdfast import scripts
from holdfast.guard import Guard

ORIGIN, READER, REFERENCE = "db_g1", "db_g2", "db_g3"
#: Distinct keys: every key is written about twice, so that the drain meets both new and held keys.
WRITES_PER_KEY = 2
VALUE = "v" * 100
_FIELDS = ("state", "region", "node", "region_epoch", "membership_epoch", "incarnation")


def row(number: int, entries: int) -> tuple[str, str]:
    """(key, value) of a write."""
    return f"customer:{number % max(1, entries // WRITES_PER_KEY):08d}:profile", f"{VALUE}{number}"


def patient(node: Node) -> Any:
    """A client that waits: on a busy machine a thousand writes, or emptying a node, take their time."""
    client = node.client()
    client.connection_pool.connection_kwargs["socket_timeout"] = 120
    return client


def fill(node: Node, entries: int) -> float:
    """Writes per second, through ap_write.lua in pipelines of 1000."""
    client = patient(node)
    guard = Guard.from_fields(client.hmget(scripts.GUARD, *_FIELDS))
    if guard is None:
        raise SystemExit(f"{node.name} has no guard: the bootstrap failed")
    sha = client.script_load(scripts.AP_WRITE.source)
    started = time.monotonic()
    for first in range(0, entries, 1000):
        pipe = client.pipeline(transaction=False)
        for number in range(first, min(entries, first + 1000)):
            key, value = row(number, entries)
            keys = [scripts.GUARD, scripts.ap_key(key), scripts.OUTBOX, scripts.AP_STATE]
            pipe.evalsha(sha, len(keys), *keys, *guard.expectation(), "v", value, key, "0" * 16, 500, "")
        pipe.execute()
    return entries / (time.monotonic() - started)


def encoded(entries: int, read_first: bool) -> Iterator[bytes]:
    def command(*parts: str) -> bytes:
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p.encode()) for p in parts)

    for number in range(entries):
        key, value = row(number, entries)
        if read_first:
            yield command("HGET", f"ref:{key}", "ver")
        yield command("HSET", f"ref:{key}", "ver", f"00000001.{number:016x}.{ORIGIN}", "k", "v", "v", value)


def reference(node: Node, entries: int, read_first: bool, directory: Path) -> float:
    """Rows per second that `redis-cli --pipe` gets into an empty node."""
    patient(node).flushall()
    source = directory / "rows.resp"
    with source.open("wb") as out:
        out.writelines(encoded(entries, read_first))
    command = ["redis-cli", "-p", str(node.port), "--user", "tester", "--pass", PASSWORD, "--no-auth-warning", "--pipe"]
    started = time.monotonic()
    with source.open("rb") as rows:
        done = subprocess.run(command, stdin=rows, capture_output=True, text=True, check=False)  # noqa: S603
    seconds = time.monotonic() - started
    source.unlink()
    if done.returncode != 0 or "errors: 0" not in done.stdout:
        raise SystemExit(f"redis-cli --pipe failed: {done.stdout} {done.stderr}")
    return entries / seconds


def position(node: Node) -> int:
    raw = patient(node).hget("holdfast:peers", ORIGIN)
    return int(raw.split()[1]) if raw else 0


def drain(cluster: Cluster, entries: int) -> tuple[float, float]:
    """(rows per second, CPU seconds of the replicator)."""
    reader = cluster.nodes[READER]
    before = position(reader)
    replicator = cluster.run("replicate", "ap", READER)
    started, first = 0.0, before
    while True:
        now = position(reader)
        if not started and now > before:
            started, first = time.monotonic(), now
        if now >= entries:
            break
        time.sleep(0.01)
    seconds = max(time.monotonic() - started, 0.001)
    cpu = cpu_seconds(replicator)
    replicator.stop()
    return max(entries - first, 1) / seconds, cpu


def cpu_seconds(app: App) -> float:
    fields = Path(f"/proc/{app.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def same(cluster: Cluster) -> bool:
    """Do both nodes hold the same values? Compared by Redis's own digest of each value, keys in any order."""
    digests = []
    for name in (ORIGIN, READER):
        client, total = patient(cluster.nodes[name]), 0
        batch: list[bytes] = []
        for key in [*client.scan_iter("ap:*", count=1000), b""]:
            batch.append(key)
            if len(batch) == 1000 or key == b"":
                for digest in client.execute_command("DEBUG", "DIGEST-VALUE", *filter(None, batch)) if batch[0] else []:
                    total ^= int(digest, 16)
                batch = []
        digests.append(total)
    return digests[0] == digests[1] != 0


def measure(entries: int, directory: Path) -> dict[str, Any]:
    cluster = Cluster(directory)
    try:
        for node in cluster.nodes.values():
            node.extra = ["enable-debug-command local"]
        cluster.start()
        first = cluster.run("replicate", "ap", READER)
        wait_for("first merge", lambda: first.metric(f'ap_full_merges_total{{node="{ORIGIN}"}}') == 1)
        first.stop()
        filled = fill(cluster.nodes[ORIGIN], entries)
        rate, cpu = drain(cluster, entries)
        intact = same(cluster)
        most = reference(cluster.nodes[REFERENCE], entries, False, directory)
        least_work = reference(cluster.nodes[REFERENCE], entries, True, directory)
    finally:
        cluster.stop()
    return {
        "entries": entries,
        "written_per_second": round(filled),
        "drained_per_second": round(rate),
        "replicator_cpu_seconds": cpu,
        "hset_per_second": round(most),
        "hget_and_hset_per_second": round(least_work),
        "ratio_to_hset": round(rate / most, 2),
        "ratio_to_hget_and_hset": round(rate / least_work, 2),
        "intact": intact,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Drain of an AP backlog, beside what one Redis can apply.")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--directory", help="where the nodes keep their data meanwhile (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        result = measure(arguments.entries, Path(directory))
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:26} {value:>12}")
    return 0 if result["intact"] else 1


if __name__ == "__main__":
    sys.exit(main())

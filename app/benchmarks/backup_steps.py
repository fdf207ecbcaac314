"""What the benchmarks of the backup share: a node full of records, and a command with the most memory it had."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

import redis
from cluster import PASSWORD, Node, wait_for

#: What a deployed node has and those of the tests do not have anyway.
SHIPPED = ["aof-timestamp-enabled yes", "no-appendfsync-on-rewrite no"]
VALUE_BYTES = 1000
#: A key is a hash with its version; so much of it is in the append-only file, and a little more in memory.
RECORD_BYTES = 1150
HOLDFAST = [sys.executable, "-m", "holdfast"]
#: For what grows with the data: loading, rewriting, copying.
PATIENCE_SEC = 900.0
_PEAK = Path(__file__).with_name("peak.py")


@dataclass(frozen=True)
class Ran:
    """``mib``: the most it had in memory at once. ``events``: its JSON lines."""

    seconds: float
    mib: float
    events: list[dict[str, Any]]


def run(command: Sequence[str], env: Mapping[str, str], scratch: Path) -> Ran:
    """Raises RuntimeError with what it said if it fails. One at a time in ``scratch``."""
    note = scratch / "peak.json"
    launch = [sys.executable, "-I", "-S", str(_PEAK), str(note), *command]
    done = subprocess.run(launch, env=env, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout} {done.stderr}")
    seen = json.loads(note.read_text())
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Ran(seen["seconds"], seen["kib"] / 1024, lines)


def no_room(directory: Path, needed: int, why: str) -> str:
    """Cause and cure, or ''. A tenth of the disk must stay free, or `collect` refuses."""
    space = shutil.disk_usage(directory)
    wanted = needed + space.total // 10
    if space.free >= wanted:
        return ""
    return (
        f"{directory} has {space.free / 1e9:.1f} GB free, {why} needs {wanted / 1e9:.1f} GB: make room, "
        "name a directory on a larger disk (--directory), or ask for less"
    )


def missing(*programs: str) -> str:
    """Cause and cure, or ''."""
    away = [program for program in programs if not shutil.which(program)]
    return f"needs {', '.join(away)}: install it (Debian: redis-server, wrk)" if away else ""


def client_of(node: Node) -> redis.Redis:
    """One that waits: to fill or rewrite a large node takes its time."""
    client = node.client()
    client.connection_pool.connection_kwargs["socket_timeout"] = PATIENCE_SEC
    return client


def fill(node: Node, keys: int) -> None:
    """``keys`` registers as the service keeps them, half of each face; the same on every node that is filled so.

    Only meanwhile is the file synced each second: to fill a node is not what is measured.
    """
    client = client_of(node)
    client.config_set("appendfsync", "everysec")
    command = ["redis-cli", "-p", str(node.port), "--user", "tester", "--pipe"]
    env = {**os.environ, "REDISCLI_AUTH": PASSWORD}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as pipe:  # noqa: S603
        if pipe.stdin is None:
            raise RuntimeError("no pipe")
        for block in _records(keys):
            pipe.stdin.write(block)
        said = pipe.communicate()[0].decode()
    if pipe.returncode != 0 or f"errors: 0, replies: {keys}" not in said:
        raise RuntimeError(f"redis-cli --pipe failed: {said}")
    client.config_set("appendfsync", "always")
    settled(client)


def _records(keys: int) -> Iterator[bytes]:
    values = random.Random(4711)  # noqa: S311  the same on each node, and nothing that can be compressed
    block: list[bytes] = []
    for number in range(keys):
        key, version = b"customer:%08d:profile" % number, b"00000001.%016x." % number
        if number % 2:
            words = [b"HSET", b"ap:" + key, b"ver", version + b"db_g1"]
        else:
            words = [b"HSET", b"cp:" + key, b"t", version + b"0" * 28]
        words += [b"k", b"v", b"v", values.randbytes(VALUE_BYTES)]
        block.append(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        if len(block) == 1000 or number == keys - 1:
            yield b"".join(block)
            block = []


def settled(client: redis.Redis) -> None:
    """No rewrite runs or is about to."""

    def idle() -> bool:
        now = client.info("persistence")
        return not now["aof_rewrite_in_progress"] and not now["aof_rewrite_scheduled"]

    wait_for("no rewrite runs", idle, PATIENCE_SEC, 0.1)


def rewrite(node: Node) -> None:
    client = client_of(node)
    settled(client)
    client.bgrewriteaof()
    time.sleep(0.2)
    settled(client)
    if client.info("persistence")["aof_last_bgrewrite_status"] != "ok":
        raise RuntimeError(f"{node.name} could not rewrite its file")


def timed(action: Callable[[], Any]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began

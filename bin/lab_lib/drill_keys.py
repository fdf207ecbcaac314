"""Fills the CP face with keys as fast as its nodes take them: by the service's own script, the same register on every node."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from . import hosts, paths, roundtrip
from .report import Problem, Step

sys.path.insert(0, str(paths.ROOT / "app" / "src"))

from holdfast import scripts
from holdfast.guard import MEMBER, Guard
from holdfast.tags import Tag

#: Says how many keys were loaded; written last, as a client.
MARK = "__drill:keys"
FIELDS = "state region node region_epoch membership_epoch incarnation"
CHUNK = 2000
#: Two million keys take about three minutes.
FILL_SECONDS = 1800


def key(number: int) -> str:
    return f"__drill:key:{number:08d}"


def value(number: int) -> str:
    """Short enough for Redis's compact encoding, so that a million fit into the lab's nodes."""
    return f"the value of the key with the number {number:08d}"


def tag(number: int, epoch: int, writer: str, clock_ms: int) -> str:
    """The same on every node: ``writer`` is 16 hex digits of this run, and each key has its own sequence number."""
    return str(Tag(epoch, clock_ms, f"{writer}{number:012x}"))


def command(*parts: str) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(data), data) for data in map(str.encode, parts))


def stores(count: int, guard: Guard, writer: str, clock_ms: int) -> Iterator[bytes]:
    """What `redis-cli --pipe` feeds a node with this guard: CP's second phase, once a key."""
    sha = scripts.CP_STORE.sha.decode()
    for first in range(0, count, CHUNK):
        yield b"".join(
            command(
                "EVALSHA", sha, "3", scripts.GUARD, scripts.cp_key(key(number)), scripts.CP_STATE,
                *guard.expectation(), tag(number, guard.region_epoch, writer, clock_ms), "v", value(number), "",
            )
            for number in range(first, min(count, first + CHUNK))
        )  # fmt: skip


class Node:
    """One node, through its container's own redis-cli. ``prefix``: what runs a command in that container."""

    def __init__(self, name: str, prefix: list[str]) -> None:
        self.name, self._cli = name, [*prefix, "redis-cli"]

    def ask(self, *arguments: str, stdin: bytes | None = None) -> str:
        done = subprocess.run([*self._cli, *arguments], input=stdin, capture_output=True, timeout=60)
        if done.returncode != 0:
            raise Problem(f"{self.name} does not answer", "bin/lab repairs the lab", done.stderr.decode(errors="replace")[-300:])
        return done.stdout.decode().strip()

    def guard(self) -> Guard:
        found = Guard.from_fields(self.ask("--raw", "hmget", scripts.GUARD, *FIELDS.split()).split("\n"))
        if found is None or found.state != MEMBER:
            raise Problem(f"{self.name} does not vote: it is {found.state if found else 'without a guard'}", "bin/lab repairs the lab")
        return found

    def fill(self, count: int, writer: str, clock_ms: int) -> None:
        guard = self.guard()
        self.ask("-x", "script", "load", stdin=scripts.CP_STORE.source)
        # A line for each refusal goes into a file: nobody reads a pipe while the keys are written, and redis-cli would wait for ever.
        with tempfile.TemporaryFile() as out:
            code = self._feed(stores(count, guard, writer, clock_ms), out)
            said = _end_of(out)
        if code != 0 or f"errors: 0, replies: {count}" not in said:
            raise Problem(
                f"{self.name} did not take the keys", "bin/lab repairs the lab; above is what Redis said", said or f"exit code {code}"
            )
        self._verify(count, guard, writer, clock_ms)

    def _feed(self, chunks: Iterator[bytes], out: IO[bytes]) -> int:
        """redis-cli's exit code."""
        process = subprocess.Popen(
            [*self._cli, "--pipe", "--pipe-timeout", "120"], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
        )
        timer = threading.Timer(FILL_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:  # what it says tells why
                for chunk in chunks:
                    process.stdin.write(chunk)
            return process.wait()
        finally:
            timer.cancel()
            process.kill()

    def _verify(self, count: int, guard: Guard, writer: str, clock_ms: int) -> None:
        """The script answers a refusal as a list, which --pipe counts as a reply: what is on the node decides."""
        if (now := self.guard()) != guard:
            raise Problem(f"the guard of {self.name} changed while it was filled: {guard} before, {now} now", "bin/lab; then begin again")
        for number in (0, count - 1):
            held = self.ask("--raw", "hget", scripts.cp_key(key(number)), "t")
            if held != tag(number, guard.region_epoch, writer, clock_ms):
                raise Problem(
                    f"{self.name} does not hold {key(number)} as it was written: {held or 'nothing'}", "bin/lab; then begin again"
                )


def _end_of(out: IO[bytes]) -> str:
    out.seek(max(0, out.seek(0, os.SEEK_END) - 400))
    return out.read().decode(errors="replace")


def nodes_of(lab: hosts.Lab, region: str) -> list[Node]:
    found = []
    for host in lab.hosts:
        if host.serves and host.region == region:
            reach = [*hosts.ssh_command(lab, host), "sudo", "docker"]
            listing = [*reach, "ps", "--format", "'{{.Names}}'", "--filter", "name=^db_g"]
            listed = subprocess.run(listing, capture_output=True, text=True, timeout=60)
            found += [Node(name, [*reach, "exec", "-i", name]) for name in sorted(listed.stdout.split())]
    return found


def fill(nodes: list[Node], count: int) -> None:
    """The same registers on all nodes, side by side."""
    writer, now = secrets.token_hex(8), int(time.time() * 1000)
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        list(pool.map(lambda node: node.fill(count, writer, now), nodes))


def loaded(lab: hosts.Lab) -> int:
    """How many keys an earlier run has loaded, 0 for none; asked as a client."""
    status, answer = roundtrip.ask(roundtrip.edges(lab)[0], "cp", "GET", f"/read/{MARK}", role="read")
    return int(str(answer.get("value"))) if status == 200 else 0


def load(lab: hosts.Lab, region: str, count: int, step: Step) -> str:
    """Have so many keys on every node of the region, and read some as a client; returns a note."""
    before = loaded(lab)
    if before > count:
        raise Problem(f"the lab holds {before} keys already, more than {count}", "begin with the fewest; or bin/lab down, then bin/lab")
    if before < count:
        found = nodes_of(lab, region)
        if len(found) != 3:
            raise Problem(f"{region} has {len(found)} nodes that run, and three are needed", "bin/lab repairs the lab")
        step.say(f"{count} keys on {', '.join(node.name for node in found)}")
        fill(found, count)
    look(lab, count)
    if before < count:
        roundtrip.until(time.monotonic() + 20, roundtrip.edges(lab)[0], "cp", "POST", f"/write/{MARK}", body=str(count))
    return "there" if before == count else f"{count} loaded"


def look(lab: hosts.Lab, count: int) -> None:
    """A client reads a hundred of them, through every edge that serves; a Problem when one is not what it was."""
    edges = roundtrip.edges(lab)
    for turn, number in enumerate(range(0, count, max(1, count // 100))):
        edge = edges[turn % len(edges)]
        roundtrip.until(time.monotonic() + 20, edge, "cp", "GET", f"/read/{key(number)}", want=value(number), role="read")


def counted(lab: hosts.Lab, host: hosts.Host) -> dict[str, dict[str, object]]:
    """`holdfast region status` as this host gives it: its own region's nodes, by name."""
    command_there = [*hosts.ssh_command(lab, host), "sudo", "docker", "exec", "app_cp_1", "holdfast", "region", "status"]
    done = subprocess.run(command_there, capture_output=True, text=True, timeout=60)
    found: dict[str, dict[str, object]] = json.loads(done.stdout)["nodes"] if done.returncode == 0 else {}
    return found

"""A census: every key of a node with its version and a checksum of its content, read from the running node itself.

It is what a restored node is compared with, key by key. Taking it reads the whole node through SCAN, a few keys at a
time, so it goes with the daily backup, not with that of every five minutes. While it runs, clients write: it says for
each key what was there at some moment between its begin and its end.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import backup_sets
from .refusals import Damaged

PREFIXES = ((b"cp:", "t"), (b"ap:", "ver"))
#: Keys asked for at once: 16 MiB of values at the most.
BATCH = 16
SCAN_COUNT = 500


class Answers(Protocol):
    def ask(self, commands: tuple[tuple[Any, ...], ...]) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """``kind``: v a value, d a deleted one. ``content``: checksum of the value. All empty: there is no such key."""

    key: bytes
    version: str
    kind: str
    content: str


@dataclass(frozen=True, slots=True)
class Census:
    """``began`` and ``ended`` by the node's clock, seconds."""

    path: str
    bytes: int
    sha256: str
    began: float
    ended: float
    keys: int

    @staticmethod
    def of(made: backup_sets.Set) -> Census | None:
        about = made.facts.get("census")
        return Census(**about) if about else None


def take(node: Answers, store: Path, name: str) -> Census:
    """Writes ``files/census/<name>.gz``, a line a key."""
    path, draft = f"census/{name}.gz", store / "files" / "census" / ".new"
    draft.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    began, count = _clock(node), 0
    with draft.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="") as out:
        for row in _all(node):
            line = [row.key.decode("latin-1"), row.version, row.kind, row.content]
            out.write(json.dumps(line).encode() + b"\n")
            count += 1
    ended = _clock(node)
    summed = hashlib.sha256()
    with draft.open("rb") as written:
        os.fsync(written.fileno())
        while block := written.read(backup_sets.BLOCK):
            summed.update(block)
    size = draft.stat().st_size
    draft.replace(store / "files" / path)
    return Census(path, size, summed.hexdigest(), began, ended, count)


def rows(store: Path, census: Census) -> Iterator[Row]:
    """Checks the file first. Raises Damaged."""
    path = store / "files" / census.path
    for _block in backup_sets.check(path, census.bytes, census.sha256):
        pass
    with gzip.open(path, "rb") as lines:
        for line in lines:
            try:
                key, version, kind, content = json.loads(line)
            except ValueError:
                raise Damaged(f"{path} is damaged", backup_sets.CURE) from None
            yield Row(key.encode("latin-1"), version, kind, content)


def look(node: Answers, keys: list[bytes]) -> list[Row]:
    """At most ``BATCH`` keys, as the node has them now."""
    fields = [next(f for p, f in PREFIXES if key.startswith(p)) for key in keys]
    answers = node.ask(tuple(("HMGET", k, f, "k", "v") for k, f in zip(keys, fields, strict=True)))
    found = []
    for key, (version, kind, value) in zip(keys, answers, strict=True):
        content = hashlib.sha256(value or b"").hexdigest()[:32] if version else ""
        found.append(Row(key, (version or b"").decode("latin-1"), (kind or b"").decode("latin-1"), content))
    return found


def _all(node: Answers) -> Iterator[Row]:
    """A key may come twice; a key that is there all the time comes at least once."""
    cursor = b"0"
    while True:
        cursor, names = node.ask((("SCAN", cursor, "COUNT", SCAN_COUNT),))[0]
        wanted = [n for n in names if n.startswith(tuple(p for p, _ in PREFIXES))]
        for at in range(0, len(wanted), BATCH):
            yield from (row for row in look(node, wanted[at : at + BATCH]) if row.version)
        if cursor in (b"0", "0", 0):
            return


def _clock(node: Answers) -> float:
    seconds, micros = node.ask((("TIME",),))[0]
    return int(seconds) + int(micros) / 1e6

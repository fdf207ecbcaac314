"""Redis's append-only files as they lie on disk: the manifest, the base, and the commands of an incremental file.

Redis 7 and later write a base (all that was there when the last rewrite began) and incremental files (every write
since). With ``aof-timestamp-enabled yes`` a line ``#TS:<second>`` stands before the first command of each second, by
the node's clock at the start of the command: what stands before ``#TS:n`` ran before n or was begun before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

from .refusals import Damaged

DIRECTORY = "appendonlydir"
MANIFEST = "appendonly.aof.manifest"
BLOCK = 1024 * 1024
#: A header line is "*<number>", "$<number>" or an annotation.
_HEADER = 128
_STAR, _DOLLAR, _HASH = b"*$#"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_CURE = "look at the node's disk and log; `redis-check-aof` on a copy says more"


@dataclass(frozen=True, slots=True)
class Listing:
    """A manifest: what Redis would load, in that order. ``history``: files it is about to delete."""

    base: str | None
    incrs: tuple[str, ...]
    history: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        return (*((self.base,) if self.base else ()), *self.incrs)


def parse_manifest(text: str) -> Listing:
    """Lines are pairs of words: file, seq, type, in later versions of Redis more. Raises Damaged."""
    base: str | None = None
    found: dict[str, list[str]] = {"i": [], "h": []}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        words = line.split()
        pairs = dict(zip(words[::2], words[1::2], strict=False))
        name, kind = pairs.get("file", ""), pairs.get("type")
        if len(words) % 2 or not _NAME.fullmatch(name) or name.startswith(".") or kind not in ("b", "i", "h"):
            raise Damaged(f"the manifest has the line {line[:80]!r}", _CURE)
        if kind == "b":
            base = name
        else:
            found[kind].append(name)
    return Listing(base, tuple(found["i"]), tuple(found["h"]))


def manifest_text(base: str | None, incrs: list[str]) -> str:
    lines = [f"file {base} seq 1 type b"] if base else []
    lines += [f"file {name} seq {number} type i" for number, name in enumerate(incrs, 1)]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Scanned:
    """``end``: after the last whole command or transaction. ``marks``: (second, offset) of each annotation before it.
    ``commands``: how many; ``unmarked``: the first one stood before any annotation."""

    end: int
    marks: tuple[tuple[int, int], ...]
    commands: int
    unmarked: bool


class NoCommand(Damaged):
    """``offset``: where one should begin. What is before it can be read."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the append-only file holds no command at byte {offset}", _CURE)
        self.offset = offset


class _Walk:
    """A window on the file that only moves forward."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.file, self.end, self.at, self.data = file, end, start, b""
        file.seek(start)

    def more(self, keep: int) -> bool:
        """Drop what is before ``keep`` and read on. False: the end is reached."""
        self.data, self.at = self.data[keep:], self.at + keep
        chunk = self.file.read(min(BLOCK, self.end - self.at - len(self.data)))
        self.data += chunk
        return bool(chunk)

    def jump(self, to: int) -> bool:
        """Go on at ``to``, an offset in the file. False: that is behind the end."""
        if to > self.end:
            return False
        self.file.seek(to)
        self.at, self.data = to, b""
        return True


def scan(file: BinaryIO, start: int, end: int) -> Scanned:
    """Walk the commands from ``start``, which is between two, to the last whole one before ``end``.

    In memory: a block, however large values are. A cut inside MULTI ... EXEC would make Redis refuse the file, so a
    transaction counts as one command. Raises Damaged where no command is.
    """
    walk = _Walk(file, start, end)
    pos = left = argc = commands = 0
    whole, begun = start, start
    transaction, first_unmarked = False, False
    marks: list[tuple[int, int]] = []
    while True:
        line = walk.data.find(b"\r\n", pos, pos + _HEADER)
        if line < 0:
            if len(walk.data) - pos >= _HEADER:
                raise NoCommand(walk.at + pos)
            if not walk.more(pos):
                break
            pos = 0
            continue
        kind, number = walk.data[pos], walk.data[pos + 1 : line]
        if left:
            if kind != _DOLLAR or not number.isdigit():
                raise NoCommand(walk.at + pos)
            after = line + 4 + int(number)
            if argc == 1 and after > len(walk.data) and after - pos < BLOCK:
                if not walk.more(pos):
                    break
                pos = 0
                continue
            verb = walk.data[line + 2 : after - 2].upper() if argc == 1 else b""
            if after <= len(walk.data):
                if walk.data[after - 2 : after] != b"\r\n":
                    raise NoCommand(walk.at + pos)
                pos = after
            elif walk.jump(walk.at + after):
                pos = 0
            else:
                break
            left -= 1
            if left:
                continue
            if not commands and not marks:
                first_unmarked = True
            commands += 1
            if verb == b"MULTI":
                transaction = True
            elif verb == b"EXEC":
                transaction = False
            if not transaction:
                whole = begun = walk.at + pos
        elif kind == _STAR and number.isdigit() and int(number) > 0:
            argc = left = int(number)
            pos = line + 2
        elif kind == _HASH:
            if number.startswith(b"TS:"):
                # Inside a transaction there is no place to cut: the mark counts from where the transaction began.
                marks.append((_second(number, walk.at + pos), begun if transaction else walk.at + pos))
            pos = line + 2
            if not transaction:
                whole = begun = walk.at + pos
        else:
            raise NoCommand(walk.at + pos)
    return Scanned(whole, tuple(m for m in marks if m[1] < whole), commands, first_unmarked)


def _second(number: bytes, offset: int) -> int:
    if not number[3:].isdigit():
        raise NoCommand(offset)
    return int(number[3:])


def base_made(head: bytes) -> int | None:
    """The second at which the base began to be written, from its first 512 bytes; None: it does not say."""
    if not head.startswith(b"REDIS"):
        found = re.match(rb"#TS:(\d+)\r\n", head)  # a base of commands (aof-use-rdb-preamble no)
        return int(found[1]) if found else None
    at = head.find(b"\xfa\x05ctime")
    if at < 0 or len(head) < at + 16:
        return None
    value = head[at + 7 : at + 16]
    sizes = {0xC0: 1, 0xC1: 2, 0xC2: 4}  # RDB's integers of 1, 2 and 4 bytes; else a string of digits with its length
    if value[0] in sizes:
        return int.from_bytes(value[1 : 1 + sizes[value[0]]], "little")
    digits = head[at + 8 : at + 8 + value[0]]
    return int(digits) if digits.isdigit() else None

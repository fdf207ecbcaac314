"""`holdfast backup compare`: what a restore would change, before anybody restores.

A restored directory, loaded by a private Redis, is compared with the running node of the same name, key by key: two
passes of SCAN, some hundred keys at a time and without their values, so memory is bounded whatever the node holds.
Only versions are compared: whoever wrote the same value again counts as having changed it. Clients write meanwhile, and
what one node lacks another one may have: the numbers say what an operator has to expect, not what will be to the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..contract import TOMBSTONE
from ..hlc import Version
from . import moments
from .census import PREFIXES, SCAN_COUNT, Answers

BATCH = 200
SHOWN = 20
CHANGED, GONE, BACK = "changed", "gone", "back"


@dataclass(frozen=True, slots=True)
class Held:
    """``kind`` '' and ``version`` '': there is no such key."""

    version: str
    kind: str

    @property
    def lives(self) -> bool:
        return self.version != "" and self.kind != TOMBSTONE


@dataclass(slots=True)
class Face:
    """Keys that a client would find otherwise after the restore. ``newest_ms``: of the newest write that is undone."""

    same: int = 0
    changed: int = 0
    gone: int = 0
    back: int = 0
    newest_ms: int = 0

    def told(self) -> dict[str, Any]:
        newest = moments.shown(self.newest_ms / 1000) if self.newest_ms else None
        counts = {"same": self.same, CHANGED: self.changed, GONE: self.gone, BACK: self.back}
        return counts | {"newest_write_undone": newest}


@dataclass(slots=True)
class Compared:
    faces: dict[str, Face] = field(default_factory=lambda: {"cp": Face(), "ap": Face()})
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, key: bytes, then: Held, now: Held) -> None:
        face = self.faces[key[:2].decode()]
        if then.version == now.version:
            face.same += then.lives
            return
        if now.version > then.version:  # fixed width: the order of the text is the order of versions
            face.newest_ms = max(face.newest_ms, milliseconds(key, now.version))
        if not then.lives and not now.lives:
            return
        what = CHANGED if then.lives and now.lives else BACK if then.lives else GONE
        setattr(face, what, getattr(face, what) + 1)
        if len(self.examples) < SHOWN:
            shown = {"face": key[:2].decode(), "key": key[3:].decode("utf-8", "replace"), "what": what}
            self.examples.append(shown)

    def told(self) -> dict[str, Any]:
        return {name: face.told() for name, face in self.faces.items()} | {"examples": self.examples}


def milliseconds(key: bytes, version: str) -> int:
    """About when it was written: an AP version by its origin's clock, a CP version by its writer's."""
    try:
        return Version.parse(version).milliseconds if key.startswith(b"ap:") else int(version[9:25], 16)
    except ValueError:
        return 0


def compare(then: Answers, now: Answers) -> Compared:
    found = Compared()
    for keys in pages(then):
        for key, old, new in zip(keys, look(then, keys), look(now, keys), strict=True):
            found.add(key, old, new)
    for keys in pages(now):
        for key, old, new in zip(keys, look(then, keys), look(now, keys), strict=True):
            if not old.version:  # the others were seen in the first pass
                found.add(key, old, new)
    return found


def pages(node: Answers, match: str = "*") -> Iterator[list[bytes]]:
    """The service's keys, at most ``BATCH`` at a time. A key may come twice."""
    cursor: bytes = b"0"
    while True:
        cursor, names = node.ask((("SCAN", cursor, "MATCH", match, "COUNT", SCAN_COUNT),))[0]
        wanted = [n for n in names if n.startswith(tuple(p for p, _ in PREFIXES))]
        for at in range(0, len(wanted), BATCH):
            yield wanted[at : at + BATCH]
        if cursor in (b"0", "0", 0):
            return


def look(node: Answers, keys: list[bytes]) -> list[Held]:
    fields = [next(f for p, f in PREFIXES if key.startswith(p)) for key in keys]
    answers = node.ask(tuple(("HMGET", k, f, "k") for k, f in zip(keys, fields, strict=True)))
    return [Held((v or b"").decode("latin-1"), (k or b"").decode("latin-1")) for v, k in answers]

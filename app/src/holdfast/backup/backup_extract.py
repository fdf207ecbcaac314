"""`holdfast backup extract`: keys as they were at a moment, out of a restored directory with a private Redis on it.

A row is ``{"face", "key", "kind", "value", "version"}``, kind "value" or "tombstone", as `region compare` has them.
One node need not hold what a majority acknowledged: extracts of all nodes are put together by their versions
(backup_beside.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import scripts
from ..contract import TOMBSTONE
from .backup_compare import pages
from .census import PREFIXES, Answers
from .refusals import Refused

#: Values at once: 16 MiB at the most.
VALUES = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """``key`` or ``prefix``, as a client names them; the other one is None."""

    face: str
    key: str | None
    prefix: str | None
    most: int


def extract(node: Answers, wanted: Wanted) -> list[dict[str, Any]]:
    """Sorted by key. Raises Refused if there are more than ``wanted.most``, or none."""
    found = sorted(_keys(node, wanted))
    rows = []
    field = dict(PREFIXES)[f"{wanted.face}:".encode()]
    for at in range(0, len(found), VALUES):
        some = found[at : at + VALUES]
        answers = node.ask(tuple(("HMGET", key, field, "k", "v") for key in some))
        rows += [_row(wanted.face, key, *answer) for key, answer in zip(some, answers, strict=True) if answer[0]]
    return rows


def restored_to(node: Answers, name: str = "") -> str:
    """The moment its data was restored to. Raises Refused if it was not, or is not of ``name``."""
    moment, owner = node.ask((("HMGET", scripts.GUARD, "restored_to", "node"),))[0]
    if not moment:
        raise Refused("its data was not restored to a moment", "run `holdfast backup restore` first")
    if name and owner and owner.decode() != name:
        raise Refused(f"the restored data is of {owner.decode()}, not of {name}", "restore this node's backup")
    said: str = moment.decode()
    return said


def _keys(node: Answers, wanted: Wanted) -> Iterator[bytes]:
    if wanted.key is not None:
        yield f"{wanted.face}:{wanted.key}".encode("utf-8", "surrogateescape")
        return
    start = f"{wanted.face}:{wanted.prefix}"
    found: set[bytes] = set()
    for keys in pages(node, re.sub(r"([\\*?\[\]^-])", r"\\\1", start) + "*"):
        for key in keys:
            if key not in found:
                found.add(key)
                yield key
            if len(found) > wanted.most:
                raise Refused(
                    f"more than {wanted.most} keys of {wanted.face} begin with {wanted.prefix!r}",
                    "give a longer prefix, or allow more keys",
                )


def _row(face: str, key: bytes, version: bytes, kind: bytes | None, value: bytes | None) -> dict[str, Any]:
    deleted = kind == TOMBSTONE.encode()
    return {
        "face": face,
        "key": key[3:].decode("utf-8", "surrogateescape"),
        "kind": "tombstone" if deleted else "value",
        "value": None if deleted else (value or b"").decode("utf-8", "surrogateescape"),
        "version": version.decode("latin-1"),
    }

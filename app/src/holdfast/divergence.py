"""AP: do two nodes hold the same entries? Digests, their comparison, and which entries to take, as pure functions.

A digest covers every entry (key, version, kind, value) whose version is at most ``cutoff_ms(cycle)``. All zones derive
the cutoff from the cycle's number, so digests of one cycle cover the same entries whenever each was made. Each entry is
a 64-bit hash, put into one of ``BUCKETS`` by itself; a bucket is the XOR of its hashes, so the order does not matter.

An entry that is overwritten between two nodes' scans makes one bucket differ without any divergence. Therefore buckets
only say where to look: only those that differ in two cycles running are compared key by key, and an entry counts as
missing only if this node *now* holds an older version or none, although replication should have brought it (``due``).
Two contents under one version (rotten bits, a restored file, a bug) must never be; if they are, the one with the larger
``rank`` wins on every node, also when entries are applied (lua/_ap.lua). No I/O, no clock.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .hlc import Version
from .multiprimary import Position

BUCKETS = 1024
HASH_HEX = 16
#: Entries younger than this at the start of a cycle are left out: they may still be on their way.
LAG_MS = 10_000
#: What an origin has not delivered for this long is taken from whoever holds it.
STALLED_MS = 60_000
#: A cycle is over, and nodes' clocks agree, to within this.
COLLECTION_SLACK_MS = 600_000
#: A page of one script hashes about this many bytes of values at most: a millisecond or two of its node.
PAGE_BYTES = 256 * 1024
PAGE_KEYS = 200
#: What the hashes are made of. Digests of another form are not compared: all of their buckets would differ.
_FORM = b"2 "
_PACKED = struct.Struct(f">Q{BUCKETS}Q")


@dataclass(frozen=True, slots=True)
class Digest:
    """One node's entries in one cycle; ``incarnation`` is that of the history it was made of."""

    incarnation: str
    entries: int
    buckets: tuple[int, ...]

    def pack(self) -> bytes:
        return self.incarnation.encode() + b" " + _FORM + _PACKED.pack(self.entries, *self.buckets)

    @staticmethod
    def unpack(raw: bytes) -> Digest | None:
        """None: not a digest of this form."""
        incarnation, _, rest = raw.partition(b" ")
        if len(rest) != len(_FORM) + _PACKED.size or not rest.startswith(_FORM):
            return None
        entries, *buckets = _PACKED.unpack(rest[len(_FORM) :])
        return Digest(incarnation.decode("utf-8", "replace"), entries, tuple(buckets))


@dataclass(frozen=True, slots=True)
class Missing:
    """An entry that another node has and this one should have. ``twin``: held here too, with a content that loses."""

    key: bytes
    version: Version
    bucket: int
    twin: bool = False


def entry_hash(key: bytes, version: bytes, kind: bytes, value: bytes) -> int:
    """What lua/ap_digest.lua computes for an entry."""
    whole = hashlib.sha1(b"\n".join((key, version, kind, value)), usedforsecurity=False).hexdigest()
    return int(whole[:HASH_HEX], 16)


def rank(kind: bytes, value: bytes) -> bytes:
    """Of two contents under one version the larger rank wins: a tombstone, or the larger SHA-1; as in lua/_ap.lua."""
    whole = hashlib.sha1(kind + b"\n" + value, usedforsecurity=False).hexdigest()
    return (b"1" if kind == b"d" else b"0") + whole.encode()


def page_keys(keys: int, hashed: int) -> int:
    """How many keys to ask for in the next page, when ``keys`` had ``hashed`` bytes of values."""
    if hashed > PAGE_BYTES:
        return max(1, keys * PAGE_BYTES // hashed)
    return min(PAGE_KEYS, keys * 2) if hashed * 2 <= PAGE_BYTES else keys


def bucket_of(entry: int) -> int:
    return (entry & 0xFFF) % BUCKETS


class Sum:
    """Adds up the pages of one scan."""

    def __init__(self) -> None:
        self.entries = 0
        self._buckets = [0] * BUCKETS

    def add(self, page: bytes) -> None:
        """``page``: hashes of 16 hex digits, one after the other."""
        buckets = self._buckets
        for at in range(0, len(page), HASH_HEX):
            entry = int(page[at : at + HASH_HEX], 16)
            buckets[(entry & 0xFFF) % BUCKETS] ^= entry
        self.entries += len(page) // HASH_HEX

    def digest(self, incarnation: str) -> Digest:
        return Digest(incarnation, self.entries, tuple(self._buckets))


def cutoff_ms(cycle: int, period_ms: int, lag_ms: int = LAG_MS) -> int:
    """The youngest version, in ms since the epoch, that the cycle's digests cover."""
    return cycle * period_ms - lag_ms


def collected_ms(cycle: int, period_ms: int, grace_ms: int) -> int:
    """The youngest tombstone, in ms since the epoch, that the cycle's digests leave out.

    Nodes remove a tombstone at different moments once it is older than the grace (ap_collect.py), perhaps while the
    cycle lasts. The collector itself sends those that are left out to nodes that lack them.
    """
    return cycle * period_ms - grace_ms + min(grace_ms // 2, COLLECTION_SLACK_MS)


def next_cycle(now_ms: int, period_ms: int, last: int, took_ms: int) -> int | None:
    """The cycle to begin now, None: not yet. ``last``: the latest one begun, which took ``took_ms`` to sum up.

    A scan that is longer than the period makes every second, fourth, ... cycle only, so that zones still meet in some.
    """
    stretch = 1
    while stretch * period_ms < took_ms:
        stretch *= 2
    cycle = now_ms // period_ms // stretch * stretch
    # Further back than the stretch explains: the clock was ahead and has been corrected.
    return cycle if cycle > last or last - cycle >= stretch else None


def differing(ours: Digest, theirs: Digest) -> frozenset[int]:
    return frozenset(i for i, (a, b) in enumerate(zip(ours.buckets, theirs.buckets, strict=True)) if a != b)


def wanted_flags(buckets: Iterable[int]) -> str:
    chosen = set(buckets)
    return "".join("1" if i in chosen else "0" for i in range(BUCKETS))


def due(
    version: Version,
    node: str,
    cutoff: int,
    positions: Mapping[str, Position],
    answering: Mapping[str, bool],
    lag_ms: int,
) -> bool:
    """Should replication have brought this entry to ``node`` by now, or will it not for long?

    Yes for the node's own (lost) entries and those of origins no longer known; for another origin if the node caught up
    with it after the cutoff, or has not for ``STALLED_MS``, or never did and the origin does not answer.
    """
    if version.origin == node or version.origin not in answering:
        return True
    position = positions.get(version.origin)
    if position is None or position.caught_up_ms is None:
        return not answering[version.origin]
    behind = cutoff + lag_ms // 2 - position.caught_up_ms
    return behind <= 0 or behind > STALLED_MS


def missing(theirs: Sequence[tuple[bytes, bytes, bytes, bytes]], held: Sequence[tuple[bytes, bytes]]) -> list[Missing]:
    """Of the other node's (key, version, rank, hash) those above the (version, rank) held here (b"", b"": nothing)."""
    found = []
    for (key, raw, content, entry), (ours, our_content) in zip(theirs, held, strict=True):
        version, twin = Version.parse(raw.decode()), ours == raw
        if not ours or (our_content < content if twin else Version.parse(ours.decode()).order() < version.order()):
            found.append(Missing(key, version, bucket_of(int(entry, 16)), twin))
    return found

"""Digests of AP entries, their comparison, and what counts as missing."""

from __future__ import annotations

import random

from holdfast import divergence
from holdfast.divergence import (
    Digest,
    Sum,
    bucket_of,
    cutoff_ms,
    differing,
    due,
    entry_hash,
    missing,
    next_cycle,
    page_keys,
    rank,
)
from holdfast.hlc import Version
from holdfast.multiprimary import Position

NODES = ("n1", "n2", "n3")


def version(ms: int, origin: str = "n1", counter: int = 0) -> Version:
    return Version(1, ms, counter, origin)


def digest(entries: dict[bytes, Version], cutoff: int = 1 << 40, order: int = 0) -> Digest:
    total = Sum()
    rows = [(k, v) for k, v in entries.items() if v.milliseconds <= cutoff]
    random.Random(order).shuffle(rows)
    for key, held in rows:
        total.add(b"%016x" % entry_hash(key, str(held).encode(), b"v", b"x"))
    return total.digest("inc")


def test_the_order_of_a_scan_does_not_matter_and_any_change_does() -> None:
    entries = {b"k%d" % i: version(i) for i in range(5000)}
    whole = digest(entries)
    assert whole == digest(entries, order=7)
    for changed in (
        {k: v for k, v in entries.items() if k != b"k9"},
        entries | {b"k9": version(8)},
        entries | {b"k9": version(9, "n2")},
        entries | {b"other": version(9)},
    ):
        assert differing(whole, digest(changed))


def test_a_tombstone_differs_from_a_value_of_the_same_version() -> None:
    assert entry_hash(b"k", b"1", b"v", b"") != entry_hash(b"k", b"1", b"d", b"")


def test_another_value_under_the_same_version_differs_and_one_of_two_contents_wins() -> None:
    assert entry_hash(b"k", b"1", b"v", b"a") != entry_hash(b"k", b"1", b"v", b"b")
    assert rank(b"d", b"") > max(rank(b"v", b"%d" % i) for i in range(100)), "no delete comes undone"
    assert rank(b"v", b"a") != rank(b"v", b"b")


def test_pages_stay_small_whatever_the_size_of_values() -> None:
    assert page_keys(1, 100) == 2
    assert page_keys(200, 20_000) == 200
    assert page_keys(200, 200 << 20) == 1, "a megabyte each: one at a time"
    assert page_keys(40, divergence.PAGE_BYTES * 4) == 10
    assert page_keys(1, 1 << 20) == 1


def test_a_change_touches_only_the_buckets_of_the_entries_concerned() -> None:
    entries = {b"k%d" % i: version(i) for i in range(5000)}
    newer = version(70_000)
    buckets = {bucket_of(entry_hash(b"k9", str(v).encode(), b"v", b"x")) for v in (entries[b"k9"], newer)}
    assert differing(digest(entries), digest(entries | {b"k9": newer})) == buckets


def test_digests_survive_the_trip_through_a_node() -> None:
    made = digest({b"k": version(1)})
    assert Digest.unpack(made.pack()) == made
    assert Digest.unpack(b"inc " + b"x" * 17) is None
    assert Digest.unpack(b"") is None
    assert Digest.unpack(made.pack().replace(b" 2 ", b" ", 1)) is None, "one made before values were hashed"


def test_cycles_are_the_same_everywhere_and_long_scans_make_every_second_one() -> None:
    assert next_cycle(60_000 * 7 + 5, 60_000, 6, 10_000) == 7
    assert next_cycle(60_000 * 7 + 5, 60_000, 7, 10_000) is None
    assert next_cycle(60_000 * 7 + 5, 60_000, 4, 61_000) == 6
    assert next_cycle(60_000 * 7 + 5, 60_000, 6, 61_000) is None
    assert next_cycle(60_000 * 9, 60_000, 4, 200_000) == 8
    assert next_cycle(60_000 * 9, 60_000, 69, 10_000) == 9, "the clock was an hour ahead and has been corrected"


def test_missing_is_what_is_newer_there() -> None:
    older, newer = str(version(1)).encode(), str(version(2)).encode()
    entry, low, high = b"%016x" % 7, rank(b"v", b"a"), rank(b"d", b"")
    rows = [
        (b"absent", older, low, entry),
        (b"older here", newer, low, entry),
        (b"same", newer, high, entry),
        (b"newer here", older, high, entry),
        (b"twin wins", newer, high, entry),
        (b"twin loses", newer, low, entry),
    ]
    found = missing(rows, [(b"", b""), (older, high), (newer, high), (newer, low), (newer, low), (newer, high)])
    assert [(m.key, m.twin) for m in found] == [(b"absent", False), (b"older here", False), (b"twin wins", True)]
    assert {m.bucket for m in found} == {7}


def test_what_replication_may_still_bring_is_not_due() -> None:
    cutoff, lag, up = 1_000_000, 10_000, dict.fromkeys(("n1", "n2", "n3"), True)
    entry = version(900_000, "n2")

    def judged(caught_up: int | None, answering: bool = True) -> bool:
        positions = {"n2": Position("i", 1, caught_up)}
        return due(entry, "n1", cutoff, positions, up | {"n2": answering}, lag)

    assert judged(1_009_000)
    assert not judged(1_001_000), "caught up before the cutoff: its backlog is on the way"
    assert judged(cutoff - divergence.STALLED_MS - 1), "it has not come for long: take it from who has it"
    assert not judged(None), "the first full merge will bring it"
    assert judged(None, answering=False)
    assert due(version(1, "n1"), "n1", cutoff, {}, up, lag), "the node's own lost entry"
    assert due(version(1, "gone"), "n1", cutoff, {}, up, lag), "a node that is no longer configured"


def busy(seed: int, lag_ms: int, look_at_cursor: bool) -> int:
    """Writes on n2 that reach n1 up to 300 ms later; every second both are compared. Returns the false findings."""
    rng = random.Random(seed)
    here: dict[bytes, Version] = {}
    there: dict[bytes, Version] = {}
    on_the_way: list[tuple[int, bytes, Version]] = []
    caught_up, false = 0, 0
    start = 1_000_000
    for now in range(start, start + 15_000, 10):
        key, made = b"k%d" % rng.randrange(300), version(now, "n2")
        there[key] = made
        on_the_way.append((now + rng.randrange(300), key, made))
        while on_the_way and on_the_way[0][0] <= now:
            _at, arrived, brought = on_the_way.pop(0)
            here[arrived] = brought
            caught_up = brought.milliseconds
        if now % 1000 == 0:
            cycle = now // 1000
            cutoff = cutoff_ms(cycle, 1000, lag_ms)
            differ = differing(digest(here, cutoff), digest(there, cutoff))
            rows = [
                (k, str(v).encode(), b"", b"%016x" % entry_hash(k, str(v).encode(), b"v", b"x"))
                for k, v in there.items()
                if v.milliseconds <= cutoff and bucket_of(entry_hash(k, str(v).encode(), b"v", b"x")) in differ
            ]
            positions = {"n2": Position("i", 1, caught_up)}
            for entry in missing(rows, [(str(here[k]).encode() if k in here else b"", b"") for k, *_ in rows]):
                up = {"n2": True}
                false += not look_at_cursor or due(entry.version, "n1", cutoff, positions, up, lag_ms)
    return false


def test_a_busy_healthy_pair_shows_no_divergence() -> None:
    assert sum(busy(seed, 2000, look_at_cursor=True) for seed in range(5)) == 0
    assert sum(busy(seed, 2000, look_at_cursor=False) for seed in range(5)) == 0


def test_without_the_lag_window_a_busy_pair_would_show_divergence() -> None:
    assert sum(busy(seed, 0, look_at_cursor=False) for seed in range(5)) > 0

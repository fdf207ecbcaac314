"""Which stale reads a loss explains: those of what is gone, also where a later write covers the trace; no others."""

from __future__ import annotations

import pytest
from test_probe_report import healthy


@pytest.mark.parametrize(
    ("lost", "read_at", "explained"),
    [
        ([7, 9], 11.0, 1),  # register 8 was acknowledged among those that are gone
        ([6, 7], 11.0, 1),  # right after them
        ([9, 10], 11.0, 1),  # right before them
        ([2, 3], 11.0, 0),  # the loss was over: nothing explains that 8 was not seen
        ([7, 9], 8.5, 0),  # stale before the fault
        ([], 11.0, 0),
    ],
)
def test_a_lost_register_that_was_written_again_explains_stale_reads(
    lost: list[int], read_at: float, explained: int
) -> None:
    lines = healthy(10)
    lines.read(8, 0, read_at)
    lines.verified(present=[s for s in range(1, 11) if s not in (8, *lost)], lost=lost, superseded=[8])
    reads = lines.report()["modes"]["cp"]["reads"]
    assert (reads["stale"], reads["stale_of_lost_writes"]) == (1, explained)


@pytest.mark.parametrize(
    ("reads", "explained"),
    [
        ([(8, 10.6), (0, 11.0)], 0),  # the new side showed it, then not: no loss takes back what was seen after it
        ([(24, 10.6), (0, 11.0)], 0),  # or a later one
        ([(8, 10.6), (0, 10.605)], 1),  # side by side
        ([(8, 9.5), (0, 11.0)], 1),  # the last of the old side
        ([(0, 11.0), (24, 11.5)], 1),
        ([(0, 10.6), (0, 11.0)], 2),
    ],
)
@pytest.mark.parametrize("gone", ["superseded", "lost"])
def test_what_was_seen_after_the_loss_is_not_explained_by_it(
    reads: list[tuple[int, float]], explained: int, gone: str
) -> None:
    lines = healthy(10)
    for seen, at in reads:
        lines.read(8, seen, at)
    states = {"lost": [7, 9], "superseded": []} | {gone: [8] if gone == "superseded" else [7, 8, 9]}
    lines.verified(present=[s for s in range(1, 11) if s not in (7, 8, 9)], **states)
    reads_said = lines.report()["modes"]["cp"]["reads"]
    assert reads_said["stale"] == sum(seen == 0 for seen, _ in reads)
    assert reads_said["stale_of_lost_writes"] == explained


def test_where_nothing_was_acknowledged_after_the_loss_it_is_not_over() -> None:
    lines = healthy(9)
    lines.write(10, 10.0, "timeout")
    lines.read(8, 8, 10.6)
    lines.read(8, 0, 11.0)
    lines.verified(present=[1, 2, 3, 4, 5, 6], lost=[7, 9], superseded=[8])
    assert lines.report()["modes"]["cp"]["reads"]["stale_of_lost_writes"] == 1

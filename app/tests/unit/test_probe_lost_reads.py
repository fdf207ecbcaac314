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

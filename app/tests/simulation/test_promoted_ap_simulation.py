"""AP sessions and data over hundreds of histories with a promotion of copies that lag differently; and controls."""

from __future__ import annotations

import pytest
from promoted_ap_world import CONTROLS, run
from seeds import WANTED, explain, find_violation, run_seeds

PROMOTED_AP_WANTED = WANTED // 20


def test_a_promotion_keeps_what_the_copies_have_and_breaks_no_promise() -> None:
    total = run_seeds(run, PROMOTED_AP_WANTED)
    assert not total.problems, explain("promoted-ap", total)
    assert total.busy >= PROMOTED_AP_WANTED
    assert total.quiet < total.busy / 10
    assert total.faults["promotion"] > total.busy * 2, "three nodes in most seeds"
    assert total.seen["a copy that lagged"] > total.busy
    assert total.seen["sessions checked after a promotion"] > total.busy * 2
    for kind in ("crash", "partition", "lag", "blank", "older data", "clock jumps"):
        assert total.faults[kind] > total.busy / 10, f"{kind} hardly ever took effect"
    print(total, dict(total.seen))


@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_negative_control(control: str) -> None:
    _, said = find_violation("promoted-ap", run, control, CONTROLS[control])
    print(f"{control}: {said}")

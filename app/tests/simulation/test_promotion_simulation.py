"""Promoted copies that lag differently, over thousands of seeded histories; each rule has a control that must fail."""

from __future__ import annotations

import pytest
from promoted_world import CONTROLS, run
from seeds import WANTED, explain, find_violation, run_seeds

PROMOTED_WANTED = WANTED * 3 // 20


def test_what_one_copy_holds_is_never_lost_and_never_unseen() -> None:
    total = run_seeds(run, PROMOTED_WANTED)
    assert not total.problems, explain("promoted", total)
    assert total.busy >= PROMOTED_WANTED
    assert total.quiet < total.busy, "too quiet: faults and operations must take place"
    assert total.repairs > total.busy / 2, "most regions must have been settled under load"
    for kind in ("dies before settling", "dies", "crash", "pause", "lag", "partition", "repair killed"):
        assert total.faults[kind] > total.busy / 100, f"{kind} hardly ever took effect"
    print(total)


@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_negative_control(control: str) -> None:
    _, said = find_violation("promoted", run, control, CONTROLS[control])
    print(f"{control}: {said}")

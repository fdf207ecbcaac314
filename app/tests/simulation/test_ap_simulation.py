"""The AP face over thousands of seeded histories: convergence, deletes that stay, read-your-writes; and controls."""

from __future__ import annotations

import pytest
from ap_world import CONTROLS, LEAST_FAULTS, LEAST_OPERATIONS, ApWorld, Result
from seeds import WANTED, explain, find_violation, run_seeds

AP_WANTED = WANTED // 4


def run(seed: int, controls: frozenset[str]) -> Result:
    return ApWorld(seed, controls).run()


def test_every_history_converges_and_keeps_its_promises() -> None:
    total = run_seeds(run, AP_WANTED)
    assert not total.problems, explain("ap", total)
    assert total.busy >= AP_WANTED
    assert total.least_operations >= LEAST_OPERATIONS
    assert total.least_faults >= LEAST_FAULTS
    assert total.quiet < total.busy / 10
    assert total.operations > total.busy * 40
    for kind in (
        "blank",
        "older data",
        "crash",
        "last writes lost",
        "partition",
        "clock jumps",
        "lag",
        "entry parked",
        "outbox trimmed past a peer",
        "damage",
    ):
        assert total.faults[kind] > total.busy / 100, f"{kind} hardly ever took effect"
    for what in ("collection", "collection afterwards", "tombstone sent again"):
        assert total.seen[what] > total.busy / 10, f"{what}: hardly ever"
    for kind in ("restamp", "digest repair"):
        assert total.seen[kind] > total.busy / 100, f"{kind} hardly ever took effect"
    print(total, dict(total.seen))


@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_negative_control(control: str) -> None:
    most = CONTROLS[control]
    seed, said = find_violation("ap", run, control, most)
    needed = seed + 1
    assert needed <= most
    print(f"{control}: found after {needed} seeds; {said}")

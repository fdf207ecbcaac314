"""The CP face and its repair over thousands of seeded histories; every checker has a control that must fail."""

from __future__ import annotations

import random

import pytest
from cp_world import CONTROLS, CpWorld, Result
from linearizability import INFINITY, Op, linearizable
from seeds import WANTED, explain, run_seeds
from zones import violation

#: A control's violation must show within so many seeds.
CONTROL_SEEDS = 4000


def run(seed: int, controls: frozenset[str]) -> Result:
    return CpWorld(seed, controls).run()


def test_every_history_is_linearizable_and_every_node_is_repaired() -> None:
    total = run_seeds(run, WANTED)
    assert not total.problems, explain("cp", total)
    assert total.busy >= WANTED
    assert total.quiet < total.busy / 10, "too quiet: faults and operations must take place"
    assert total.operations > total.busy * 40
    assert total.repairs > total.busy
    for kind in (
        "blank",
        "emptied",
        "crash",
        "last writes lost",
        "pause",
        "lag",
        "partition",
        "disk stalls",
        "repair killed",
        "clock jumps",
        "instance restarts",
        "instance pauses",
    ):
        assert total.faults[kind] > total.busy / 100, f"{kind} hardly ever took effect"
    print(f"{total.busy} busy seeds, {total.quiet} quiet, {total.operations} operations, {total.repairs} repairs")


@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_negative_control(control: str) -> None:
    total = run_seeds(run, CONTROL_SEEDS, frozenset({control}), CONTROL_SEEDS)
    assert total.problems, f"{control}: no violation in {CONTROL_SEEDS} seeds"
    print(f"{control}: {explain('cp', total, frozenset({control}))}")


def test_a_seed_replays() -> None:
    assert run(7, frozenset()) == run(7, frozenset())


def test_the_fast_checker_agrees_with_the_search() -> None:
    rnd = random.Random(1)
    disagreed = wrong = 0
    for _ in range(4000):
        history = _random_history(rnd)
        searched = linearizable(history)
        wrong += not searched
        disagreed += searched != (violation(history) is None)
    assert disagreed == 0
    assert 400 < wrong < 3600


def _random_history(rnd: random.Random) -> list[Op]:
    times = rnd.sample(range(100), 16)
    spans = [(min(pair), max(pair)) for pair in zip(times[::2], times[1::2], strict=True)]
    history = []
    for index, (start, end) in enumerate(spans[: rnd.randint(3, 8)]):
        if index < 3:
            history.append(Op(start, INFINITY if rnd.random() < 0.3 else end, "write", f"v{index}"))
        else:
            history.append(Op(start, end, "read", rnd.choice(("v0", "v1", "v2", None))))
    return history

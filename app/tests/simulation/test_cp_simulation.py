"""The CP face and its repair over thousands of seeded histories; every checker has a control that must fail."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cp_world import CONTROLS, LEAST_FAULTS, LEAST_OPERATIONS, CpWorld, Result
from events import Events
from linearizability import INFINITY, Op, linearizable
from seeds import WANTED, explain, find_violation, run_seeds
from zones import violation

CP_WANTED = WANTED * 6 // 10


def run(seed: int, controls: frozenset[str]) -> Result:
    return CpWorld(seed, controls).run()


def test_every_history_is_linearizable_and_every_node_is_repaired() -> None:
    total = run_seeds(run, CP_WANTED)
    assert not total.problems, explain("cp", total)
    assert total.busy >= CP_WANTED
    assert total.least_operations >= LEAST_OPERATIONS
    assert total.least_faults >= LEAST_FAULTS
    assert total.quiet < total.busy / 10, "too quiet: faults and operations must take place"
    assert total.operations > total.busy * 40
    assert total.repairs > total.busy
    for kind in (
        "blank",
        "emptied",
        "older data",
        "collector killed",
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
    assert total.seen["collection"] > total.busy / 2, "tombstones were hardly ever collected"
    assert total.seen["store below the floor"] > total.busy / 10
    assert total.seen["vouched store"] > total.busy / 20
    print(f"{dict(total.seen)}")
    print(total)


@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_negative_control(control: str) -> None:
    most = CONTROLS[control]
    seed, said = find_violation("cp", run, control, most)
    needed = seed + 1
    assert needed <= most
    print(f"{control}: found after {needed} seeds; {said}")


def test_a_seed_replays() -> None:
    assert run(7, frozenset()) == run(7, frozenset())


def test_a_failing_seed_replays_by_the_printed_command() -> None:
    controls = frozenset({"one-node reads"})
    total = run_seeds(run, CONTROLS["one-node reads"], controls, CONTROLS["one-node reads"])
    problem, _, command = explain("cp", total, controls).partition("\nreplay with a trace: ")
    root = Path(__file__).resolve().parents[3]
    arguments = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert problem.partition(": ")[2] in done.stdout
    assert "FAULT" in done.stdout
    fine = subprocess.run([*arguments[:-1]], cwd=root, capture_output=True, text=True, timeout=60)
    assert fine.returncode == 0, "the same seed of the whole code is fine"


def test_a_fault_that_hits_nothing_does_not_count() -> None:
    events = Events(1)
    events.arm("lag", ["n1"], "n1")
    assert not events.faults
    events.hit("lag", "n2")
    assert not events.faults
    events.hit("lag", "n1")
    events.hit("lag", "n1")
    assert events.faults == {"lag": 1}
    assert Result(operations=LEAST_OPERATIONS, faults=events.faults).quiet


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

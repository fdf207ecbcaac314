"""Runs many seeds on all cores until enough of them were busy, or until a control's violation is found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

BATCH = 50
#: Busy seeds in all: 60 % of the CP face, 25 % of the AP face, 15 % of promoted copies; and
#: 5 % more of promoted copies with the AP face.
#: A quick look while developing: SIMULATION_SEEDS=300.
WANTED = int(os.environ.get("SIMULATION_SEEDS", "10000"))


class Result(Protocol):
    problem: str | None
    operations: int
    faults: Counter[str]
    seen: Counter[str]
    repairs: int

    @property
    def large_faults(self) -> int: ...

    @property
    def quiet(self) -> bool: ...


Run = Callable[[int, frozenset[str]], Result]


@dataclass
class Total:
    """``least_*``: of the busy seeds, the only ones that count."""

    busy: int = 0
    quiet: int = 0
    operations: int = 0
    repairs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    least_operations: int = 1 << 30
    least_faults: int = 1 << 30
    seen: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        large = {k: n for k, n in sorted(self.faults.items()) if not k.startswith("message")}
        return (
            f"{self.busy} busy seeds (at least {self.least_operations} operations and {self.least_faults} faults that "
            f"took effect in each), {self.quiet} quiet ones not counted, {self.operations} operations, "
            f"{self.repairs} repairs, faults: {large}"
        )


def _batch(run: Run, first: int, controls: frozenset[str]) -> Total:
    total = Total()
    for seed in range(first, first + BATCH):
        result = run(seed, controls)
        total.quiet += result.quiet
        total.busy += not result.quiet
        if not result.quiet:
            total.least_operations = min(total.least_operations, result.operations)
            total.least_faults = min(total.least_faults, result.large_faults)
        total.operations += result.operations
        total.repairs += result.repairs
        total.faults += result.faults
        total.seen += result.seen
        if result.problem:
            total.problems.append((seed, result.problem))
            break
    return total


def run_seeds(run: Run, wanted: int, controls: frozenset[str] = frozenset(), most: int = 1 << 30) -> Total:
    """Busy seeds from 0 on until there are ``wanted``, ``most`` were run, or one failed."""
    total = Total()
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers) as pool:
        starts: Iterator[int] = iter(range(0, most, BATCH))
        running = [pool.submit(_batch, run, s, controls) for s, _ in zip(starts, range(workers * 2), strict=False)]
        while running:
            part = running.pop(0).result()
            total.busy, total.quiet = total.busy + part.busy, total.quiet + part.quiet
            total.operations, total.repairs = total.operations + part.operations, total.repairs + part.repairs
            total.least_operations = min(total.least_operations, part.least_operations)
            total.least_faults = min(total.least_faults, part.least_faults)
            total.faults += part.faults
            total.seen += part.seen
            total.problems += part.problems
            following = next(starts, None)
            if total.busy >= wanted or total.problems or following is None:
                continue
            running.append(pool.submit(_batch, run, following, controls))
    return total


def find_violation(face: str, run: Run, control: str, most: int) -> tuple[int, str]:
    """The first seed at which a control breaks a promise, and what it broke; fails if none of ``most`` seeds does."""
    controls = frozenset({control})
    total = run_seeds(run, most, controls, most)
    assert total.problems, f"{control}: no violation in {most} seeds"
    return min(total.problems)[0], explain(face, total, controls)


def explain(face: str, total: Total, controls: frozenset[str] = frozenset()) -> str:
    seed, problem = min(total.problems)
    arguments = " ".join(f"'{c}'" for c in sorted(controls))
    command = f"python app/tests/simulation/replay.py {face} {seed} {arguments}"
    return f"seed {seed}: {problem}\nreplay with a trace: {command}"

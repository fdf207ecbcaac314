"""Runs many seeds on all cores until enough of them were busy, or until a control's violation is found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

BATCH = 50
#: Busy seeds of the CP face (AP: 3 for each 10); a quick look while developing: SIMULATION_SEEDS=300.
WANTED = int(os.environ.get("SIMULATION_SEEDS", "10000"))


class Result(Protocol):
    problem: str | None
    operations: int
    faults: Counter[str]
    repairs: int

    @property
    def quiet(self) -> bool: ...


Run = Callable[[int, frozenset[str]], Result]


@dataclass
class Total:
    busy: int = 0
    quiet: int = 0
    operations: int = 0
    repairs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)


def _batch(run: Run, first: int, controls: frozenset[str]) -> Total:
    total = Total()
    for seed in range(first, first + BATCH):
        result = run(seed, controls)
        total.quiet += result.quiet
        total.busy += not result.quiet
        total.operations += result.operations
        total.repairs += result.repairs
        total.faults += result.faults
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
            total.faults += part.faults
            total.problems += part.problems
            following = next(starts, None)
            if total.busy >= wanted or total.problems or following is None:
                continue
            running.append(pool.submit(_batch, run, following, controls))
    return total


def explain(face: str, total: Total, controls: frozenset[str] = frozenset()) -> str:
    seed, problem = min(total.problems)
    arguments = " ".join(f"'{c}'" for c in sorted(controls))
    command = f"python app/tests/simulation/replay.py {face} {seed} {arguments}"
    return f"seed {seed}: {problem}\nreplay with a trace: {command}"

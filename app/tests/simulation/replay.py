"""Run seeds by hand: ``python tests/simulation/replay.py cp|ap|promoted SEED [CONTROL]`` prints a trace of one seed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit"), str(HERE.parents[1] / "src")]


def main() -> int:
    from ap_world import ApWorld
    from cp_world import CpWorld
    from promoted_world import PromotedWorld

    world = {"cp": CpWorld, "ap": ApWorld, "promoted": PromotedWorld}[sys.argv[1]]
    seed, controls = int(sys.argv[2]), frozenset(sys.argv[3:])
    began = time.monotonic()
    result = world(seed, controls, trace=True).run()
    print(result, f"{time.monotonic() - began:.3f} s")
    return 1 if result.problem else 0


if __name__ == "__main__":
    sys.exit(main())

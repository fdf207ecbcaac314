"""Run seeds by hand: ``python tests/simulation/replay.py WORLD SEED [CONTROL]`` prints a trace of one seed.

WORLD: cp, ap, promoted (CP after a promotion), promoted-ap.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit"), str(HERE.parents[1] / "src")]


def main() -> int:
    from ap_world import ApWorld
    from cp_world import CpWorld
    from promoted_ap_world import PromotedApWorld
    from promoted_world import PromotedWorld

    worlds = {"cp": CpWorld, "ap": ApWorld, "promoted": PromotedWorld, "promoted-ap": PromotedApWorld}
    world = worlds[sys.argv[1]]
    seed, controls = int(sys.argv[2]), frozenset(sys.argv[3:])
    began = time.monotonic()
    result = world(seed, controls, trace=True).run()
    print(result, f"{time.monotonic() - began:.3f} s")
    return 1 if result.problem else 0


if __name__ == "__main__":
    sys.exit(main())

"""`holdfast region fence` on a region that is just being settled: before each of its first moves of a node, somebody
else moves that node. RACES: how often, for each node. FENCES: fences it at that epoch. ATTEMPTS: how often fence tries,
for the negative control."""

import os
from collections import Counter
from dataclasses import replace

from holdfast import region_fencing
from holdfast.cli import main
from holdfast.guard import FENCED, Guard
from holdfast.region_nodes import RegionNodes

raced: Counter[str] = Counter()
unraced = RegionNodes.move


def move(self: RegionNodes, node: str, run_id: str, expected: Guard, new: Guard, confirm: bool, reason: str) -> str:
    if raced[node] < int(os.environ["RACES"]):
        raced[node] += 1
        raised = replace(expected, membership_epoch=expected.membership_epoch + 1)
        if "FENCES" in os.environ:
            raised = replace(expected, state=FENCED, region_epoch=int(os.environ["FENCES"]))
        assert not unraced(self, node, run_id, expected, raised, False, "race")
    return unraced(self, node, run_id, expected, new, confirm, reason)


RegionNodes.move = move  # type: ignore[method-assign]
region_fencing.FENCE_ATTEMPTS = int(os.environ.get("ATTEMPTS", region_fencing.FENCE_ATTEMPTS))

if __name__ == "__main__":
    raise SystemExit(main())

"""`holdfast region promote` during which a node dies (the process VICTIM) when all copies are marked and none is
promoted yet: ``python cut_off_promotion.py region promote ...``."""

import os
import signal
import sys
from typing import Any

from holdfast import cli
from holdfast.guard import RECOVERING, Guard
from holdfast.region_nodes import RegionNodes

uncut = RegionNodes.move
marked: list[str] = []


def move(self: RegionNodes, node: str, run_id: str, expected: Guard, new: Guard, *more: Any, **others: Any) -> str:
    problem = uncut(self, node, run_id, expected, new, *more, **others)
    if new.state == RECOVERING:
        marked.append(node)
        if len(marked) == len(self.names):
            os.kill(int(os.environ["VICTIM"]), signal.SIGKILL)
    return problem


RegionNodes.move = move  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))

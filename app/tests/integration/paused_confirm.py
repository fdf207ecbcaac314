"""`holdfast replicate` that is paused once, for PAUSE_SEC, between its look at both regions and what it does then:
``python paused_confirm.py replicate``."""

import json
import os
import sys
import time
from typing import Any

from holdfast import cli
from holdfast.region_nodes import RegionNodes

unpaused = RegionNodes.move
pauses = [float(os.environ["PAUSE_SEC"])]


def move(self: RegionNodes, *arguments: Any, **more: Any) -> str:
    if pauses:
        sys.stdout.write(json.dumps({"event": "PAUSED"}) + "\n")
        sys.stdout.flush()
        time.sleep(pauses.pop())
        sys.stdout.write(json.dumps({"event": "GOES_ON"}) + "\n")
        sys.stdout.flush()
    return unpaused(self, *arguments, **more)


RegionNodes.move = move  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))

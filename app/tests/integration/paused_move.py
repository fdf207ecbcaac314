"""A command that is paused once, for PAUSE_SEC, between its look at both regions and what it does then: ``python
paused_move.py replicate``. With EVENTS=no it does not say so on standard output."""

import json
import os
import sys
import time
from typing import Any

from holdfast import cli
from holdfast.region_nodes import RegionNodes

unpaused = RegionNodes.move
pauses = [float(os.environ["PAUSE_SEC"])]


def say(event: str) -> None:
    if os.environ.get("EVENTS") != "no":
        sys.stdout.write(json.dumps({"event": event}) + "\n")
        sys.stdout.flush()


def move(self: RegionNodes, *arguments: Any, **more: Any) -> str:
    if pauses:
        say("PAUSED")
        time.sleep(pauses.pop())
        say("GOES_ON")
    return unpaused(self, *arguments, **more)


RegionNodes.move = move  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))

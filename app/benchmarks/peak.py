"""Runs a command and writes to FILE how long it took and the most memory it had: `python -IS peak.py FILE COMMAND...`.

A program of its own, and a small one: the kernel counts for a child also what its parent had when it was started.
"""

import json
import os
import sys
import time

began = time.monotonic()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
with open(sys.argv[1], "w") as out:  # noqa: PTH123  pathlib would double the size of this process
    json.dump({"seconds": time.monotonic() - began, "kib": usage.ru_maxrss}, out)
sys.exit(os.waitstatus_to_exitcode(status) & 255)

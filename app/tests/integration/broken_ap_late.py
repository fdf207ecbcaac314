"""The service with another latest time of AP writes: ``python broken_ap_late.py serve``. LATEST: ``none``, as while no
clock has been read; otherwise one that never comes, for a negative control."""

from __future__ import annotations

import os
import sys

from holdfast import cli
from holdfast.clock_watch import ClockWatch

NEVER_MS = 1 << 52

if __name__ == "__main__":
    latest = None if os.environ.get("LATEST") == "none" else NEVER_MS
    ClockWatch.latest = lambda _self, _node, _until: latest  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[1:]))

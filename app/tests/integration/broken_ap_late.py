"""The service without the latest time of AP writes, for a negative control: ``python broken_ap_late.py serve``."""

from __future__ import annotations

import sys

from holdfast import cli
from holdfast.clock_watch import ClockWatch

if __name__ == "__main__":
    ClockWatch.latest = lambda _self, _node, _until: None  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[1:]))

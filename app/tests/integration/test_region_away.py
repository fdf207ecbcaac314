"""The other region is gone, or hangs: that costs requests nothing, and neither threads nor log lines pile up."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from cluster import App, wait_for
from regions import Regions


def family(app: App) -> list[int]:
    """The process ids of the instance: its own and its workers'."""
    own = app.process.pid
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    return [own, *map(int, children)]


def threads(app: App) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in family(app))


def threads_at_rest(app: App) -> int:
    """Without that of a request which was just answered."""
    last = -1
    while last != (last := threads(app)):
        time.sleep(0.5)
    return last


@pytest.mark.alone
@pytest.mark.parametrize("how", ["gone", "hangs"])
def test_another_region_that_is_away_costs_nothing(regions: Regions, how: str) -> None:
    app = regions.west.run("serve", "cp")
    pulls = regions.west.run("replicate", "ap")
    wait_for("serves", app.ready)
    before = threads_at_rest(app), threads_at_rest(pulls)
    if how == "gone":
        regions.east.kill_nodes()
    else:
        for node in regions.east.nodes.values():
            node.signal(signal.SIGSTOP)
    time.sleep(2)
    lines = len(app.entries()), len(pulls.entries())
    until, count, slow = time.monotonic() + 6, 0, []
    while time.monotonic() < until:
        count += 1
        reply = app.write(f"k{count % 10}", str(count))
        assert reply.status == 200
        if reply.seconds > 0.5:
            slow.append(reply.seconds)
    assert count > 100
    assert len(slow) <= 1, f"{slow}: a stall of the machine may cost one, a look at the other region each second many"
    assert (threads_at_rest(app), threads_at_rest(pulls)) == before
    quiet = [e for e in app.entries()[lines[0] :] if e["stream"] == "log"]
    assert (quiet, pulls.entries()[lines[1] :]) == ([], [])

"""What is left to do when a drill has ended, however it did: its client stops, its page is made, its numbers go where they are scraped.

Nothing here raises: the run is over, and what did not work is a warning.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "app/src"
#: How long a client may take to write its last lines.
STOP_SECONDS = 5.0
MADE_SECONDS = 300.0
Warn = Callable[[str], None]


def stop_client(run: Path) -> None:
    """A drill that did not come to its end leaves its client running."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((run / "probe.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(0.05)


def make_pages(run: Path, warn: Warn) -> None:
    """A drill's page beside its record, with what its client saw, and the index over all runs."""
    for made in (["report", str(run)], ["index", str(run.parent)]):
        code, _said, problem = holdfast(*made)
        if code not in (0, 3, 4):  # 3 and 4: a target was missed, or it was not measured; the page says so
            warn(f"holdfast evidence {made[0]}: {problem}")


def bring_metrics(root: Path, hosts: list[str], bring: Callable[[str], list[str]], warn: Warn) -> None:
    """The newest drills' numbers to where they are scraped; ``bring`` returns the hosts that did not get them."""
    if not hosts:
        return
    code, said, problem = holdfast("metrics", str(root))
    if code != 0:
        warn(f"holdfast evidence metrics: {problem}")
    if left := bring(said) if code == 0 else hosts:
        warn(f"the metrics of drills did not get to {', '.join(left)}; the next drill from this control machine brings them")


def holdfast(*arguments: str) -> tuple[int, str, str]:
    """Exit code (-1: it did not end), output, and the end of what it said when something was wrong."""
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "holdfast", "evidence", *arguments]
    try:
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MADE_SECONDS)
    except (OSError, subprocess.SubprocessError) as problem:
        return -1, "", str(problem)[-300:]
    return done.returncode, done.stdout, (done.stderr or done.stdout).strip()[-300:]

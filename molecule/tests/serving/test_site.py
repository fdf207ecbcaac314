"""The playbook on a system that is up: a second run, and check mode."""

import re
import subprocess
import sys
import time

from clients import ROOT, USERS_ENVIRONMENT, play


def yardstick() -> float:
    """Seconds that a fixed piece of work takes on two cores now; 2.3 where the README's figures come from, when nothing else runs."""
    work = [sys.executable, "-c", "s = 0\nfor i in range(30_000_000): s += i"]
    started = time.monotonic()
    for process in [subprocess.Popen(work) for _ in range(2)]:
        process.wait()
    return time.monotonic() - started


def test_lab_command_on_a_lab_that_is_up_changes_nothing(lab):
    """In under 90 seconds, which are 39 yardsticks where the README's figures come from. Times vary there by a third from run to run, and a
    machine may be slower: 50 yardsticks of that moment are enough. The better of two runs counts."""
    runs, before = [], yardstick()
    for _ in range(2):
        started = time.monotonic()
        done = subprocess.run([ROOT / "bin" / "lab"], cwd=ROOT, env=USERS_ENVIRONMENT, capture_output=True, text=True)
        seconds, after = time.monotonic() - started, yardstick()
        assert done.returncode == 0, done.stdout[-3000:]
        assert "changed=0" in done.stdout
        runs.append((seconds / ((before + after) / 2), seconds))
        before = after
        if seconds < 90 or runs[-1][0] < 50:
            break
    print("bin/lab on a lab that is up:", ", ".join(f"{seconds:.0f} s, {ratio:.1f} yardsticks" for ratio, seconds in runs))
    assert min(seconds for _, seconds in runs) < 90 or min(runs)[0] < 50, runs


def test_check_mode_works_and_finds_nothing_to_change(lab):
    """On one zone and the operations host, which is every role."""
    done = play("playbooks/site.yml", "--check", "--diff", "--limit", "lab-c1,lab-ops1")
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.findall(r"^lab-\S+ .*changed=(\d+)", done.stdout, re.MULTILINE) == ["0", "0"], done.stdout[-4000:]

"""The playbook on a system that is up."""

import re

from clients import play


def test_check_mode_works_and_finds_nothing_to_change(lab):
    """On one zone and the operations host, which is every role."""
    done = play("playbooks/site.yml", "--check", "--diff", "--limit", "lab-c1,lab-ops1")
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.findall(r"^lab-\S+ .*changed=(\d+)", done.stdout, re.MULTILINE) == ["0", "0"], done.stdout[-4000:]

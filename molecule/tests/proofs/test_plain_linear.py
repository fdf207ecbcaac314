"""The playbooks over Ansible's own strategy, for those who do without mitogen: on one zone and the operations host, as it is slower."""

import re

from clients import play


def test_site_runs_without_mitogen_and_changes_nothing(lab):
    done = play("playbooks/site.yml", "--limit", "lab-c1,lab-ops1", ANSIBLE_STRATEGY="linear")
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.findall(r"^lab-\S+ .*changed=(\d+)", done.stdout, re.MULTILINE) == ["0", "0"], done.stdout[-4000:]

"""The checklist's look at runbooks: one that is missing, that nobody would find, or that Ansible does not take fails it."""

import importlib.util
import json
import os
import shutil
import subprocess

import pytest
from runs import ROOT

ITEM = "Runbooks for common incidents are there"
FIRE, FLOOD = "| it burns | `fire.yml`: puts it out |\n", "| it rains, or drips | `flood.yml` |\n"
TAKEN, REFUSED = {"rc": 0, "stderr": ""}, {"rc": 4, "stderr": "[WARNING]: x\n[ERROR]: the role 'pump'\nwas not found"}


@pytest.fixture(scope="module")
def filters():
    spec = importlib.util.spec_from_file_location("verify_filters", ROOT / "roles/verify/filter_plugins/verify.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("table", "there", "taken", "passed", "said"),
    [
        (FIRE + FLOOD, "fire flood", TAKEN, True, "fire.yml: it burns; flood.yml: it rains, or drips"),
        (FIRE + FLOOD, "fire", TAKEN, False, "flood.yml is not there, for: it rains, or drips"),
        (FIRE, "fire flood", TAKEN, False, "flood.yml is for no incident of "),
        ("| 1 Open | checks `fire.yml` |\n", "", TAKEN, False, "README.md names no incident"),
        (None, "fire", TAKEN, False, "README.md names no incident"),
        (FIRE, "fire", REFUSED, False, "Ansible does not take them: the role 'pump' was not found"),
        (FIRE, "fire", {"msg": "no such command"}, False, "Ansible does not take them: no such command"),
    ],
)
def test_incidents_and_runbooks_belong_together(filters, tmp_path, table, there, taken, passed, said):
    if table is not None:
        (tmp_path / "README.md").write_text(f"| incident | runbook |\n| --- | --- |\n{table}")
    for name in there.split():
        (tmp_path / f"{name}.yml").touch()
    item = filters.runbooks_item(str(tmp_path), taken)
    assert item["passed"] == passed and said in item["evidence"], item


def verdict(place) -> dict:
    """The item as the role's own tasks report it, of a project whose runbooks are in `place`. Other items fail: there is no host here."""
    given = {"verify_hosts": [], "verify_node_zones": [], "verify_report_file": f"{place}/evidence/verify.json"}
    task = {"name": "Report", "ansible.builtin.import_role": {"name": "verify", "tasks_from": "report"}}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
    play["vars"] = given | {"verify_runbooks_directory": f"{place}/runbooks", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    (place / "play.yml").write_text(json.dumps([play]))
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")} | {"ANSIBLE_NOCOLOR": "1"}
    command = [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", place / "play.yml"]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=300)
    report = place / "evidence/verify.json"
    assert report.is_file(), done.stdout + done.stderr
    [item] = [item for item in json.loads(report.read_text())["items"] if item["item"] == ITEM]
    return item


def test_the_projects_own_runbooks_pass_and_one_that_ansible_does_not_take_fails(tmp_path):
    shutil.copytree(ROOT / "runbooks", tmp_path / "runbooks")
    for name in ("roles", "plugins", "ansible.cfg"):
        (tmp_path / name).symlink_to(ROOT / name)
    sound = verdict(tmp_path)
    assert sound["verdict"] == "PASS" and "restore_node.yml: a node lost its data" in sound["evidence"]["inventory"], sound
    runbook = tmp_path / "runbooks/restore_node.yml"
    runbook.write_text(runbook.read_text().replace("{name: restore, tasks_from: others}", "{name: restore, tasks_from: nobody}"))
    broken = verdict(tmp_path)
    assert broken["verdict"] == "FAIL" and "nobody" in broken["evidence"]["inventory"], broken

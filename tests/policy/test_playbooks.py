"""Playbooks are desired state; runbooks are ordered action, in always the same phases."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Break, break_tree, ids, load, tasks
from test_roles import VERBS

PHASES = ["Open", "Preflight", "Confirm", "Prepare", "Switch", "Verify", "Release", "Close"]
HEADER = ["When to use", "When not to use", "Users see", "Duration", "Inverse", "Command"]
MAX_RUNBOOK_LINES = 150


def playbooks(root: Path) -> list[Path]:
    return sorted((root / "playbooks").glob("*.yml"))


def runbooks(root: Path) -> list[Path]:
    return sorted((root / "runbooks").glob("*.yml"))


def site_only_imports(root: Path) -> list[str]:
    wrong = []
    for play in load(root / "playbooks/site.yml"):
        if set(play) != {"name", "ansible.builtin.import_playbook"}:
            wrong.append(f"site.yml: {play.get('name')!r} does more than import a playbook")
        elif not (root / "playbooks" / play["ansible.builtin.import_playbook"]).is_file():
            wrong.append(f"site.yml: {play['ansible.builtin.import_playbook']} does not exist")
    return wrong


def plays_are_sentences(root: Path) -> list[str]:
    """A play's name is true afterwards: "Every zone answers", and not "Install the zones"."""
    wrong = []
    for path in playbooks(root):
        for play in load(path):
            words = str(play.get("name", "")).split()
            if "ansible.builtin.import_playbook" not in play and (len(words) < 3 or words[0] in VERBS or not words[0][0].isupper()):
                wrong.append(f"{path.name}: {play.get('name')!r} is no sentence")
    return wrong


def plays_have_tags(root: Path) -> list[str]:
    wrong = []
    for path in playbooks(root):
        for play in load(path):
            if "ansible.builtin.import_playbook" in play:
                continue
            listed = [role for role in play.get("roles", []) if not (isinstance(role, dict) and role.get("tags"))]
            if not play.get("tags") and (listed or not play.get("roles")):
                wrong.append(f"{path.name}: {play.get('name')!r} has no tags")
            wrong += [f"{path.name}: the task {task.get('name')!r} has tags" for task in play.get("tasks", []) if "tags" in task]
    return wrong


def titles(plays: list[dict[str, Any]]) -> list[str]:
    """Names of plays and of the blocks directly in them, in order: where a runbook's phases stand."""
    found = []
    for play in plays:
        found.append(str(play.get("name", "")))
        for task in play.get("tasks", []):
            if "block" in task:
                found.append(str(task.get("name", "")))
                found += [str(inner.get("name", "")) for inner in task.get("always", []) if "block" in inner]
    return found


def runbooks_have_their_phases(root: Path) -> list[str]:
    """`<number> <title>`, numbered as in the table of runbooks/README.md; one with nothing to do is left out."""
    wrong = []
    for path in runbooks(root):
        found = [match for title in titles(load(path)) if (match := re.match(r"(\d+)\.? (\w+)", title))]
        numbers = [int(match[1]) for match in found]
        for match in found:
            if match[2] not in PHASES or PHASES.index(match[2]) + 1 != int(match[1]):
                wrong.append(f"{path.name}: {match[0]!r} is no phase; they are " + ", ".join(f"{n} {p}" for n, p in enumerate(PHASES, 1)))
        if numbers != sorted(numbers):
            wrong.append(f"{path.name}: the phases are out of order: {numbers}")
        for needed in ("Open", "Preflight", "Verify", "Close"):
            if needed not in [match[2] for match in found]:
                wrong.append(f"{path.name}: there is no phase {needed}")
    return wrong


def runbooks_leave_evidence(root: Path) -> list[str]:
    """Open, Close and, before a Switch, Confirm are role evidence's; Open cannot be left out by tags."""
    wrong = []
    for path in runbooks(root):
        plays, entered = load(path), []
        for play in plays:
            for task in tasks(play.get("tasks")):
                used = task.get("ansible.builtin.import_role") or {}
                if used.get("name") == "evidence":
                    entered.append(used.get("tasks_from", "main"))
                    if entered[-1] == "open" and play.get("tags") not in ("always", ["always"]):
                        wrong.append(f"{path.name}: the play that opens the run has no tags: always")
        needed = ["open", "close"] + (["confirm"] if re.search(r"^ *- name: 5 Switch", path.read_text(), re.M) else [])
        wrong += [f"{path.name}: does not import role evidence, tasks_from: {verb}" for verb in needed if verb not in entered]
    return wrong


def runbooks_have_their_header(root: Path) -> list[str]:
    wrong = []
    for path in runbooks(root):
        text = path.read_text()
        header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        wrong += [f"{path.name}: the header has no '{part}:'" for part in HEADER if not re.search(rf"^# {part}: \S", header, re.M)]
        inverse = re.search(r"^# Inverse: (\S+\.yml)", header, re.M)
        if not inverse or not ((root / "runbooks" / inverse[1]).is_file() or (root / inverse[1]).is_file()):
            wrong.append(f"{path.name}: the inverse is no file in runbooks/ and none from the top (such as playbooks/site.yml)")
        if f"ansible-playbook runbooks/{path.name}" not in header:
            wrong.append(f"{path.name}: the header has no command that runs this file")
        if len(text.splitlines()) > MAX_RUNBOOK_LINES:
            wrong.append(f"{path.name}: more than {MAX_RUNBOOK_LINES} lines; mechanics belong into a role")
    return wrong


RULES = [
    site_only_imports,
    plays_are_sentences,
    plays_have_tags,
    runbooks_have_their_phases,
    runbooks_leave_evidence,
    runbooks_have_their_header,
]

GOOD = {
    "playbooks/site.yml": "- name: Import the zones\n  ansible.builtin.import_playbook: zones.yml\n",
    "playbooks/zones.yml": "- name: Every zone answers\n  hosts: zones\n  roles:\n    - {role: lamp, tags: [lamp]}\n",
    "runbooks/close.yml": """# Close a zone.
# When to use: a zone misbehaves.
# When not to use: a second zone is away.
# Users see: nothing.
# Duration: 1 minute.
# Inverse: open.yml
# Command: ansible-playbook runbooks/close.yml -i inventories/lab
- name: 1 Open the run
  hosts: zones
  tags: always
  tasks:
    - ansible.builtin.import_role: {name: evidence, tasks_from: open}
- name: 2 Preflight
  hosts: zones
- name: 3 Confirm
  hosts: zones
  tasks:
    - ansible.builtin.import_role: {name: evidence, tasks_from: confirm}
- name: The zone is closed
  hosts: zones
  tasks:
    - name: 4 Prepare
      block: []
    - name: 5 Switch
      block: []
      always:
        - name: 6 Verify
          block: []
- name: 8 Close
  hosts: zones
  tasks:
    - ansible.builtin.import_role: {name: evidence, tasks_from: close}
""",
}
GOOD["runbooks/open.yml"] = (
    GOOD["runbooks/close.yml"].replace("runbooks/close.yml", "runbooks/open.yml").replace("open.yml\n#", "close.yml\n#")
)
BREAKS: list[Break] = [
    (site_only_imports, "playbooks/site.yml", "zones.yml", "nothing.yml"),
    (site_only_imports, "playbooks/site.yml", "ansible.builtin.import_playbook: zones.yml", "hosts: all"),
    (plays_are_sentences, "playbooks/zones.yml", "Every zone answers", "Install the zones"),
    (plays_are_sentences, "playbooks/zones.yml", "Every zone answers", "Zones"),
    (plays_have_tags, "playbooks/zones.yml", ", tags: [lamp]", ""),
    (runbooks_have_their_phases, "runbooks/close.yml", "5 Switch", "5 Cutover"),
    (runbooks_have_their_phases, "runbooks/close.yml", "5 Switch", "4 Switch"),
    (runbooks_have_their_phases, "runbooks/close.yml", "6 Verify", "2 Preflight"),
    (runbooks_have_their_phases, "runbooks/close.yml", "- name: 8 Close\n", "- name: The end\n"),
    (runbooks_leave_evidence, "runbooks/close.yml", "tasks_from: open", "tasks_from: preflight"),
    (runbooks_leave_evidence, "runbooks/close.yml", "tasks_from: close", "tasks_from: record"),
    (runbooks_leave_evidence, "runbooks/close.yml", "tasks_from: confirm", "tasks_from: record"),
    (runbooks_leave_evidence, "runbooks/close.yml", "  tags: always\n", ""),
    (runbooks_have_their_header, "runbooks/close.yml", "# Users see: nothing.\n", ""),
    (runbooks_have_their_header, "runbooks/close.yml", "Inverse: open.yml", "Inverse: none"),
    (runbooks_have_their_header, "runbooks/open.yml", "", ""),
    (runbooks_have_their_header, "runbooks/close.yml", "ansible-playbook runbooks/close.yml", "see above"),
    (runbooks_have_their_header, "runbooks/close.yml", "# Close a zone.\n", "# Close a zone.\n" * 150),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project(rule):
    assert rule(ROOT) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_good_tree(rule, tree):
    assert rule(tree(GOOD)) == []


@pytest.mark.parametrize(("rule", "name", "old", "new"), BREAKS, ids=ids(BREAKS))
def test_control(rule, name, old, new, tree):
    assert rule(break_tree(tree(GOOD), name, old, new)) != []


def test_every_rule_has_a_control():
    assert {rule for rule, *_ in BREAKS} == set(RULES)


def test_there_are_playbooks():
    assert (ROOT / "playbooks/site.yml") in playbooks(ROOT)
    assert len(playbooks(ROOT)) > 1

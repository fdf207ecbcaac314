"""Roles keep the house's shape: docs/architecture.md and CONTRIBUTING.md say why."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SECRET, Break, break_tree, ids, load, role_tasks, roles, tasks

VERBS = (
    "Assert Build Choose Compute Create Find Get Give Have Import Install Pack Prepare Pull Push Read Record Reload Remove Renew Restart "
    "Sign Start Stop Switch Take Verify Wait Write"
).split()
MAX_OPTIONS = 25
WANTS_UNIT = re.compile(r"timeout|drain|window|delay|interval|grace|_life|_age|memory|max_value|drift|staleness|_before|_size")
UNITS = re.compile(r"_(seconds|ms|minutes|hours|days|bytes)$")
NEGATIVE = re.compile(r"_(no|not|without|disable|disabled|skip|dont)_")


def specs(role: Path) -> dict[str, dict[str, Any]]:
    """Every option of the role, over all entry points."""
    points = load(role / "meta/argument_specs.yml")["argument_specs"]
    return {name: option for point in points.values() for name, option in point.get("options", {}).items()}


def defaults(role: Path) -> dict[str, Any]:
    return load(role / "defaults/main.yml") or {}


def has_its_files(root: Path) -> list[str]:
    wanted = ["meta/argument_specs.yml", "defaults/main.yml", "tasks/main.yml", "tasks/preflight.yml", "README.md"]
    return [f"{role.name}: {name} is missing" for role in roles(root) for name in wanted if not (role / name).is_file()]


def specs_equal_defaults(root: Path) -> list[str]:
    wrong = []
    for role in roles(root):
        options, given = specs(role), defaults(role)
        wrong += [f"{role.name}: {name} has a default and no spec" for name in given.keys() - options.keys()]
        for name, option in options.items():
            if option.get("required") and ("default" in option or name in given):
                wrong.append(f"{role.name}: {name} is required and has a default")
            elif not option.get("required") and name not in given:
                wrong.append(f"{role.name}: {name} is not required and has no default")
            elif name in given and (option.get("default"), type(option.get("default"))) != (given[name], type(given[name])):
                wrong.append(f"{role.name}: {name} is {option.get('default')!r} in the spec and {given[name]!r} in the defaults")
            if "type" not in option or not option.get("description"):
                wrong.append(f"{role.name}: {name} has no type or no description")
    return wrong


def entry_points_exist(root: Path) -> list[str]:
    """Each entry point has its task file, and what playbooks and runbooks enter has a spec."""
    wrong = []
    for role in roles(root):
        points = load(role / "meta/argument_specs.yml")["argument_specs"]
        wrong += [f"{role.name}: entry point {point} has no task file" for point in points if not (role / f"tasks/{point}.yml").is_file()]
    for path in sorted([*root.glob("playbooks/*.yml"), *root.glob("runbooks/*.yml")]):
        for play in load(path):
            for task in tasks(play.get("tasks")):
                used = task.get("ansible.builtin.import_role") or task.get("ansible.builtin.include_role") or {}
                spec = root / "roles" / used.get("name", "") / "meta/argument_specs.yml"
                if used and used.get("tasks_from", "main") not in load(spec)["argument_specs"]:
                    wrong.append(f"{path.name}: {used['name']}/{used['tasks_from']} has no argument spec")
    return wrong


def names_are_right(root: Path) -> list[str]:
    wrong = []
    for role in roles(root):
        own = set(specs(role)) | set(defaults(role))
        wrong += [f"{role.name}: option {name} does not start with the role's name" for name in own if not name.startswith(f"{role.name}_")]
        inner = set(load(role / "vars/main.yml") or {}) if (role / "vars/main.yml").is_file() else set()
        for _, task in role_tasks(role):
            inner |= {task["register"]} if "register" in task else set()
            inner |= set(task.get("vars") or {}) | set(task.get("ansible.builtin.set_fact") or {})
        wrong += [f"{role.name}: {name} does not start with __{role.name}_" for name in inner if not name.startswith(f"__{role.name}_")]
        files = [path.stem for path in role.glob("tasks/*.yml")]
        wrong += [
            f"{role.name}: {name} is not snake_case" for name in [role.name, *own, *inner, *files] if not re.fullmatch(r"[a-z_0-9]+", name)
        ]
    return wrong


def units_are_named(root: Path) -> list[str]:
    wrong = []
    for role in roles(root):
        for name, option in specs(role).items():
            if option["type"] in ("int", "float") and WANTS_UNIT.search(name) and not UNITS.search(name):
                wrong.append(f"{role.name}: {name} names no unit")
            if option["type"] == "bool" and NEGATIVE.search(name):
                wrong.append(f"{role.name}: {name} is a negative boolean")
    return wrong


def options_are_few(root: Path) -> list[str]:
    return [f"{role.name}: {len(specs(role))} options, at most {MAX_OPTIONS}" for role in roles(root) if len(specs(role)) > MAX_OPTIONS]


def roles_stand_alone(root: Path) -> list[str]:
    wrong = []
    for role in roles(root):
        if (role / "meta/main.yml").is_file() and (load(role / "meta/main.yml") or {}).get("dependencies"):
            wrong.append(f"{role.name}: depends on other roles through meta")
        for path in sorted(role.rglob("*")):
            if path.suffix in (".yml", ".j2") and re.search(r"\bgroups\s*(\[|\.)|\bhostvars\s*(\[|\.)", path.read_text()):
                wrong.append(f"{role.name}: {path.name} reads the inventory's groups or other hosts' variables")
    return wrong


def failures_are_not_hidden(root: Path) -> list[str]:
    wrong = []
    for role in roles(root):
        for path, task in role_tasks(role):
            where = f"{role.name}/{path.name}: {task.get('name')}"
            if "ignore_errors" in task or "ignore_unreachable" in task:
                wrong.append(f"{where}: ignores errors")
            if task.get("failed_when") is False and not str(task.get("name")).startswith(("Read ", "Pull ")):
                wrong.append(f"{where}: cannot fail and does more than look")
            if "tags" in task:
                wrong.append(f"{where}: has tags; they belong into the playbook")
    return wrong


def secrets_are_not_shown(root: Path) -> list[str]:
    wrong = []
    for role in roles(root):
        for path, task in role_tasks(role):
            module = next((task[name] for name in ("ansible.builtin.copy", "ansible.builtin.template") if name in task), None)
            if module is None:
                continue
            text = f"{module.get('content', '')} {task.get('loop', '')}"
            source = role / "templates" / str(module.get("src", ""))
            if "ansible.builtin.template" in task and source.is_file():
                text += " ".join(re.findall(r"\{\{.*?\}\}", source.read_text()))
            shows = SECRET.search(" ".join(re.findall(r"\{\{.*?\}\}", text)))
            if shows and not (task.get("no_log") or task.get("diff") is False):
                wrong.append(f"{role.name}/{path.name}: {task['name']}: writes a {shows[0]} without no_log or diff: false")
    return wrong


def tasks_start_with_a_verb(root: Path) -> list[str]:
    wrong = []
    for role in roles(root):
        for path, task in role_tasks(role):
            words = str(task.get("name", "")).replace(",", "").split()
            if len(words) < 2 or words[0] not in VERBS or (words[0], words[1]) in [("Find", "the"), ("Wait", "until")]:
                wrong.append(f"{role.name}/{path.name}: {task.get('name')!r} does not start with one of {', '.join(VERBS)}")
        for path in role.glob("handlers/*.yml"):
            wrong += [
                f"{role.name}: handler {t.get('name')!r}" for t in load(path) if not re.match(r"(Reload|Restart) \w", str(t.get("name")))
            ]
    return wrong


RULES = [
    has_its_files,
    specs_equal_defaults,
    entry_points_exist,
    names_are_right,
    units_are_named,
    options_are_few,
    roles_stand_alone,
    failures_are_not_hidden,
    secrets_are_not_shown,
    tasks_start_with_a_verb,
]

SPEC = """
argument_specs:
  main: &main
    options:
      lamp_watts: {type: int, default: 5, description: Power.}
      lamp_timeout_seconds: {type: int, default: 3, description: Patience.}
      lamp_is_on: {type: bool, default: true, description: Whether it shines.}
      lamp_password: {type: str, required: true, description: Its password.}
  preflight: *main
"""
GOOD = {
    "roles/lamp/meta/argument_specs.yml": SPEC,
    "roles/lamp/defaults/main.yml": "lamp_watts: 5\nlamp_timeout_seconds: 3\nlamp_is_on: true\n",
    "roles/lamp/tasks/main.yml": """
- name: Read the lamp
  ansible.builtin.command: lamp
  register: __lamp_read
  failed_when: false
- name: Write the password
  block:
    - name: Write it
      ansible.builtin.copy: {content: "{{ lamp_password }}", dest: /x}
      no_log: true
- name: Write the settings
  ansible.builtin.template: {src: lamp.j2, dest: /y}
  diff: false
""",
    "roles/lamp/tasks/preflight.yml": "[]\n",
    "roles/lamp/templates/lamp.j2": "{{ lamp_password }}\n",
    "roles/lamp/handlers/main.yml": "- name: Restart the lamp\n",
    "roles/lamp/README.md": "",
    "playbooks/site.yml": "- tasks:\n    - ansible.builtin.import_role: {name: lamp, tasks_from: preflight}\n",
}
MAIN, DEFAULTS, META = "roles/lamp/tasks/main.yml", "roles/lamp/defaults/main.yml", "roles/lamp/meta/argument_specs.yml"
BREAKS: list[Break] = [
    (has_its_files, "roles/lamp/README.md", "", ""),
    (has_its_files, "roles/lamp/tasks/preflight.yml", "", ""),
    (specs_equal_defaults, DEFAULTS, "5", "6"),
    (specs_equal_defaults, DEFAULTS, "lamp_watts: 5\n", ""),
    (specs_equal_defaults, DEFAULTS, "lamp_watts: 5\n", "lamp_watts: 5\nlamp_more: 1\n"),
    (specs_equal_defaults, DEFAULTS, "lamp_watts: 5\n", "lamp_watts: 5\nlamp_password: x\n"),
    (specs_equal_defaults, DEFAULTS, "true", "1"),
    (entry_points_exist, META, "preflight:", "promote:"),
    (entry_points_exist, "playbooks/site.yml", "preflight", "promote"),
    (names_are_right, META, "lamp_watts", "watts"),
    (names_are_right, META, "lamp_watts", "lamp_Watts"),
    (names_are_right, MAIN, "__lamp_read", "lamp_read"),
    (units_are_named, META, "lamp_timeout_seconds", "lamp_timeout"),
    (units_are_named, META, "lamp_is_on", "lamp_not_off"),
    (options_are_few, META, "    options:\n", "    options:\n" + "".join(f"      lamp_{n}: {{type: int}}\n" for n in range(22))),
    (roles_stand_alone, "roles/lamp/meta/main.yml", "", "dependencies: [socket]\n"),
    (roles_stand_alone, "roles/lamp/templates/lamp.j2", "lamp_password", "groups['zones']"),
    (failures_are_not_hidden, MAIN, "  no_log: true", "  ignore_errors: true"),
    (failures_are_not_hidden, MAIN, "Read the lamp", "Start the lamp"),
    (failures_are_not_hidden, MAIN, "  no_log: true", "  tags: [x]"),
    (secrets_are_not_shown, MAIN, "      no_log: true\n", ""),
    (secrets_are_not_shown, MAIN, "  diff: false\n", ""),
    (tasks_start_with_a_verb, MAIN, "Write it", "Ensure it"),
    (tasks_start_with_a_verb, "roles/lamp/handlers/main.yml", "Restart the", "Bounce the"),
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


def test_there_are_roles():
    assert len(roles(ROOT)) >= 8

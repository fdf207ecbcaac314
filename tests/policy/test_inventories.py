"""The production example is complete, and holds no secret and nothing of the lab."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SECRET, Break, break_tree, ids, load

REFERENCE = re.compile(r"\{\{ (\w+) \}\}")
LOOKS_SECRET = re.compile(r"[0-9a-fA-F]{16,}|(?=\S*\d)(?=\S*[a-z])(?=\S*[A-Z])[A-Za-z0-9+/_=-]{20,}|-----BEGIN .*", re.S)
LAB_ONLY = {"lab/connection.yml"}
FOR_EXAMPLES = re.compile(r"192\.0\.2\.\d+|198\.51\.100\.\d+|203\.0\.113\.\d+|127\.0\.0\.1")


def production(root: Path) -> Path:
    return root / "inventories/production"


def variable_files(root: Path) -> dict[Path, dict[str, Any]]:
    """All variable files but the vault, which is encrypted."""
    found = sorted(production(root).glob("group_vars/**/*.yml"))
    return {path: load(path) or {} for path in found if path.name != "vault.yml"}


def values(held: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with the name of the variable or key it belongs to."""
    if isinstance(held, dict):
        for key, value in held.items():
            yield from values(value, str(key))
    elif isinstance(held, list):
        for value in held:
            yield from values(value, name)
    else:
        yield name, held


def has_the_labs_files(root: Path) -> list[str]:
    lab, ours = root / "inventories/lab/group_vars", production(root) / "group_vars"
    wanted = {str(path.relative_to(lab)) for path in lab.glob("**/*.yml")} - LAB_ONLY
    return [f"group_vars/{name} is missing" for name in sorted(wanted) if not (ours / name).is_file()]


def sets_what_roles_require(root: Path) -> list[str]:
    """Every option without a default is set, but those that the playbooks give."""
    given = {name for held in variable_files(root).values() for name in held}
    given |= set(re.findall(r"^ +(\w+):", "".join(path.read_text() for path in (root / "playbooks").glob("*.yml")), re.M))
    wrong = []
    for spec in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        options = load(spec)["argument_specs"]["main"]["options"]
        wrong += [f"{name} is required and not set" for name, option in options.items() if option.get("required") and name not in given]
    return wrong


def secrets_come_from_the_vault(root: Path) -> list[str]:
    wrong = []
    for path, held in variable_files(root).items():
        for name, value in held.items():
            if name.startswith("vault_"):
                wrong.append(f"{path.name}: {name} is defined outside the vault")
            elif SECRET.search(name):
                reference = REFERENCE.fullmatch(str(value))
                if not reference or not (reference[1].startswith("vault_") or SECRET.search(reference[1])):
                    wrong.append(f"{path.name}: {name} does not come from a vault_ variable")
        wrong += [f"{path.name}: {name} looks like a secret" for name, value in values(held) if LOOKS_SECRET.fullmatch(str(value))]
        wrong += [
            f"{path.name}: {name} gives a vault_ variable a default"
            for name, value in values(held)
            if re.search(r"vault_\w+ *\|", str(value))
        ]
    return wrong


def vault_is_encrypted(root: Path) -> list[str]:
    found = [path for path in (root / "inventories").glob("**/*vault*") if path.is_file()]
    return [f"{path.name} is not encrypted" for path in found if not path.read_text().startswith("$ANSIBLE_VAULT;")]


def readme_lists_the_vault(root: Path) -> list[str]:
    used = {name for held in variable_files(root).values() for _, value in values(held) for name in re.findall(r"vault_\w+", str(value))}
    listed = set(re.findall(r"^\| `(vault_\w+)`", (production(root) / "README.md").read_text(), re.M))
    return [f"{name} is only in the README or only used" for name in sorted(used ^ listed)]


def holds_nothing_of_the_lab(root: Path) -> list[str]:
    wrong = []
    for path in [production(root) / "hosts.yml", *variable_files(root)]:
        settings = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.M)
        wrong += [
            f"{path.name}: {found}" for found in re.findall(r"\blab[_-]\w+|\.lab\b|StrictHostKeyChecking|UserKnownHostsFile", settings)
        ]
        wrong += [f"{path.name}: {found}" for found in re.findall(r"\d+\.\d+\.\d+\.\d+", settings) if not FOR_EXAMPLES.fullmatch(found)]
    return wrong


def nothing_is_latest(root: Path) -> list[str]:
    places = [
        *root.glob("inventories/**/*.yml"),
        *root.glob("roles/**/*.yml"),
        *root.glob("roles/**/*.j2"),
        *root.glob("roles/**/Dockerfile"),
    ]
    return [f"{path.name} asks for the latest" for path in places if re.search(r"[:=@ ]latest\b", re.sub(r"#.*", "", path.read_text()))]


RULES = [
    has_the_labs_files,
    sets_what_roles_require,
    secrets_come_from_the_vault,
    vault_is_encrypted,
    readme_lists_the_vault,
    holds_nothing_of_the_lab,
    nothing_is_latest,
]

GROUP_VARS = "inventories/production/group_vars"
LAMP = f"{GROUP_VARS}/all/lamp.yml"
GOOD = {
    "inventories/lab/group_vars/all/lamp.yml": "",
    "inventories/lab/group_vars/lab/connection.yml": "",
    "inventories/production/hosts.yml": "all: {hosts: {a.example.net: {ansible_host: 192.0.2.1}}}\n",
    "inventories/production/README.md": "| `vault_lamp_password` | x |\n",
    LAMP: 'lamp_password: "{{ vault_lamp_password }}"\nlamp_user: bob\nlamp_image: "{{ lamp_images.a }}"\n',
    f"{GROUP_VARS}/all/shade.yml": 'shade_password: "{{ lamp_password }}"\n',
    "playbooks/site.yml": "- hosts: all\n  vars:\n    lamp_list: []\n",
    "roles/lamp/meta/argument_specs.yml": "argument_specs: {main: {options: {lamp_user: {required: true}, lamp_list: {required: true}}}}\n",
}
BREAKS: list[Break] = [
    (has_the_labs_files, LAMP, "", ""),
    (sets_what_roles_require, LAMP, "lamp_user: bob\n", ""),
    (secrets_come_from_the_vault, LAMP, "{{ vault_lamp_password }}", "changeme"),
    (secrets_come_from_the_vault, LAMP, "{{ vault_lamp_password }}", "{{ lamp_user }}"),
    (secrets_come_from_the_vault, LAMP, "{{ vault_lamp_password }}", "{{ vault_lamp_password | default('x') }}"),
    (secrets_come_from_the_vault, LAMP, "lamp_user: bob", "vault_lamp_password: bob"),
    (secrets_come_from_the_vault, LAMP, "bob", "0123456789abcdef0123456789abcdef"),
    (secrets_come_from_the_vault, LAMP, "bob", "[{name: {deep: Zm9vYmFyQmF6MTIzNDU2Nzg5}}]"),
    (vault_is_encrypted, f"{GROUP_VARS}/all/vault.yml", "", "vault_lamp_password: x\n"),
    (vault_is_encrypted, f"{GROUP_VARS}/all/vault.example.yml", "", "vault_lamp_password: x\n"),
    (readme_lists_the_vault, "inventories/production/README.md", "vault_lamp_password", "vault_lamp_passwort"),
    (holds_nothing_of_the_lab, LAMP, "bob", '"{{ lab_state_dir }}"'),
    (holds_nothing_of_the_lab, LAMP, "bob", '"-o StrictHostKeyChecking=no"'),
    (holds_nothing_of_the_lab, "inventories/production/hosts.yml", "192.0.2.1", "10.0.0.1"),
    (nothing_is_latest, LAMP, "bob", "debian:latest"),
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


def test_host_keys_are_checked():
    assert re.search(r"^host_key_checking = True$", (ROOT / "ansible.cfg").read_text(), re.M)

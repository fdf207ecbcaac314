"""What is installed is what is written: pinned, hashed, and the same collections with Galaxy and without."""

import json
import re
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT, Break, break_tree, ids, load

COLLECTIONS = Path(sysconfig.get_path("purelib")) / "ansible_collections"
LOCKS = ["requirements.txt", "app/requirements.txt", "app/requirements-build.txt"]


def collections_match(root: Path, installed: Path = COLLECTIONS) -> list[str]:
    """requirements.yml names the versions that the `ansible` package brings."""
    wrong = []
    for item in load(root / "requirements.yml")["collections"]:
        manifest = installed / item["name"].replace(".", "/") / "MANIFEST.json"
        version = json.loads(manifest.read_text())["collection_info"]["version"] if manifest.is_file() else "nowhere"
        if item.get("version") != version:
            wrong.append(f"{item['name']} is {item.get('version')} in requirements.yml and {version} in the ansible package")
    return wrong


def used_collections_are_required(root: Path) -> list[str]:
    text = "".join(path.read_text() for folder in ("roles", "playbooks", "runbooks") for path in (root / folder).rglob("*.yml"))
    used = set(re.findall(r"^\s*(?:- )?((?:community|ansible|containers)\.\w+)\.\w+:", text, re.M)) - {"ansible.builtin"}
    named = {item["name"] for item in load(root / "requirements.yml")["collections"]}
    return [f"{name} is used and not in requirements.yml" for name in sorted(used - named)]


def entries(text: str) -> list[str]:
    """The requirements of a lock file, each with its options on one line."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [line for line in lines if not line.startswith("-")]


def locks_are_hashed(root: Path) -> list[str]:
    wrong = []
    for name in LOCKS:
        if not (root / name).is_file():
            wrong.append(f"{name} is missing")
            continue
        text = (root / name).read_text()
        wrong += [
            f"{name}: {e.split()[0]} has no version or no hash"
            for e in entries(text)
            if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", e)
        ]
        if re.search(r"^\s*-{1,2}(i|f|index-url|extra-index-url|find-links)\b|https?://", text, re.M):
            wrong.append(f"{name} names where packages come from; that is the machine's own setting")
    return wrong


def pins_are_locked(root: Path) -> list[str]:
    """What requirements.in asks for by version is locked at that version, the rest at some version."""
    locked = dict(entry.split()[0].split("==") for entry in entries((root / "requirements.txt").read_text()))
    wrong = []
    for line in (root / "requirements.in").read_text().splitlines():
        match = re.match(r"(\w[\w-]*)(?:==(\S+))?", line)
        if match and (match[1] not in locked or (match[2] and locked[match[1]] != match[2])):
            wrong.append(f"{match[0]} is {locked.get(match[1])} in requirements.txt")
    return wrong


RULES = [collections_match, used_collections_are_required, locks_are_hashed, pins_are_locked]

HASH = "--hash=sha256:" + "0" * 64
GOOD = {
    "requirements.yml": "collections:\n"
    + "".join(f"  - {{name: {c['name']}, version: {c['version']}}}\n" for c in load(ROOT / "requirements.yml")["collections"]),
    "roles/lamp/tasks/main.yml": "- name: x\n  community.docker.docker_image:\n",
    "playbooks/site.yml": "",
    "runbooks/x.yml": "",
    "requirements.in": "lamp==1.0\nshade  # why\n",
} | dict.fromkeys(LOCKS, f"lamp==1.0 \\\n    {HASH}\n    # via x\nshade==2 \\\n    {HASH}\n")
BREAKS: list[Break] = [
    (collections_match, "requirements.yml", "version: ", "version: 99."),
    (collections_match, "requirements.yml", "community.docker", "community.podman"),
    (used_collections_are_required, "roles/lamp/tasks/main.yml", "community.docker", "community.podman"),
    (locks_are_hashed, "requirements.txt", "shade==2 \\\n    " + HASH, "shade==2"),
    (locks_are_hashed, "app/requirements.txt", "shade==2", "shade>=2"),
    (locks_are_hashed, "requirements.txt", "lamp==1.0", "--index-url x\nlamp==1.0"),
    (locks_are_hashed, "app/requirements-build.txt", "", ""),
    (pins_are_locked, "requirements.in", "1.0", "1.1"),
    (pins_are_locked, "requirements.in", "shade", "shadow"),
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

"""Imports in app/ run one way, and the algorithms touch nothing: so they can be run in a simulator as they are."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT, Break, break_tree, ids

PURE = {"registers", "multiprimary", "tags", "hlc", "breaker", "keys"}
PURE_MAY_USE = PURE | {"contract", "errors", "sessions"}  # what an algorithm is told and what it answers with
IMPURE = set("asyncio datetime flask http os pathlib queue random redis secrets select socket ssl subprocess time urllib uuid".split())
ENTRANCES = {"api", "server", "replicate_server", "cli", "__main__"}
FLASK = {"api", "limits", "server"}
REDIS = {"link"}
MAX_LINES = 350


def modules(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((root / "app/src/holdfast").rglob("*.py"))}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(the package's own modules, the first names of foreign ones) that a module imports, anywhere in it."""
    own: set[str] = set()
    foreign: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            own |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        own |= {name.split(".")[1] for name in names if name.startswith("holdfast.")}
        foreign |= {name.split(".")[0] for name in names if not name.startswith("holdfast.")}
    return own, foreign


def algorithms_are_pure(root: Path) -> list[str]:
    wrong = []
    for name, path in modules(root).items():
        if name in PURE:
            own, foreign = imports(path)
            wrong += [f"{name} is an algorithm and imports {other}" for other in sorted(foreign & IMPURE | own - PURE_MAY_USE)]
    return wrong


def imports_run_one_way(root: Path) -> list[str]:
    """Nothing imports an entrance but another entrance."""
    wrong = []
    for name, path in modules(root).items():
        if name not in ENTRANCES:
            wrong += [f"{name} imports {other}, which is an entrance" for other in sorted(imports(path)[0] & ENTRANCES)]
    return wrong


def frameworks_stay_in_their_place(root: Path) -> list[str]:
    wrong = []
    for name, path in modules(root).items():
        foreign = imports(path)[1]
        if foreign & {"flask", "flask_limiter", "werkzeug"} and name not in FLASK:
            wrong.append(f"{name} imports Flask; only {', '.join(sorted(FLASK))} do")
        if foreign & {"redis", "hiredis"} and name not in REDIS:
            wrong.append(f"{name} imports redis; only {', '.join(sorted(REDIS))} does")
    return wrong


def modules_are_finished(root: Path) -> list[str]:
    wrong = [f"{name}: a module of leftovers" for name in modules(root) if name.endswith(("utils", "util", "helpers", "common", "misc"))]
    for name, path in modules(root).items():
        if (lines := len(path.read_text().splitlines())) > MAX_LINES:
            wrong.append(f"{name} has {lines} lines, at most {MAX_LINES}")
    return wrong


RULES = [algorithms_are_pure, imports_run_one_way, frameworks_stay_in_their_place, modules_are_finished]

SOURCE = "app/src/holdfast"
GOOD = {
    f"{SOURCE}/registers.py": "import threading\nfrom .tags import Tag\nfrom . import contract\n",
    f"{SOURCE}/tags.py": "import itertools\n",
    f"{SOURCE}/link.py": "import redis\n",
    f"{SOURCE}/cp_service.py": "import time\nfrom .registers import x\nfrom .link import y\n",
    f"{SOURCE}/api.py": "import flask\nfrom .cp_service import x\n",
    f"{SOURCE}/server.py": "from .api import x\n",
}
BREAKS: list[Break] = [
    (algorithms_are_pure, f"{SOURCE}/tags.py", "itertools", "time"),
    (algorithms_are_pure, f"{SOURCE}/tags.py", "import itertools", "def f():\n    from random import random"),
    (algorithms_are_pure, f"{SOURCE}/registers.py", "from . import contract", "from . import link"),
    (algorithms_are_pure, f"{SOURCE}/registers.py", "from .tags import Tag", "from holdfast.settings import Settings"),
    (imports_run_one_way, f"{SOURCE}/cp_service.py", ".link", ".api"),
    (imports_run_one_way, f"{SOURCE}/cp_service.py", "from .link import y", "import holdfast.server"),
    (frameworks_stay_in_their_place, f"{SOURCE}/cp_service.py", "import time", "from flask import g"),
    (frameworks_stay_in_their_place, f"{SOURCE}/cp_service.py", "import time", "import redis.asyncio"),
    (modules_are_finished, f"{SOURCE}/time_utils.py", "", "x = 1\n"),
    (modules_are_finished, f"{SOURCE}/tags.py", "import itertools\n", "import itertools\n" * 351),
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


def test_the_algorithms_are_there():
    assert set(modules(ROOT)) >= PURE

"""The repository read as data. A rule is a function that takes a directory and returns what is wrong in it, one line each.

Every rule has a control: a small tree that obeys all rules (`good_tree`), broken in one place, on which the rule must object.
"""

import fnmatch
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"password|secret|passphrase|token")

Rule = Callable[[Path], list[str]]
Break = tuple[Rule, str, str, str]


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader; `!vault` and other tags become what they hold."""


Loader.add_multi_constructor(
    "!", lambda loader, _suffix, node: loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None
)


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader)  # noqa: S506 - a safe loader


def roles(root: Path) -> list[Path]:
    return sorted(path for path in (root / "roles").iterdir() if path.is_dir())


def tasks(listed: Any) -> Iterator[dict[str, Any]]:
    """All tasks of a task file or of a play's list, those inside blocks as well; the blocks themselves too."""
    for task in listed or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks(task.get(part))


def role_tasks(role: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((role / "tasks").glob("*.yml")):
        for task in tasks(load(path)):
            yield path, task


def tracked(root: Path) -> list[Path]:
    """The files that are part of the project: all but what .gitignore names."""
    patterns = [line.strip().rstrip("/") for line in (root / ".gitignore").read_text().splitlines() if line.strip()] + [".git", ".ansible"]
    found = []
    for place in root.iterdir():
        found += _kept(place, root, patterns)
    return sorted(found)


def _kept(place: Path, root: Path, patterns: list[str]) -> list[Path]:
    relative = str(place.relative_to(root))
    if any(fnmatch.fnmatch(relative if "/" in pattern else place.name, pattern) for pattern in patterns):
        return []
    if place.is_dir() and not place.is_symlink():
        return [path for inside in place.iterdir() for path in _kept(inside, root, patterns)]
    return [place]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def break_tree(root: Path, name: str, old: str, new: str) -> Path:
    """Replace `old` by `new` in a file of the tree; `old` == "" makes the file, `new` == "" without `old` removes it."""
    path = root / name
    if not old and not new:
        path.unlink()
    elif not old:
        write(root, {name: new})
    else:
        text = path.read_text()
        assert old in text, f"the control is out of date: {name} does not hold {old!r}"
        path.write_text(text.replace(old, new))
    return root


def ids(breaks: list[Break]) -> list[str]:
    return [f"{rule.__name__}-{number}" for number, (rule, *_) in enumerate(breaks)]


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    return lambda files: write(tmp_path, files)

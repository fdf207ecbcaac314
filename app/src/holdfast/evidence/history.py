"""All runs under one directory, newest first; what cannot be read is listed, not fatal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .drill import PAGE, BrokenRecord, Drill, load

_STAMP = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)")


@dataclass(frozen=True, slots=True)
class Run:
    """``drill`` or, of a broken one, ``problem``. ``at``: seconds since 1970, of a broken one by its name."""

    name: str
    at: float
    page: bool
    drill: Drill | None
    problem: str = ""


def runs(root: Path) -> list[Run]:
    """Raises OSError if the root cannot be listed."""
    found = [_run(path) for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda run: (run.at, run.name), reverse=True)


def _run(path: Path) -> Run:
    page = (path / PAGE).is_file()
    try:
        drill = load(path)
    except BrokenRecord as problem:
        return Run(path.name, _named_time(path.name), page, None, str(problem))
    return Run(path.name, drill.started, page, drill)


def _named_time(name: str) -> float:
    found = _STAMP.match(name)
    try:
        return datetime(*map(int, found.groups()), tzinfo=UTC).timestamp() if found else 0.0  # type: ignore[arg-type,misc]
    except ValueError:
        return 0.0

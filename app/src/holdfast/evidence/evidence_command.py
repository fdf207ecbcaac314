"""`holdfast evidence`: files and exit codes of its three commands."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from ..errors import SettingsError
from .drill import PAGE, PROBE, RECORD, BrokenRecord, load
from .drill_page import drill_page
from .files import replace
from .history import Run, runs
from .index_page import index_page
from .judge import judge, updated
from .measure import measure
from .textfile import textfile


def execute(arguments: argparse.Namespace) -> int:
    """Raises SettingsError."""
    return {"report": _report, "index": _index, "metrics": _metrics}[arguments.evidence_command](arguments)


def _report(arguments: argparse.Namespace) -> int:
    """Exit codes: judge.PASSED, FAILED, NOT_MEASURED."""
    directory: Path = arguments.directory
    try:
        drill = load(directory)
    except BrokenRecord as problem:
        raise SettingsError(f"{directory}: {problem}") from None
    probe = directory / PROBE
    measurement = measure(probe, drill) if drill.drill or probe.exists() else None
    if arguments.running:
        drill = dataclasses.replace(drill, run_verdict="passed")
    judgement = judge(drill, measurement)
    said = {"verdict": judgement.verdict, "measured": judgement.measured, "reasons": judgement.reasons}
    said |= {} if measurement is None else measurement.numbers()
    if not arguments.running:
        _write(directory / RECORD, json.dumps(updated(drill, measurement, judgement), indent=1) + "\n")
        _write(directory / PAGE, drill_page(drill, measurement, judgement))
        said["report"] = str(directory / PAGE)
    sys.stdout.write(json.dumps(said) + "\n")
    return judgement.exit_code


def _index(arguments: argparse.Namespace) -> int:
    path = arguments.root / "index.html"
    _write(path, index_page(_runs(arguments.root), time.time()))
    sys.stdout.write(json.dumps({"index": str(path)}) + "\n")
    return 0


def _metrics(arguments: argparse.Namespace) -> int:
    lines = textfile(_runs(arguments.root))
    if arguments.out is None:
        sys.stdout.write(lines)
    else:
        _write(arguments.out, lines)
    return 0


def _runs(root: Path) -> list[Run]:
    try:
        return runs(root)
    except OSError as problem:
        raise SettingsError(f"{root}: cannot be listed ({problem.strerror})") from None


def _write(path: Path, text: str) -> None:
    try:
        replace(path, text)
    except OSError as problem:
        raise SettingsError(f"{path}: cannot be written ({problem.strerror})") from None

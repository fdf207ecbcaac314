"""`holdfast probe`: settings, files and exit codes of its three commands."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
from pathlib import Path

from ..errors import SettingsError
from .acks import Acks
from .options import (
    Access,
    RunOptions,
    Target,
    check_run,
    check_targets,
    checked,
    make_access,
    parse_target,
    read_targets,
)
from .records import decode, parse_time
from .rendering import render
from .report import NoRun, Report
from .run import Probe
from .verify import Verifier


def execute(arguments: argparse.Namespace) -> int:
    """Raises SettingsError."""
    return {"run": _run, "verify": _verify, "report": _report}[arguments.probe_command](arguments)


def _run(arguments: argparse.Namespace) -> int:
    targets = check_targets(_targets(arguments))
    options = check_run(
        RunOptions(
            targets,
            _access(arguments, targets),
            arguments.rate,
            arguments.rate if arguments.read_rate is None else arguments.read_rate,
            arguments.duration,
            arguments.prefix,
            arguments.value_bytes,
            arguments.out,
            arguments.realtime,
        )
    )
    try:
        # Line-buffered: a line is with the kernel when its request is done. Exclusive: evidence is never overwritten.
        with options.out.open("x", buffering=1, encoding="utf-8") as out:
            gc.freeze()  # what start-up made stays; collections look at requests only and are short
            end = asyncio.run(Probe(options, out).run())
    except OSError as problem:
        raise SettingsError(f"--out {options.out}: cannot be written ({problem.strerror})") from None
    sys.stdout.write(json.dumps(end) + "\n")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.rate <= 10000 or arguments.rounds < 1 or min(arguments.pause, arguments.wait) < 0:
        raise SettingsError(
            "--rate must be above 0 and at most 10000, --rounds at least 1, --pause and --wait at least 0"
        )
    acks, of_run = _load(arguments.file)
    targets = check_targets(_targets(arguments) or of_run)
    if acks.layout is None:  # _load has refused such a file
        raise SettingsError(f"{arguments.file} holds no run")
    missing = {log.mode for log in acks.writers.values()} - {t.mode for t in targets}
    if missing:
        raise SettingsError(f"--target: none has the mode {min(missing)}, which the run wrote: give one for each mode")
    access, how = _access(arguments, targets), (arguments.rate, arguments.rounds, arguments.pause, arguments.wait)
    verifier = Verifier(acks, acks.layout, targets, access, *how)
    _end_last_line(arguments.file)
    with arguments.file.open("a", buffering=1, encoding="utf-8") as out:
        end = asyncio.run(verifier.run(out))
    sys.stdout.write(json.dumps(end) + "\n")
    return 3 if end["never_read"] else 0


def _end_last_line(file: Path) -> None:
    """A killed probe may have left half a line: what follows must not be glued to it."""
    with file.open("r+b") as content:
        if content.seek(0, os.SEEK_END) > 0:
            content.seek(-1, os.SEEK_END)
            if content.read(1) != b"\n":
                content.write(b"\n")


def _report(arguments: argparse.Namespace) -> int:
    try:
        fault = None if arguments.fault_at is None else parse_time(arguments.fault_at)
    except ValueError as problem:
        raise SettingsError(f"--fault-at {arguments.fault_at!r}: {problem}; write 2026-03-01T10:00:00Z") from None
    report = Report()
    try:
        with arguments.file.open(encoding="utf-8", errors="replace") as lines:
            for record in decode(lines):
                report.add(record)
        result = report.result(fault)
    except OSError as problem:
        raise SettingsError(f"{arguments.file}: cannot be read ({problem.strerror})") from None
    except NoRun as problem:
        raise SettingsError(f"{arguments.file}: {problem}") from None
    sys.stdout.write(json.dumps(result, indent=1) + "\n" if arguments.json else render(result))
    return 0


def _targets(arguments: argparse.Namespace) -> list[Target]:
    listed = [] if arguments.targets is None else read_targets(arguments.targets)
    return listed + [parse_target(text, arguments.mode) for text in arguments.target]


def _access(arguments: argparse.Namespace, targets: tuple[Target, ...]) -> Access:
    return make_access(targets, arguments.ca_file, arguments.token_file, arguments.timeout, arguments.resolver)


def _load(file: Path) -> tuple[Acks, list[Target]]:
    acks, targets = Acks(), []
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for record in decode(lines):
                if record is not None and record["type"] != "final":
                    acks.add(record)
                    if record["type"] == "run":
                        targets = [checked(t["zone"], t["mode"], t["url"], str(file)) for t in record["targets"]]
    except OSError as problem:
        raise SettingsError(f"{file}: cannot be read ({problem.strerror})") from None
    if acks.layout is None:
        raise SettingsError(f"{file}: it does not begin with a run: give the file that `holdfast probe run` wrote")
    return acks, targets

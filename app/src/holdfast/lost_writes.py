"""The FILE that `holdfast region compare` writes and `holdfast region replay` reads: a JSON line for each write that
did not survive, and a summary as the last one, so that a file that was cut off is noticed.

It holds users' data: mode 0600, and it appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import SettingsError

STDOUT = "-"
_FIELDS = {"face", "key", "kind", "value", "version", "class", "there"}


class LostFile:
    """Written to a file beside ``path`` that takes its name at ``end``; "-" is standard output."""

    def __init__(self, path: str) -> None:
        self._path, self.lines = path, 0
        self._beside = f"{path}.{os.getpid()}.part"
        if path == STDOUT:
            self._out: BinaryIO = sys.stdout.buffer
            return
        try:
            self._out = os.fdopen(os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except OSError as problem:
            raise SettingsError(f"--out {path}: cannot be written ({problem.strerror})") from None

    def line(self, record: dict[str, Any]) -> None:
        self._out.write(json.dumps(record).encode() + b"\n")
        self.lines += 1

    def end(self, summary: dict[str, Any]) -> None:
        self._out.write(json.dumps(summary).encode() + b"\n")
        self._out.flush()
        if self._path != STDOUT:
            os.fsync(self._out.fileno())
            self._out.close()
            Path(self._beside).replace(self._path)

    def abandon(self) -> None:
        """After a failure: nothing is left behind."""
        if self._path != STDOUT and not self._out.closed:
            self._out.close()
            Path(self._beside).unlink()


def read_summary(path: Path) -> dict[str, Any]:
    """The last line of a whole file. Raises SettingsError, also if any other line cannot be used."""
    last, count = b"", 0
    try:
        with path.open("rb") as lines:
            for line in lines:
                if count and not set(_parsed(last)) >= _FIELDS:
                    raise SettingsError(f"{path}: line {count} is damaged: fetch it or compare again")
                last, count = line, count + 1
    except OSError as problem:
        raise SettingsError(f"{path}: cannot be read ({problem.strerror})") from None
    summary = _parsed(last) if last.endswith(b"\n") else {}
    if summary.get("type") != "summary":
        raise SettingsError(f"{path}: it does not end with a summary, so it was cut off: fetch it or compare again")
    if summary.get("lines") != count - 1:
        raise SettingsError(
            f"{path}: it has {count - 1} lines and its summary says {summary.get('lines')}: fetch it or compare again"
        )
    return summary


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for line in lines:
            record = _parsed(line)
            if record.get("type") != "summary":
                yield record


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}

"""The two log streams, both JSON lines on standard output: operational (LOG_LEVEL) and audit (never silenced).

JSON encoding with ASCII escapes keeps every line one line: nothing a client sends can forge an entry. `serve` writes
through an ``Output``, which never waits for the reader; other commands to a plain stream, where they do.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from .output import Output

LOG = logging.getLogger("holdfast")
AUDIT = logging.getLogger("holdfast-audit")
_output: Output | None = None


def event(logger: logging.Logger, level: int, name: str, /, **fields: Any) -> None:
    """One entry: ``name`` is upper case and stable, the fields are data."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"fields": fields})


class JsonLines(logging.Formatter):
    def __init__(self, stream_name: str, static: dict[str, str]) -> None:
        super().__init__()
        self._static = {"stream": stream_name, **static}

    def line(self, created: float, level: str, name: str, fields: dict[str, Any]) -> str:
        """The entry as text, without its end of line. ``created``: seconds since the Unix epoch."""
        stamp = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
        return _encode({"ts": stamp, "level": level, **self._static, "event": name, **fields})

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            **self._static,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


_encode = json.JSONEncoder(ensure_ascii=True, default=str).encode


class OutputHandler(logging.Handler):
    def __init__(self, output: Output, stream: str) -> None:
        super().__init__()
        self.output, self.stream = output, stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.output.write(self.stream, self.format(record) + "\n")
        except Exception:  # as logging's own handlers do
            self.handleError(record)


def audit_line(name: str, fields: dict[str, Any]) -> None:
    """One audit entry of level INFO, the same text as ``event`` makes, in one write and without a log record."""
    for handler in AUDIT.handlers:
        formatter = handler.formatter
        if isinstance(handler, OutputHandler) and isinstance(formatter, JsonLines):
            handler.output.write("audit", formatter.line(time.time(), "INFO", name, fields) + "\n")
        elif isinstance(handler, logging.StreamHandler) and isinstance(formatter, JsonLines):
            handler.stream.write(formatter.line(time.time(), "INFO", name, fields) + "\n")
            handler.stream.flush()
        else:
            record = AUDIT.makeRecord(AUDIT.name, logging.INFO, "", 0, name, (), None, extra={"fields": fields})
            handler.handle(record)


def output() -> Output | None:
    """What both streams go through, if that is an ``Output``."""
    return _output


def configure(level: str, static: dict[str, str], out: TextIO | Output | None = None) -> None:
    """Set both streams up. ``static`` is in every entry (mode, zone). Calling it again replaces the set-up."""
    global _output
    _output = out if isinstance(out, Output) else None
    for logger, name, threshold in ((logging.getLogger(), "log", level), (AUDIT, "audit", "INFO")):
        handler: logging.Handler = (
            OutputHandler(out, name) if isinstance(out, Output) else logging.StreamHandler(out or sys.stdout)
        )
        handler.setFormatter(JsonLines(name, static))
        logger.handlers[:] = [handler]
        logger.setLevel(threshold)
    AUDIT.propagate = False
    for noisy in ("flask-limiter", "werkzeug"):
        logging.getLogger(noisy).setLevel(logging.ERROR)

"""Moments as people write them (2026-05-01T10:14:59Z) and as seconds since the Unix epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from .refusals import Code, Refused

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")
EXAMPLE = "2026-05-01T10:14:59Z"


def parse(text: str) -> int:
    """Whole seconds; a fraction is cut off. Raises Refused, also for a time without its zone."""
    try:
        if not _MOMENT.fullmatch(text):
            raise ValueError
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        raise Refused(f"{text!r} is no moment", f"write it with its zone, as {EXAMPLE}", Code.USAGE) from None


def shown(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp(seconds: float) -> str:
    """For names of files: sorts by time, to the millisecond."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y%m%dT%H%M%S.") + f"{moment.microsecond // 1000:03d}Z"


def from_stamp(name: str) -> float:
    """The moment of a name that begins with a ``stamp``."""
    return datetime.strptime(name[:20], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC).timestamp()

"""Numbers and times as people read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def duration(seconds: float | None) -> str:
    """`0 s`, `0.42 s`, `12.5 s`, `2 min 5 s`, `15 min`, `1 h 2 min`."""
    if seconds is None:
        return "–"
    if seconds < 99.95:
        digits = 2 if seconds < 1 else 1
        return f"{seconds:.{digits}f}".rstrip("0").rstrip(".") + " s"
    whole = round(seconds)
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    return _two(whole // 3600, "h", whole % 3600 // 60, "min")


def _two(large: int, unit: str, small: int, part: str) -> str:
    return f"{large} {unit}" + (f" {small} {part}" if small else "")


def moment(at: float | None) -> str:
    """`2026-03-01 10:00:05 UTC`."""
    return "–" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%d %b %Y, %H:%M} UTC".lstrip("0")


def date(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%d %b %Y}".lstrip("0")


def clock(at: float | None) -> str:
    return "–" if at is None else f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"


def percent(share: float | None) -> str:
    """Never rounds up to 100 %."""
    if share is None:
        return "–"
    return "100 %" if share >= 1 else f"{int(share * 1e5) / 1e3:.3f} %"


def count(number: float | None) -> str:
    return "–" if number is None else f"{int(number):,}".replace(",", "\u202f")

"""What an answer of the service means to the probe. Pure."""

from __future__ import annotations

import json
from typing import Any

from .records import NOT_FOUND, OK, Layout


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer, empty for anything else."""
    try:
        parsed = json.loads(body.decode())
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def outcome(status: int, body: dict[str, Any]) -> str:
    """``ok``, the stable code of an error, or ``http_<status>`` for an answer without one."""
    if status == 200 and body.get("status") == "SUCCESS":
        return OK
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and status >= 400 else f"http_{status}"


def seen_fields(layout: Layout, key: str, writer: str, result: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a read that was answered saw, and what it said of the session, which not_found says too. Empty for an answer
    that is neither a value nor not_found."""
    if result not in (OK, NOT_FOUND):
        return {}
    staleness = body.get("staleness_ms")
    told = {
        "stale": bool(body.get("stale")),
        "staleness_ms": staleness if isinstance(staleness, (int, float)) else None,
        "read_your_writes": body.get("read_your_writes"),
    }
    if result == NOT_FOUND:
        return {"seen": layout.seen(key, writer, None), **told}
    return {
        "seen": layout.seen(key, writer, text(body.get("value")) or ""),
        "version": text(body.get("version")),
        **told,
    }


def text(value: Any) -> str | None:
    return value if isinstance(value, str) else None

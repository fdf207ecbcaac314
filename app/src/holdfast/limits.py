"""Rate limits by Flask-Limiter: per token, or per client address for requests without a valid token.

Version 1 counts in the memory of each process: with several instances a client gets the limit from each of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from flask import Flask, g, request
from flask_limiter import Limiter

from .settings import Settings, Token

UNLIMITED = "unlimited"


def client_address() -> str:
    """The address ProxyFix left: the one the trusted edge saw, whatever the client put into X-Forwarded-For."""
    return request.remote_addr or "unknown"


def _who() -> str:
    token: Token | None = g.get("token")
    return f"token:{token.name}" if token is not None else f"address:{client_address()}"


def attach(app: Flask, settings: Settings, exempt: Callable[[], bool]) -> Limiter:
    """Limit every request for which ``exempt()`` is False; `g.token` must be set before."""

    def limit() -> str:
        token: Token | None = g.get("token")
        chosen = token.rate_limit if token is not None else None
        return settings.rate_limits if chosen is None or chosen == UNLIMITED else chosen

    def free() -> bool:
        token: Token | None = g.get("token")
        own = token.rate_limit if token is not None else None
        return exempt() or (own or settings.rate_limits) == UNLIMITED

    return Limiter(
        _who,
        app=app,
        application_limits=[limit],
        application_limits_exempt_when=free,
        storage_uri="memory://",
        strategy="fixed-window",
        headers_enabled=False,
    )


def retry_after(limiter: Limiter) -> int:
    """Seconds until the limit that was hit starts anew, at least 1."""
    current = limiter.current_limit
    return max(1, math.ceil(current.reset_at - time.time())) if current is not None else 1

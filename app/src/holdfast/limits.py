"""Rate limits by Flask-Limiter: per token, or per client address for requests without a valid token.

Version 1 counts in the memory of each process: with several instances a client gets the limit from each of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from flask import Flask, g, request
from flask_limiter import Limiter
from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage

from .errors import RateLimited
from .settings import Settings, Token

UNLIMITED = "unlimited"
UNUSED = "1 per second"
EXPIRY_SEC = 10.0
TOO_MANY = "too many requests for this client"


class Counts(MemoryStorage):
    """Counters in memory. The parent class starts a thread for nearly every request to forget what has expired, a third
    of a read's cost; here the request that comes EXPIRY_SEC after the last time does it. Expiry itself is exact."""

    STORAGE_SCHEME = ["holdfast-memory"]  # noqa: RUF012  the type the parent class gives it
    _expired_at = 0.0

    def _MemoryStorage__schedule_expiry(self) -> None:
        now = time.monotonic()
        if now - self._expired_at > EXPIRY_SEC:
            self._expired_at = now
            self._MemoryStorage__expire_events()  # type: ignore[attr-defined]


def client_address() -> str:
    """The address ProxyFix left: the one the trusted edge saw, whatever the client put into X-Forwarded-For."""
    return request.remote_addr or "unknown"


def _who() -> str:
    return _name(g.get("token"), client_address())


def _name(token: Token | None, address: str) -> str:
    return f"token:{token.name}" if token is not None else f"address:{address}"


def attach(app: Flask, settings: Settings, exempt: Callable[[], bool]) -> Limiter:
    """Limit every request for which ``exempt()`` is False; `g.token` must be set before."""

    def limit() -> str:
        token: Token | None = g.get("token")
        chosen = token.rate_limit if token is not None else None
        wanted = settings.rate_limits if chosen is None or chosen == UNLIMITED else chosen
        # Flask-Limiter reads the text before it asks `free`, which then lets the request pass.
        return UNUSED if wanted == UNLIMITED else wanted

    def free() -> bool:
        token: Token | None = g.get("token")
        own = token.rate_limit if token is not None else None
        return exempt() or (own or settings.rate_limits) == UNLIMITED

    return Limiter(
        _who,
        app=app,
        application_limits=[limit],
        application_limits_exempt_when=free,
        storage_uri="holdfast-memory://",
        strategy="fixed-window",
        headers_enabled=False,
    )


def retry_after(limiter: Limiter) -> int:
    """Seconds until the limit that was hit starts anew, at least 1."""
    current = limiter.current_limit
    return max(1, math.ceil(current.reset_at - time.time())) if current is not None else 1


class Check:
    """Counts one request outside Flask's dispatch, in the very counters Flask-Limiter uses for all others."""

    #: The scope Flask-Limiter gives to application-wide limits; a counter's key is (who, scope).
    _SCOPE = "global"

    def __init__(self, limiter: Limiter, settings: Settings) -> None:
        self._strategy = limiter.limiter
        self._default = _parse(settings.rate_limits)
        self._own = {t.name: _parse(t.rate_limit) for t in settings.tokens if t.rate_limit is not None}

    def __call__(self, token: Token | None, address: str) -> None:
        """Raises RateLimited, with the seconds until the limit that was hit starts anew."""
        items = self._default if token is None else self._own.get(token.name, self._default)
        if not items:
            return
        who = _name(token, address)
        for item in items:
            if not self._strategy.hit(item, who, self._SCOPE):
                reset = self._strategy.get_window_stats(item, who, self._SCOPE).reset_time
                raise RateLimited(TOO_MANY, max(1, math.ceil(reset - time.time())))


def _parse(text: str) -> tuple[RateLimitItem, ...]:
    """In the order in which Flask-Limiter counts them; none for ``unlimited``."""
    return () if text == UNLIMITED else tuple(sorted(parse_many(text)))

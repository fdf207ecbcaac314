"""Rate limits by Flask-Limiter: per token, or per client address for requests without a valid token. Of an IPv6 address
its /64 counts, for whoever has one address there has them all.

Flask-Limiter decides; ``limit_counts`` holds its counters, region-wide by way of the nodes, and never keeps a request
waiting. The two faces count apart.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable

from flask import Flask, g, request
from flask_limiter import Limiter
from limits import RateLimitItem, parse_many

from .errors import RateLimited
from .limit_counts import CountsStorage, LimitCounts
from .settings import Settings, Token

UNLIMITED = "unlimited"
TOO_MANY = "too many requests for this client"


def client_address() -> str:
    """The address ProxyFix left: the one the trusted edge saw, whatever the client put into X-Forwarded-For."""
    return request.remote_addr or "unknown"


def _who() -> str:
    return _name(g.get("token"), client_address())


def _name(token: Token | None, address: str) -> str:
    return f"token:{token.name}" if token is not None else f"address:{network_of(address)}"


def network_of(address: str) -> str:
    """What of ``address`` tells one client from another: all of IPv4, the /64 network of IPv6."""
    if ":" not in address:
        return address
    try:
        whole = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if whole.ipv4_mapped is not None:
        return str(whole.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(whole) >> 64 << 64)}/64"


def attach(app: Flask, settings: Settings, exempt: Callable[[], bool], counts: LimitCounts) -> Limiter:
    """Limit every request for which ``exempt()`` is False; `g.token` must be set before."""

    def limit() -> str:
        token: Token | None = g.get("token")
        chosen = (token.rate_limit if token is not None else None) or settings.rate_limits
        return "" if chosen == UNLIMITED else chosen  # parsed also where the request turns out to be free

    def free() -> bool:
        token: Token | None = g.get("token")
        own = token.rate_limit if token is not None else None
        return exempt() or (own or settings.rate_limits) == UNLIMITED

    return Limiter(
        _who,
        app=app,
        application_limits=[limit],
        application_limits_exempt_when=free,
        storage_uri=f"{CountsStorage.STORAGE_SCHEME[0]}://",
        storage_options={"counts": counts},
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

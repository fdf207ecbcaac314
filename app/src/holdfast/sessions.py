"""The session token: which writes a client has made, signed, so that any zone can honour read-your-writes.

Token: base64url(JSON {origin: [incarnation, sequence]}) "." HMAC-SHA-256 (first 32 hex digits). It holds no secret and
no key; it is signed so that a client cannot make reads wait for writes that never were.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_TOKEN = 2048


@dataclass(frozen=True, slots=True)
class Session:
    """The last write of this client on each origin: node -> (incarnation, sequence)."""

    writes: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def with_write(self, origin: str, incarnation: str, sequence: int) -> Session:
        held = self.writes.get(origin)
        if held is not None and held[0] == incarnation and held[1] >= sequence:
            return self
        return Session({**self.writes, origin: (incarnation, sequence)})


def encode(session: Session, key: bytes) -> str:
    body = json.dumps({o: list(w) for o, w in sorted(session.writes.items())}, separators=(",", ":")).encode()
    payload = base64.urlsafe_b64encode(body).rstrip(b"=")
    return f"{payload.decode()}.{_sign(payload, key)}"


def decode(token: str, key: bytes) -> Session | None:
    """The session, or None if the token is not one that ``encode`` made with this key."""
    payload, dot, signature = token.partition(".")
    if not dot or len(token) > MAX_TOKEN or not token.isascii():
        return None
    if not hmac.compare_digest(_sign(payload.encode(), key), signature):
        return None
    try:
        data = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Session({str(o): (str(w[0]), int(w[1])) for o, w in data.items()})
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def _sign(payload: bytes, key: bytes) -> str:
    return hmac.digest(key, payload, "sha256").hex()[:32]

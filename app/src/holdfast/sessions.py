"""A session: which writes a client has made, so that any zone can honour read-your-writes. Pure.

It travels in two ways. The token (header X-Session-Token) holds it, signed:
"2." base64url(JSON [hlc, [[origin, incarnation, sequence], ...], [dead origin, ...]]) "." HMAC-SHA-256 (first 32 hex
digits, over all before it). Tokens of the first format (JSON {origin: [incarnation, sequence]}, no "2.") are still
read. The cookie holds a signed id only, ``<home node>~<random>.<HMAC>``; the record lies on the home node. Both are
signed so that a client cannot make reads wait for writes that never were. Keys can be rotated: an older key is still
accepted, the first one signs.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .hlc import ZERO

MAX_TOKEN = 2048
COOKIE = "HOLDFAST_SESSION"
#: Stands among the dead origins for a session whose record could not be found: what it held is not known.
UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Session:
    """The last write of this client on each origin: node -> (incarnation, sequence).

    ``dead``: origins where it wrote under an incarnation that has ended since; nobody can tell any more whether those
    writes are seen, so they count as missing for good. ``hlc``: the largest clock of its writes.
    """

    writes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    dead: frozenset[str] = frozenset()
    hlc: str = ZERO

    def with_write(self, origin: str, incarnation: str, sequence: int, hlc: str = ZERO) -> Session:
        held = self.writes.get(origin)
        if held is not None and held[0] == incarnation and held[1] >= sequence:
            return replace(self, hlc=max(self.hlc, hlc))
        dead = self.dead | {origin} if held is not None and held[0] != incarnation else self.dead
        return Session({**self.writes, origin: (incarnation, sequence)}, dead, max(self.hlc, hlc))

    def merged(self, other: Session) -> Session:
        """Both together; two incarnations of one origin cannot both be alive."""
        both = replace(self, dead=self.dead | other.dead, hlc=max(self.hlc, other.hlc))
        for origin, (incarnation, sequence) in other.writes.items():
            both = both.with_write(origin, incarnation, sequence)
        return both


LOST = Session(dead=frozenset({UNKNOWN}))


def encode(session: Session, key: bytes) -> str:
    content = [session.hlc, [[o, *w] for o, w in sorted(session.writes.items())], sorted(session.dead)]
    body = json.dumps(content, separators=(",", ":")).encode()
    signed = f"2.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}"
    return f"{signed}.{_sign(signed.encode(), key)[:32]}"


def decode(token: str, *keys: bytes) -> Session | None:
    """The session, or None if the token is not one that ``encode`` made with one of these keys."""
    signed, dot, signature = token.rpartition(".")
    if not dot or len(token) > MAX_TOKEN or not token.isascii() or not _signed(signed, signature, 32, keys):
        return None
    payload = signed.removeprefix("2.")
    try:
        data = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        if payload == signed:
            return Session({str(o): (str(w[0]), int(w[1])) for o, w in data.items()})
        hlc, writes, dead = data
        return Session({str(o): (str(i), int(s)) for o, i, s in writes}, frozenset(map(str, dead)), str(hlc))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def cookie_value(identity: str, key: bytes) -> str:
    return f"{identity}.{_sign(identity.encode(), key)[:24]}"


def cookie_identity(value: str, *keys: bytes) -> str | None:
    """The id in a cookie's value, or None if it is not one of ours."""
    identity, dot, signature = value.rpartition(".")
    if not dot or len(value) > 256 or not value.isascii() or not _signed(identity, signature, 24, keys):
        return None
    return identity


def home_of(identity: str) -> str:
    """The node that keeps the session's record."""
    return identity.partition("~")[0]


def find_cookie(header: str | None) -> str | None:
    """The session's value in a Cookie header, None if there is none."""
    for part in (header or "").split(";"):
        name, equals, value = part.strip().partition("=")
        if equals and name == COOKIE:
            return value.strip('"')
    return None


def from_record(flat: list[bytes], now_ms: int) -> Session | None:
    """From a record's fields and values; None if there is no record. Fields: see ``lua/_session.lua``."""
    fields = {f.decode(): v.decode() for f, v in zip(flat[::2], flat[1::2], strict=True)}
    if not fields:
        return None
    writes = {}
    for name, text in fields.items():
        incarnation, _, sequence = text.partition(" ")
        if name.startswith("w:") and sequence.isdigit():
            writes[name[2:]] = (incarnation, int(sequence))
    until = fields.get("dead_until", "0")
    dead = fields.get("dead", "").split() if until.isdigit() and int(until) > now_ms else []
    return Session(writes, frozenset(dead), fields.get("hlc", ZERO))


def to_record(session: Session) -> list[str]:
    """The fields and values a new record begins with, but for ``dead_until``."""
    flat = ["hlc", session.hlc]
    for origin, (incarnation, sequence) in session.writes.items():
        flat += [f"w:{origin}", f"{incarnation} {sequence}"]
    return [*flat, "dead", " ".join(sorted(session.dead))] if session.dead else flat


def _signed(text: str, signature: str, length: int, keys: tuple[bytes, ...]) -> bool:
    return any(hmac.compare_digest(_sign(text.encode(), key)[:length], signature) for key in keys)


def _sign(payload: bytes, key: bytes) -> str:
    return hmac.digest(key, payload, "sha256").hex()

"""Bearer tokens and roles. Only SHA-256 digests of tokens are held; roles nest: admin includes write includes read."""

from __future__ import annotations

import hashlib

from .errors import Forbidden, Unauthorized
from .settings import Token

_RANK = {"read": 1, "write": 2, "admin": 3}
MAX_TOKEN = 512


def hash_token(token: str) -> str:
    """What the api_tokens secret holds for a token: SHA-256, 64 hex digits.

    A plain hash suffices because tokens are random and long; it would not for passwords people choose.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Tokens:
    def __init__(self, tokens: tuple[Token, ...]) -> None:
        # Looked up by digest: the time this takes says nothing about the token itself.
        self._by_digest = {t.sha256: t for t in tokens}

    def identify(self, authorization: str | None) -> Token | None:
        """The token of an Authorization header, None if there is none or it is unknown."""
        scheme, _, credentials = (authorization or "").partition(" ")
        credentials = credentials.strip()
        if scheme.lower() != "bearer" or not credentials or len(credentials) > MAX_TOKEN:
            return None
        return self._by_digest.get(hash_token(credentials))


def require(token: Token | None, role: str) -> Token:
    """Raises Unauthorized without a valid token, Forbidden if its role does not include ``role``."""
    if token is None:
        raise Unauthorized("a valid bearer token is needed")
    if _RANK[token.role] < _RANK[role]:
        raise Forbidden(f"this needs the role {role}")
    return token

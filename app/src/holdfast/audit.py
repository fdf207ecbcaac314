"""The audit log: every write, read, refusal and breaker change, with who, what and how it ended.

With ``AUDIT_PSEUDONYMISE=on`` keys and client addresses are replaced by a keyed hash (HMAC-SHA-256 under a key
derived from the secret key), so that equal things stay comparable and nothing can be read back without the key.
Values are never logged.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import Any

from .logs import AUDIT, audit_line, event


def derive_key(secret_key: str, purpose: str) -> bytes:
    """A key for one purpose, so that no two uses of the secret key can be played against each other."""
    return hmac.digest(secret_key.encode(), purpose.encode(), "sha256")


class Audit:
    def __init__(self, secret_key: str, pseudonymise: bool) -> None:
        self._key = derive_key(secret_key, "holdfast audit pseudonyms 1")
        self._pseudonymise = pseudonymise

    def hide(self, text: str) -> str:
        """The text itself, or its pseudonym ("p:" and 24 hex digits)."""
        if not self._pseudonymise:
            return text
        return "p:" + hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:24]

    def request(
        self,
        name: str,
        *,
        key: str | None,
        client: str,
        actor: str | None,
        operation: str,
        outcome: str,
        http_status: int,
        version: str | None,
    ) -> None:
        """The line of one request: what ``record`` would write, without the cost of a log record.

        It is written before the answer is sent; while standard output is blocked, so is the request.
        """
        fields: dict[str, Any] = {
            "actor": actor,
            "operation": operation,
            "outcome": outcome,
            "http_status": http_status,
            "version": version,
        }
        if key is not None:
            fields["key"] = self.hide(key)
        fields["client"] = self.hide(client)
        audit_line(name, fields)

    def record(self, name: str, /, *, key: str | None = None, client: str | None = None, **fields: Any) -> None:
        if key is not None:
            fields["key"] = self.hide(key)
        if client is not None:
            fields["client"] = self.hide(client)
        event(AUDIT, logging.INFO, name, **fields)

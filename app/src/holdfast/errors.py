"""The errors a client can see, each with its stable code and HTTP status, in one place.

``status`` and ``code`` are the contract; ``message`` is for people and may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ServiceError(Exception):
    """An answer that is not a success. ``retry_after`` is in seconds; None sends no Retry-After header.

    ``details`` are further fields of the answer's body.
    """

    code = "internal"
    status = 500
    retry_after: int | None = None
    details: Mapping[str, Any] = {}

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after is not None:
            self.retry_after = retry_after


class NoQuorum(ServiceError):
    """CP: no majority answered, and nothing was stored anywhere."""

    code, status, retry_after = "no_quorum", 503, 1


class OutcomeUnknown(ServiceError):
    """A store was sent and not confirmed: the value may yet appear. Retrying with the same value is safe."""

    code, status = "outcome_unknown", 504


class Fenced(ServiceError):
    """A higher region epoch exists: this region (or instance) must not serve."""

    code, status, retry_after = "fenced", 503, 5


#: What ``GuardBook.withheld`` says, for people.
WITHHELD = {
    "fenced": "a higher region epoch is known: this region must not serve",
    "two_regions": "both regions served at one region epoch: neither may until somebody says whose history stays",
    "standby": "this region is a standby: its nodes hold copies of another region's",
    "unconfirmed": "nodes were started and nobody has confirmed yet that this region still serves",
}


class Unavailable(ServiceError):
    """AP: no member node can be reached from this instance. Both: its audit log is blocked. Nothing was stored."""

    code, status, retry_after = "unavailable", 503, 1


class NotFound(ServiceError):
    code, status = "not_found", 404


class BadKey(ServiceError):
    code, status = "bad_key", 400


class BadValue(ServiceError):
    code, status = "bad_value", 400


class BadRequest(ServiceError):
    code, status = "bad_request", 400


class TooLarge(ServiceError):
    code, status = "too_large", 413


class Unauthorized(ServiceError):
    code, status = "unauthorized", 401


class Forbidden(ServiceError):
    code, status = "forbidden", 403


class MethodNotAllowed(ServiceError):
    code, status = "method_not_allowed", 405


class RateLimited(ServiceError):
    code, status, retry_after = "rate_limited", 429, 1


class Internal(ServiceError):
    code, status = "internal", 500


ALL_ERRORS: tuple[type[ServiceError], ...] = (
    NoQuorum,
    OutcomeUnknown,
    Fenced,
    Unavailable,
    NotFound,
    BadKey,
    BadValue,
    BadRequest,
    TooLarge,
    Unauthorized,
    Forbidden,
    MethodNotAllowed,
    RateLimited,
    Internal,
)


class SettingsError(Exception):
    """A bad or missing setting. The text is one line: the setting's name, what is wrong, and the cure."""

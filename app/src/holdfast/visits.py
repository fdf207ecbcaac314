"""AP requests with their sessions, from the client's headers to the answer's: the token, the cookie. No web framework.

A client that sends X-Session-Token, also an empty one, uses only the token and is given no cookie. Any other client
gets the cookie with a write; reads that show it are honoured as far as its record and a token shown beside it say.
"""

from __future__ import annotations

import threading
import time

from .ap_service import ApRead, ApService, ApWritten
from .audit import derive_key
from .session_records import Shown
from .sessions import COOKIE, Session, cookie_identity, cookie_value, decode, encode, find_cookie

SESSION_HEADER = "X-Session-Token"
#: Most sessions a process begins in a second, and at once: a flood of clients without cookies must not fill a node.
NEW_PER_SEC, NEW_AT_ONCE = 100, 200

Headers = list[tuple[str, str]]


class Visits:
    """``secret_keys``: the first one signs, all are accepted."""

    def __init__(self, ap: ApService, secret_keys: tuple[str, ...], ttl_sec: int) -> None:
        self._ap, self._ttl = ap, ttl_sec
        self._token_keys = tuple(derive_key(k, "holdfast session token 1") for k in secret_keys)
        self._cookie_keys = tuple(derive_key(k, "holdfast session cookie 1") for k in secret_keys)
        self._allowance, self._counted = float(NEW_AT_ONCE), time.monotonic()
        self._lock = threading.Lock()

    def write(self, key: str, value: str | None, token: str | None, cookies: str | None) -> tuple[ApWritten, Headers]:
        """Write, or (None) delete. ``token``, ``cookies``: the headers, None if there was none. Raises as AP does."""
        base = (decode(token, *self._token_keys) if token else None) or Session()
        shown = self._shown(cookies) if token is None else None
        ap = self._ap
        written = ap.delete(key, base, shown) if value is None else ap.write(key, value, base, shown)
        headers = [(SESSION_HEADER, encode(written.session, self._token_keys[0]))]
        if written.cookie is not None:
            headers.append(self._set_cookie(*written.cookie))
        return written, headers

    def read(self, key: str, token: str | None, cookies: str | None) -> tuple[ApRead, Headers]:
        """Nothing a client shows is an error: what is not ours, or not there any more, is answered as not honoured."""
        session = decode(token, *self._token_keys) if token else None
        known = session is not None or not token
        value = find_cookie(cookies) if token != "" else None
        identity = cookie_identity(value, *self._cookie_keys) if value is not None else None
        if value is not None and identity is None:
            known = False
        answer = self._ap.read(key, session, known, identity)
        if identity is None or not answer.prolonged:
            return answer, []
        return answer, [self._set_cookie(identity, self._ttl)]

    def _shown(self, cookies: str | None) -> Shown | None:
        """The cookie session of a write; None when none was shown and too many are being begun."""
        value = find_cookie(cookies)
        if value is None:
            return Shown() if self._may_begin() else None
        identity = cookie_identity(value, *self._cookie_keys)
        return Shown(identity, strange=identity is None)

    def _may_begin(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._allowance = min(NEW_AT_ONCE, self._allowance + (now - self._counted) * NEW_PER_SEC)
            self._counted = now
            if self._allowance < 1:
                return False
            self._allowance -= 1
            return True

    def _set_cookie(self, identity: str, seconds: int) -> tuple[str, str]:
        value = cookie_value(identity, self._cookie_keys[0])
        return "Set-Cookie", f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; Secure; SameSite=Strict"

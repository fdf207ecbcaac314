from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest

from holdfast import visits
from holdfast.ap_service import ApWritten
from holdfast.multiprimary import Position, unmet
from holdfast.session_records import Shown
from holdfast.sessions import (
    LOST,
    Session,
    cookie_identity,
    cookie_value,
    decode,
    encode,
    find_cookie,
    from_record,
    home_of,
    to_record,
)
from holdfast.visits import Visits

KEY, OTHER = b"k" * 32, b"o" * 32


def test_tokens_of_the_first_format_are_still_read() -> None:
    payload = base64.urlsafe_b64encode(json.dumps({"db_g1": ["inc", 5]}).encode()).rstrip(b"=").decode()
    token = f"{payload}.{hmac.digest(KEY, payload.encode(), 'sha256').hex()[:32]}"
    assert decode(token, KEY) == Session({"db_g1": ("inc", 5)})


def test_the_token_carries_clock_and_dead_origins_and_any_key_in_the_ring_reads_it() -> None:
    session = Session().with_write("a", "i1", 5, "0" * 15 + "7").with_write("a", "i2", 1, "0" * 15 + "9")
    assert session.dead == {"a"}
    assert session.hlc == "0" * 15 + "9"
    assert session.with_write("a", "i2", 1, "0" * 15 + "8").hlc == session.hlc
    token = encode(session, KEY)
    assert decode(token, KEY) == session
    assert decode(token, OTHER, KEY) == session
    assert decode(token, OTHER) is None
    assert decode(token.replace("2.", "", 1), KEY) is None


def test_what_was_written_under_a_dead_incarnation_stays_missing() -> None:
    session = Session().with_write("a", "old", 5).with_write("a", "new", 1)
    assert unmet(session, "a", "new", 9, {}) == {"a"}
    assert unmet(Session().with_write("a", "new", 1), "a", "new", 9, {}) == set(), "control"
    assert unmet(LOST, "a", "new", 9, {"b": Position("i", 1, 1)}) == {"?"}


def test_merged() -> None:
    one, two = Session({"a": ("i", 1)}, hlc="1"), Session({"a": ("i", 3), "b": ("j", 2)}, frozenset("c"), "2")
    assert one.merged(two) == Session({"a": ("i", 3), "b": ("j", 2)}, frozenset("c"), "2")
    assert one.merged(Session({"a": ("x", 1)})).dead == {"a"}


def test_a_record_holds_what_a_session_holds_and_forgets_the_dead_in_time() -> None:
    session = Session({"a": ("i", 1), "b": ("j", 2)}, frozenset({"b", "?"}), "00ff")
    flat = [text.encode() for text in [*to_record(session), "dead_until", "1000"]]
    assert from_record(flat, 999) == session
    assert from_record(flat, 1000) == Session(session.writes, frozenset(), "00ff")
    assert from_record([], 0) is None


def test_cookies() -> None:
    value = cookie_value("db_g1~abc", KEY)
    assert home_of("db_g1~abc") == "db_g1"
    assert cookie_identity(value, OTHER, KEY) == "db_g1~abc"
    for bad in ("", ".", value[:-1], value + "0", "db_g2" + value[5:], "é." + value, "x" * 300):
        assert cookie_identity(bad, KEY) is None
    assert find_cookie(f"a=b; HOLDFAST_SESSION={value};c") == value
    assert find_cookie("a=HOLDFAST_SESSION; XHOLDFAST_SESSION=1") is None
    assert find_cookie(None) is None
    assert cookie_identity(encode(Session(), KEY), KEY) is None, "a token is no cookie"


class FakeAp:
    def __init__(self) -> None:
        self.shown: list[Shown | None] = []

    def write(self, key: str, value: str, session: Session, shown: Shown | None) -> Any:
        self.shown.append(shown)
        return ApWritten("v", ("a",), session, ("a~x", 60) if shown == Shown() else None)


def test_a_flood_without_cookies_begins_few_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(visits.time, "monotonic", lambda: clock[0])
    ap = FakeAp()
    visit = Visits(ap, ("s" * 32,), 3600)  # type: ignore[arg-type]
    given = [name for _ in range(1000) for name, _v in visit.write("k", "v", None, None)[1] if name == "Set-Cookie"]
    assert len(given) == visits.NEW_AT_ONCE
    clock[0] += 0.5
    for _ in range(1000):
        visit.write("k", "v", None, None)
    assert ap.shown.count(Shown()) == visits.NEW_AT_ONCE + visits.NEW_PER_SEC // 2
    visit.write("k", "v", None, "HOLDFAST_SESSION=forged")
    assert ap.shown[-1] == Shown(None, strange=True), "a client that shows one is never left out"

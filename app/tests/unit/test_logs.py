from __future__ import annotations

import io
import json
import logging

import pytest

from holdfast import logs
from holdfast.audit import Audit, derive_key


@pytest.fixture
def stream() -> io.StringIO:
    out = io.StringIO()
    logs.configure("ERROR", {"mode": "cp", "zone": "z1"}, out)
    return out


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_hostile_key_stays_one_line_and_no_level_silences_the_audit(stream: io.StringIO) -> None:
    Audit("s" * 32, False).record("CP_COMMIT", key='a\r\n{"event":"FORGED"}\u2028', client="10.0.0.1")
    logs.event(logs.LOG, logging.WARNING, "NOT_LOGGED")
    assert stream.getvalue().count("\n") == 1
    (entry,) = lines(stream)
    assert entry["stream"] == "audit"
    assert entry["event"] == "CP_COMMIT"
    assert entry["key"] == 'a\r\n{"event":"FORGED"}\u2028'


def test_pseudonyms_are_stable_and_hide(stream: io.StringIO) -> None:
    audit = Audit("s" * 32, True)
    audit.record("CP_READ", key="alice@example.org", client="10.0.0.1")
    assert "alice" not in stream.getvalue()
    assert "10.0.0.1" not in stream.getvalue()
    assert audit.hide("a") == audit.hide("a") != audit.hide("b")
    assert audit.hide("a") != Audit("t" * 32, True).hide("a")


def test_keys_of_different_purposes_differ() -> None:
    assert derive_key("s" * 32, "one") != derive_key("s" * 32, "two")

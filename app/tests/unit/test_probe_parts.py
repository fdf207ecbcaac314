"""The probe's pure parts: series, records, classification, choices of the readers, HTTP parsing, settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from probe_lines import LAYOUT, Lines

from holdfast import cli
from holdfast.ap_service import ApRead, require_found
from holdfast.core import failed
from holdfast.errors import NotFound, SettingsError
from holdfast.probe.acks import Acks, WriterLog
from holdfast.probe.answers import outcome, parse, seen_fields
from holdfast.probe.client import Url
from holdfast.probe.http1 import BadAnswer, Parser
from holdfast.probe.ledger import Reader, Written
from holdfast.probe.options import parse_target, read_targets
from holdfast.probe.reads import ReadCheck
from holdfast.probe.records import Layout, decode, encode, parse_time, stamp
from holdfast.probe.series import Covered, Latencies, longest_gap


def test_longest_gap() -> None:
    assert longest_gap([], 5, 5) is None
    whole = longest_gap([], 0, 10)
    assert whole is not None
    assert (whole.seconds, whole.open) == (10, True)
    first = longest_gap([6, 7, 9], 0, 10)
    assert first is not None
    assert (first.start, first.end, first.open) == (0, 6, False)
    assert longest_gap([-5, 1, 9, 12], 0, 10).seconds == 8  # type: ignore[union-attr]
    last = longest_gap([1, 3], 0, 10)
    assert last is not None
    assert (last.start, last.open) == (3, True)


def test_percentiles_against_the_exact_ones() -> None:
    random = Random(5)
    values = [random.lognormvariate(1, 1.5) for _ in range(5000)]
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    values.sort()
    for share in (0.5, 0.9, 0.99, 1.0):
        exact = values[int(len(values) * share) - 1]
        assert latencies.percentile(share) == pytest.approx(exact, rel=0.011)
    assert latencies.largest == values[-1]
    assert len(latencies.buckets) < 1500
    assert Latencies().as_json() == {"count": 0, "p50": None, "p90": None, "p99": None, "max": None}
    latencies.add(0.0)


def test_covered_time() -> None:
    covered = Covered()
    for start, end in ((5, 6), (0, 2), (1, 3)):
        covered.add(start, end)
    assert covered.seconds() == 4
    assert covered.seconds(2.5, 5.5) == 1.0
    other = Covered()
    for start, end in ((2, 2.1), (3.5, 4), (4, 5), (7, 8)):
        other.add(start, end)
    assert other.overlapping(covered) == 2


def test_layout_gives_every_write_its_key_and_its_own_value() -> None:
    keys = [LAYOUT.key("a-cp", n) for n in range(1, 401)]
    own = [k for k in keys if ":w" in k]
    assert len(own) == len(set(own)) == 300
    assert len(set(keys) - set(own)) == 16
    assert len({LAYOUT.value("a-cp", n) for n in range(1, 401)}) == 400
    assert len(LAYOUT.value("a-cp", 1, 1000)) == 1000
    assert all(LAYOUT.seen(k, "a-cp", LAYOUT.value("a-cp", n, 50)) == n for n, k in enumerate(keys, 1))


@pytest.mark.parametrize("value", ["", "x", "abc:a-cp:", "abc:a-cp:9:", "old:a-cp:5:", "abc:b-cp:5:", "abc:a-cp:-5:"])
def test_foreign_values(value: str) -> None:
    assert LAYOUT.seen(LAYOUT.key("a-cp", 5), "a-cp", value) == -1


def test_a_register_is_not_written_again_while_a_write_may_be_under_way() -> None:
    for rate in (0.1, 10, 100, 2000):
        for timeout in (0.05, 3, 60):
            assert Layout.registers_for(rate, timeout) * 4 / rate >= 2 * timeout


def test_records_round_trip_and_damage() -> None:
    assert parse_time(stamp(1772359200.25)) == 1772359200.25
    assert parse_time("1772359200.25") == 1772359200.25
    for wrong in ("yesterday", "2026-03-01T10:00:00", "-5", "nan"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_time(wrong)
    line = encode({"type": "x", "a": None, "b": 0})
    assert line == '{"type":"x","b":0}\n'
    assert list(decode([line, '{"type":"x","b', "[]\n", "{}\n"])) == [{"type": "x", "b": 0}, None, None, None]


def test_classification() -> None:
    acks = Acks()
    lines = Lines("ap")
    for seq in (4, 5, 68):
        lines.write(seq, float(seq), mode="ap", version=f"{seq:03d}")
    for record in lines.records:
        assert record is not None
        acks.add(record)
    assert acks.classify("a-ap", 5, 5, "005") == "present"
    assert acks.classify("a-ap", 5, 0, None) is None
    assert acks.classify("a-ap", 5, -1, "999") is None, "a value nobody wrote supersedes nothing"
    assert acks.classify("a-ap", 4, 68, "068") == "superseded"
    assert acks.classify("a-ap", 68, 4, "004") is None, "an older value is a lost write"
    assert acks.classify("a-ap", 68, 4, "100") == "superseded", "an older write with a newer version"


def test_readers_read_what_was_acknowledged_only() -> None:
    mine, other = Written(LAYOUT, "a-cp"), Written(LAYOUT, "b-cp")
    reader = Reader([mine, other], Random(1))
    assert reader.next() is None
    acknowledged = {2, 3, 4, 7, 68, 70}
    for seq in sorted(acknowledged):
        mine.acknowledge(seq, float(seq), f"v{seq}", f"t{seq}")
    mine.acknowledge(4, 99.0, "late", None)
    seen = set()
    for _ in range(500):
        choice = reader.next()
        assert choice is not None
        assert choice.key == LAYOUT.key("a-cp", choice.acked)
        assert choice.token in (None, "t70")
        seen.add(choice.acked)
    assert seen == acknowledged - {4}, "a register is expected to hold the newest acknowledged write"


def whole(data: bytes, step: int) -> object:
    parser, answer = Parser(), None
    for start in range(0, len(data), step):
        assert answer is None
        answer = parser.feed(data[start : start + step])
    return answer or parser.end()


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_http_answers(step: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Session-Token: a.b\r\n"
    plain = whole(b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"Content-Length: 5\r\n\r\nhello", step)
    assert (plain.status, plain.body, plain.reusable) == (200, b"hello", True)  # type: ignore[attr-defined]
    assert plain.headers[b"x-session-token"] == b"a.b"  # type: ignore[attr-defined]
    chunked = whole(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n", step)
    assert (chunked.body, chunked.reusable) == (b"hello", True)  # type: ignore[attr-defined]
    until_close = whole(head + b"\r\nhello", step)
    assert (until_close.body, until_close.reusable) == (b"hello", False)  # type: ignore[attr-defined]
    closing = whole(head + b"Connection: close\r\nContent-Length: 0\r\n\r\n", step)
    assert not closing.reusable  # type: ignore[attr-defined]
    assert whole(head + b"Content-Length: 9\r\n\r\nhello", step) is None, "cut short is no answer"


@pytest.mark.parametrize(
    "data", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", b"y" * 70000, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
def test_bytes_that_are_no_http(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        Parser().feed(data)


def test_outcomes() -> None:
    assert outcome(200, {"status": "SUCCESS"}) == "ok"
    assert outcome(200, parse(b"<html>")) == "http_200", "a page that is not the service is not a success"
    assert outcome(503, {"error": {"code": "no_quorum"}}) == "no_quorum"
    assert outcome(502, parse(b"[1]")) == "http_502"
    assert seen_fields(LAYOUT, "k", "w", "no_quorum", {}) == {}
    unsaid = {"stale": False, "staleness_ms": None, "read_your_writes": None}
    assert seen_fields(LAYOUT, "k", "w", "not_found", {}) == {"seen": 0, **unsaid}
    behind = seen_fields(LAYOUT, "k", "w", "not_found", {"stale": True, "staleness_ms": 7000})
    assert behind | {"stale": True, "staleness_ms": 7000} == behind


@pytest.mark.parametrize(("promised", "declined", "violated"), [(False, 1, 0), (True, 0, 1), (None, 0, 1)])
def test_a_session_read_of_nothing_is_judged_by_what_the_service_says(
    promised: bool | None, declined: int, violated: int
) -> None:
    with pytest.raises(NotFound) as missing:
        require_found(ApRead(False, None, "", 0, False, "db_g1", promised))
    body = parse(failed("ap", missing.value).body)
    fields = seen_fields(LAYOUT, "k", "w", outcome(404, body), body)
    check = ReadCheck("ap")
    line = {"op": "session_read", "writer": "w", "key": "k", "acked": 1, "acked_age_ms": 5.0, "latency_ms": 1.0}
    check.add({**line, **fields, "m0": 7.0}, WriterLog("ap"))
    assert (check.session_reads, check.session_declined, check.session_violations) == (1, declined, violated)


@pytest.mark.parametrize("url", ["kv:5001", "ftp://kv", "https://u:p@kv", "https://kv/path", "http://:5", "http://h:x"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(SettingsError, match="--target"):
        parse_target(f"a={url}", "cp")


def test_targets(tmp_path: Path) -> None:
    assert parse_target("a/ap=https://kv", "cp").writer == "a-ap"
    assert Url.parse("https://[::1]:8").authority == "[::1]:8"
    assert Url.parse("https://kv").port == 443
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"zone": "a", "mode": "cp", "url": "http://kv:1"}]))
    assert read_targets(path)[0].url == "http://kv:1"
    for wrong in ("{", "{}x", '[{"zone": "a"}]', "[1]"):
        path.write_text(wrong)
        with pytest.raises(SettingsError, match="--targets"):
            read_targets(path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--out", "x.jsonl"], "--target"),
        (["run", "--out", "x.jsonl", "--target", "a"], "zone=url"),
        (["run", "--out", "x.jsonl", "--target", "a/xy=http://h"], "cp or ap"),
        (["run", "--out", "x.jsonl", "--target", "a b=http://h"], "zone"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--target", "a=http://g"], "twice"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--rate", "0"], "--rate"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--read-rate", "nan"], "--read-rate"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--duration", "-1"], "--duration"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--timeout", "0"], "--timeout"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--prefix", "a\n"], "--prefix"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--value-bytes", "-1"], "--value-bytes"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--token-file", "missing"], "--token-file"),
        (["run", "--out", "x.jsonl", "--target", "a=http://h", "--ca-file", "missing"], "--ca-file"),
        (["run", "--out", "x.jsonl", "--target", "a=https://h", "--ca-file", "missing"], "--ca-file"),
        (["run", "--out", "no/such/x.jsonl", "--target", "a=http://h"], "--out"),
        (["run", "--out", "exists", "--target", "a=http://h"], "exists"),
        (["verify", "missing"], "missing"),
        (["verify", "exists"], "run"),
        (["report", "missing"], "missing"),
        (["report", "exists"], "run"),
        (["report", "exists", "--fault-at", "noon"], "--fault-at"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exists").write_text("no run\n")
    assert cli.main(["probe", *arguments]) == 2
    err = capsys.readouterr().err
    assert named in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x.jsonl").exists()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["probe", "--help"])
    assert ended.value.code == 0
    assert "holdfast probe run --target" in capsys.readouterr().out


PRECEDENCE = """
import os, sys, threading
from holdfast.probe.schedule import precedence
if sys.argv[1:]:
    os.setuid(int(sys.argv[1]))
got, threads = precedence(), []
thread = threading.Thread(target=lambda: threads.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
print(got, os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR, threads == [os.SCHED_OTHER])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is given real-time priority")
@pytest.mark.parametrize(("uid", "told"), [((), "realtime True True"), (("65534",), "normal False True")])
def test_root_gets_precedence_for_the_main_thread_and_others_go_on_without(uid: tuple[str, ...], told: str) -> None:
    done = subprocess.run([sys.executable, "-c", PRECEDENCE, *uid], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told

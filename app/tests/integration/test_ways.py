"""A request is answered, counted and audited alike by Flask's routes, the WSGI short way and the server's short way."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cluster import TOKENS, Cluster, quote
from werkzeug.test import create_environ, run_wsgi_app

from holdfast import logs, settings
from holdfast.api import create_app, short_way
from holdfast.heads import simple
from holdfast.limit_counts import LimitCounts
from holdfast.runtime import Runtime

BOSS = {"Authorization": f"Bearer {TOKENS['boss']}"}
READER = {"Authorization": f"Bearer {TOKENS['reader']}"}
SLOW = {"Authorization": f"Bearer {TOKENS['slow']}"}
#: method, target, headers, body; in this order, so that later ones find what earlier ones wrote.
TABLE: list[tuple[str, str, dict[str, str], bytes]] = [
    ("POST", "/write/k", BOSS, b"hello"),
    ("GET", "/read/k", BOSS, b""),
    ("HEAD", "/read/k", BOSS, b""),
    ("GET", "/read/k?query=1", BOSS, b""),
    ("GET", "/read/k", BOSS | {"X-Session-Token": "forged.0"}, b""),
    ("POST", "/write/k/in%20path", BOSS, b""),
    ("POST", "/write/k/in%20path", BOSS, b"and body"),
    ("POST", "/write/a%2Fb", BOSS, "é✓".encode()),
    ("GET", "/read/a%2fb", BOSS, b""),
    ("GET", f"/read/{quote('é✓')}", BOSS, b""),
    ("GET", "/read/a/b", BOSS, b""),
    ("GET", "/read/", BOSS, b""),
    ("GET", "/read/%zz", BOSS, b""),
    ("GET", "/read/%ff", BOSS, b""),
    ("GET", "/read/%00", BOSS, b""),
    ("GET", "/read/" + "k" * 513, BOSS, b""),
    ("POST", "/write/k", BOSS, b"\xff\xfe"),
    ("POST", "/write/k", BOSS, b"x" * 1025),
    ("POST", "/write/k", BOSS, b""),
    ("POST", "/write/a/b/c", BOSS, b""),
    ("POST", "/write/a/", BOSS, b""),
    ("GET", "/read/k", {}, b""),
    ("GET", "/read/k", {"Authorization": "Basic eHg6eHg="}, b""),
    ("GET", "/read/k", {"Authorization": "Bearer wrong-token-00000000"}, b""),
    ("GET", "/read/k", {"Authorization": "bearer  " + TOKENS["boss"] + " "}, b""),
    ("GET", "/read/k", {"X-Forwarded-For": "203.0.113.9"}, b""),
    ("GET", "/read/k", {"X-Forwarded-For": "10.0.0.1, 203.0.113.9"}, b""),
    ("GET", "/read/k", {"X-Forwarded-For": "10.0.0.1,"}, b""),
    ("GET", "/read/k", {"X-Forwarded-For": '"1.2.3.4", x:y'}, b""),
    ("GET", "/read/k", {"X-Forwarded-For": "2001:db8::1"}, b""),
    ("POST", "/write/k", READER, b"x"),
    *[("GET", "/read/k", SLOW, b"")] * 5,
    ("DELETE", "/write/k", BOSS, b""),
    ("DELETE", "/write/k/v", BOSS, b""),
    ("GET", "/read/k", BOSS, b""),
    ("PUT", "/write/k", BOSS, b"x"),
    ("POST", "/read/k", BOSS, b"x"),
    ("OPTIONS", "/read/k", BOSS, b""),
    ("GET", "/write/k", BOSS, b""),
    ("GET", "/readk", BOSS, b""),
]


@dataclass
class Seen:
    status: int
    headers: dict[str, str]
    body: Any
    audit: list[dict[str, Any]]
    counted: str


class Ways:
    def __init__(self, runtime: Runtime, stream: io.StringIO) -> None:
        self.runtime, self.stream = runtime, stream
        runtime.counts.stop()
        self.flask = self._app(short=False)
        self.wsgi = self._app()
        self.app_of_short = self._app()
        self.short = short_way(self.app_of_short.extensions["holdfast"], runtime.settings.trusted_proxy_count)

    def _app(self, short: bool = True) -> Any:
        """With counters of its own, which stay in memory: otherwise each way would see what the others have used up."""
        runtime = self.runtime
        runtime.counts = LimitCounts(runtime.nodes, runtime.settings.mode, b"s" * 32, 1.0)
        return create_app(runtime, short=short)

    def by_wsgi(self, app: Any, method: str, target: str, headers: dict[str, str], body: bytes) -> Seen:
        environ = create_environ(target, method=method, headers=headers, data=body)
        environ |= {"RAW_URI": target, "REMOTE_ADDR": "127.0.0.1", "wsgi.input_terminated": True}
        environ["CONTENT_LENGTH"] = headers.get("Content-Length", str(len(body)))

        def run() -> tuple[int, dict[str, str], bytes]:
            got, status, sent = run_wsgi_app(app, environ, buffered=True)
            return int(status.split()[0]), dict(sent), b"".join(got)

        return self._seen(run)

    def by_short(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Seen | None:
        lines = [f"{n}: {v}" for n, v in headers.items()]
        raw = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *lines, f"Content-Length: {len(body)}", "", ""])
        head = simple(raw.encode())
        if head is None:
            return None

        def run() -> tuple[int, dict[str, str], bytes]:
            done = self.short(head, body, "127.0.0.1")
            return done.status, {**dict(done.headers), "Content-Length": str(len(done.body))}, done.body

        return self._seen(run)

    def _seen(self, run: Any) -> Seen:
        self.stream.seek(0)
        self.stream.truncate()
        before = self._counts()
        status, headers, body = run()
        after = self._counts()
        entries = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        counted = ", ".join(sorted(f"{k} {v - before[k]:g}" for k, v in after.items() if v != before[k]))
        return Seen(status, _known(headers), _known(json.loads(body)) if body else body, [_known(e) for e in entries],
                    counted)  # fmt: skip

    def _counts(self) -> dict[str, float]:
        text = self.runtime.metrics.exposition().decode()
        wanted = r"^(app_requests_total\{\S+|app_request_latency_seconds_count\{\S+) (\S+)$"
        return {m[1]: float(m[2]) for m in re.finditer(wanted, text, re.M)}


#: Different each time: only that it is there, and of which kind, is compared.
_FREE = ("version", "ts", "X-Session-Token", "staleness_ms", "acks", "Retry-After", "Set-Cookie")


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    known = {n: type(v).__name__ if n in _FREE else v for n, v in fields.items() if n != "Content-Length"}
    return known | {"stale": "?"} if "stale" in known else known


@pytest.fixture(params=["cp", "ap"])
def ways(request: pytest.FixtureRequest, shared: Cluster) -> Iterator[Ways]:
    stream = io.StringIO()
    env = shared.env(request.param, MAX_VALUE_BYTES="1024", RATE_LIMITS="10 per day")
    runtime = Runtime(settings.load(env))
    runtime.start()
    logs.configure("ERROR", {}, stream)
    try:
        yield Ways(runtime, stream)
    finally:
        runtime.stop()


def test_all_ways_are_alike(ways: Ways) -> None:
    short, limited = 0, 0
    for method, target, headers, body in TABLE:
        through_flask = ways.by_wsgi(ways.flask, method, target, headers, body)
        in_front = ways.by_wsgi(ways.wsgi, method, target, headers, body)
        assert in_front == through_flask, (method, target)
        by_server = ways.by_short(method, target, headers, body)
        if by_server is None:
            # Keep the limiter of the third way in step with the others.
            ways.by_wsgi(ways.app_of_short, method, target, headers, body)
        else:
            short += 1
            assert by_server == through_flask, (method, target)
        if (method, target[:5]) in (("GET", "/read"), ("POST", "/writ")) and target != "/readk":
            assert len(through_flask.audit) == 1, (method, target)
            assert through_flask.counted, (method, target)
        limited += through_flask.status == 429
    assert short > 30, "the table must mostly be simple requests"
    assert limited >= 2, "the table must reach a limit"


def test_both_ways_count_in_the_same_counters(ways: Ways) -> None:
    for _ in range(3):
        assert ways.by_wsgi(ways.wsgi, "GET", "/read/none", SLOW, b"").status == 404
    assert ways.by_wsgi(ways.wsgi, "GET", "/openapi.json", SLOW, b"").status == 429
    assert ways.by_wsgi(ways.flask, "GET", "/openapi.json", SLOW, b"").status == 200, "another app, other counters"


def test_a_body_that_was_cut_off_is_not_stored(ways: Ways) -> None:
    whole = ways.by_wsgi(ways.wsgi, "POST", "/write/cut", BOSS, b"whole")
    assert whole.status == 200
    for app in (ways.flask, ways.wsgi):
        cut = ways.by_wsgi(app, "POST", "/write/cut", BOSS | {"Content-Length": "9"}, b"half")
        assert (cut.status, cut.body["error"]["code"]) == (400, "bad_request")
    assert ways.by_wsgi(ways.wsgi, "GET", "/read/cut", BOSS, b"").body["value"] == "whole"

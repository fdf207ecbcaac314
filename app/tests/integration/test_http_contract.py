"""The HTTP contract of both modes through the real server process."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest
from cluster import App, Cluster, quote, wait_for

from holdfast.openapi import document


@pytest.fixture(scope="module", params=["cp", "ap"])
def app(request: pytest.FixtureRequest, shared: Cluster) -> App:
    return shared.run("serve", request.param)


def mode(app: App) -> str:
    return str(app.request("GET", "/health", token=None).json["mode"])


def test_write_read_delete(app: App) -> None:
    written = app.write("greeting", "hello")
    assert written.status == 200
    assert set(written.json) == {"status", "mode", "key", "version", "acks"}
    assert written.json["status"] == "SUCCESS"
    got = app.read("greeting")
    assert got.json["value"] == "hello"
    assert got.json["version"] == written.json["version"]
    assert set(got.json) == {"status", "mode", "key", "value", "version", "staleness_ms", "stale", "source"}
    assert app.request("POST", "/write/greeting/in%20path").status == 200
    assert app.read("greeting").json["value"] == "in path"
    assert app.delete("greeting").status == 200
    gone = app.read("greeting")
    assert (gone.status, gone.code) == (404, "not_found")
    stale = {"staleness_ms", "stale", "source"} if gone.json["mode"] == "ap" else set()
    assert set(gone.json) == {"status", "mode", "error"} | stale
    assert app.write("greeting", "").status == 200
    assert app.read("greeting").json["value"] == ""


@pytest.mark.parametrize("key", ["a/b", "é✓", "with space", "..", "a%2Fb", "?x#y", "k" * 512])
def test_unusual_keys(app: App, key: str) -> None:
    assert app.write(key, key).json["key"] == key
    assert app.read(key).json["value"] == key


def test_an_encoded_slash_is_part_of_the_key(app: App) -> None:
    assert app.request("POST", "/write/dir%2Fname/v1").json["key"] == "dir/name"
    assert app.read("dir/name").json["value"] == "v1"
    assert app.request("POST", "/write/dir/name").json["key"] == "dir"
    assert app.read("dir").json["value"] == "name"


BAD: list[tuple[str, str, bytes | None, dict[str, str], int, str]] = [
    ("GET", "/read/", None, {}, 400, "bad_key"),
    ("GET", "/read", None, {}, 400, "bad_key"),
    ("GET", "/read/%00", None, {}, 400, "bad_key"),
    ("GET", "/read/a%0d%0ab", None, {}, 400, "bad_key"),
    ("GET", "/read/%zz", None, {}, 400, "bad_key"),
    ("GET", "/read/%ff", None, {}, 400, "bad_key"),
    ("GET", "/read/" + "k" * 513, None, {}, 400, "bad_key"),
    ("GET", "/read/a/b", None, {}, 404, "not_found"),
    ("POST", "/write/a/b/c", None, {}, 404, "not_found"),
    ("POST", "/write/a/", None, {}, 400, "bad_value"),
    ("POST", "/write/a/%ff", None, {}, 400, "bad_value"),
    ("POST", "/write/a", b"\xff\xfe", {}, 400, "bad_value"),
    ("POST", "/write/a/b", b"body too", {}, 400, "bad_value"),
    ("POST", "/write/a", b"x" * 1048577, {}, 413, "too_large"),
    ("DELETE", "/write/a/b", None, {}, 404, "not_found"),
    ("GET", "/nothing", None, {}, 404, "not_found"),
    ("GET", "/", None, {}, 404, "not_found"),
    ("PUT", "/write/a", b"x", {}, 405, "method_not_allowed"),
    ("POST", "/read/a", b"x", {}, 405, "method_not_allowed"),
    ("OPTIONS", "/read/a", None, {}, 405, "method_not_allowed"),
    ("GET", "/read/" + "k" * 9000, None, {}, 413, "too_large"),
    ("GET", "/read/a", None, {"X-Big": "y" * 70000}, 413, "too_large"),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "code"), BAD, ids=lambda v: str(v)[:24])
def test_bad_input(
    app: App, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int, code: str
) -> None:
    reply = app.request(method, path, body, headers=headers)
    assert (reply.status, reply.code) == (status, code)
    assert reply.json["status"] == "FAILURE"
    assert reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "raw",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /read/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /write/a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /write/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_broken_http_gets_a_json_error(app: App, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", app.port), timeout=5) as connection:
        connection.sendall(raw)
        answer = connection.makefile("rb").read() if b"\xff" not in raw else connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1.1 4\d\d ", head), head
    assert json.loads(body)["status"] == "FAILURE"
    assert app.request("GET", "/health/live", token=None).status == 200


def test_the_largest_value_and_a_chunked_body(app: App) -> None:
    value = "é" * (1048576 // 2)
    assert app.write("large", value).status == 200
    assert app.read("large").json["value"] == value
    with socket.create_connection(("127.0.0.1", app.port), timeout=5) as connection:
        connection.sendall(
            b"POST /write/chunked HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer boss-token-00000001\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert b" 200 " in connection.makefile("rb").readline()
    assert app.read("chunked").json["value"] == "abcde"


def test_tokens_and_roles(app: App) -> None:
    for token in (None, "wrong-token-00000000", "\xff"):
        reply = app.read("greeting", token=token)
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    reply = app.write("greeting", "x", token="reader")
    assert (reply.status, reply.code) == (403, "forbidden")
    assert app.write("greeting", "x", token="writer").status == 200
    assert app.read("greeting", token="reader").status == 200
    assert app.read("greeting", token="writer").status == 200
    assert app.request("GET", "/openapi.json", token=None).status == 401
    for path in ("/health", "/health/live", "/metrics", "/circuit-breaker"):
        assert app.request("GET", path, token=None).status == 200


def test_rate_limit_of_a_token(app: App) -> None:
    replies = [app.read("nothing", token="slow") for _ in range(4)]
    assert [r.status for r in replies[:3]] == [404, 404, 404]
    assert (replies[3].status, replies[3].code) == (429, "rate_limited")
    assert 1 <= int(replies[3].headers["Retry-After"]) <= 86_401
    assert app.read("nothing", token="reader").status == 404, "another token has its own count"
    assert app.request("GET", "/health", token=None).status == 200


def test_unlimited_means_no_limit_for_anybody(shared: Cluster) -> None:
    app = shared.run("serve", "cp", RATE_LIMITS="unlimited")
    for _ in range(120):
        assert app.read("nothing", token="reader").status == 404
    assert app.read("nothing", token=None).status == 401
    replies = [app.read("nothing", token="slow") for _ in range(4)]
    assert replies[3].code == "rate_limited", "a token's own limit stays"


def test_openapi_is_true_of_live_answers(app: App) -> None:
    doc = app.request("GET", "/openapi.json", token="reader").json
    assert doc == document(mode(app))
    schemas = doc["components"]["schemas"]

    def fits(schema: str, answer: dict[str, Any]) -> None:
        assert set(schemas[schema]["required"]) <= set(answer) <= set(schemas[schema]["properties"])

    fits("Written", app.write("spec", "1").json)
    fits("Value", app.read("spec").json)
    fits("Failure", app.read("spec-none").json)
    for path, operations in doc["paths"].items():
        for method in operations:
            concrete = path.replace("{key}", "spec").replace("{value}", "v")
            body = b"v" if method == "post" and "{value}" not in path else None
            reply = app.request(method.upper(), concrete, body)
            assert str(reply.status) in operations[method]["responses"], (method, path, reply.status)


def test_metrics_and_audit(app: App) -> None:
    m = mode(app)
    series = f'app_requests_total{{mode="{m}",operation="write",status="success"}}'
    before = app.metric(series)
    app.write("audited", "planted-value-7", headers={"X-Forwarded-For": "203.0.113.9"})
    assert app.metric(series) == before + 1
    assert app.metric('circuit_breaker_state{node="db_g1"}') == 0
    entry = wait_for("audit entry", lambda: [e for e in app.entries() if e.get("key") == "audited"])[0]
    assert entry["stream"] == "audit"
    assert entry["event"] == f"{m.upper()}_COMMIT"
    assert entry["actor"] == "boss"
    assert entry["client"] == "203.0.113.9"
    assert "planted-value-7" not in app.log.read_text()


def test_circuit_breaker_shape(app: App) -> None:
    nodes = app.request("GET", "/circuit-breaker", token=None).json["nodes"]
    assert set(nodes) == {"db_g1", "db_g2", "db_g3"}
    assert set(nodes["db_g1"]) == {
        "state",
        "last_failure",
        "since",
        "next_probe",
        "window",
        "guard",
        "forced",
        "workers",
    }


def test_a_forged_session_is_not_honoured(app: App) -> None:
    if mode(app) == "cp":
        pytest.skip("AP only")
    app.write("s", "1")
    assert app.read("s", headers={"X-Session-Token": "forged.0"}).json["read_your_writes"] is False
    token = app.write("s", "2").headers["X-Session-Token"]
    assert app.read("s", headers={"X-Session-Token": token}).json["read_your_writes"] is True


def test_unlikely_key_text_round_trip(app: App) -> None:
    key = "'; DROP TABLE --\u2028"
    assert app.request("POST", f"/write/{quote(key)}/v").json["key"] == key

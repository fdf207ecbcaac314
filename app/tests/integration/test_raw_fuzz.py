"""Bytes on a socket that no client library would send: each complete request gets an error of the contract, the process
lives, and nothing of it reaches the log as anything but data."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from random import Random

import pytest
from cluster import TOKENS, App, Cluster

from holdfast.errors import ALL_ERRORS

TOKEN = TOKENS["boss"].encode()
CODES = {e.code: e.status for e in ALL_ERRORS}
ROUNDS = 600


@pytest.fixture(scope="module", params=["cp", "ap"])
def app(request: pytest.FixtureRequest, shared: Cluster) -> App:
    return shared.run("serve", request.param, RATE_LIMITS="unlimited")


def exchange(app: App, raw: bytes, half_close: bool = True) -> bytes:
    """Everything the server says until it closes; empty if it closes without a word. Fails if it does neither."""
    with socket.create_connection(("127.0.0.1", app.port), timeout=8) as connection:
        try:
            connection.sendall(raw)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has answered and closed before it had read all
        said = b""
        try:
            while part := connection.recv(65536):
                said += part
        except ConnectionResetError:
            pass
        return said


def first_answer(said: bytes, raw: bytes) -> tuple[int, dict[str, object]]:
    """Status and JSON body of the first answer. Anything that is not a whole HTTP answer fails."""
    head, found, rest = said.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.\d (\d{3}) [^\r\n]*\r\n", head + b"\r\n")
    assert found, f"cut answer: {said[:200]!r} to {raw[:300]!r}"
    assert match, f"not an answer: {said[:200]!r} to {raw[:300]!r}"
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    assert length, head
    body = rest[: int(length[1])]
    assert len(body) == int(length[1]), "cut answer"
    is_json = b"application/json" in head.lower()
    return int(match[1]), json.loads(body) if is_json and body else {}


def assert_of_the_contract(status: int, body: dict[str, object], raw: bytes) -> None:
    assert status < 500, f"{status} {body} to {raw[:400]!r}"
    if status >= 400:
        assert body.get("status") == "FAILURE", (status, body, raw[:300])
        error = body["error"]
        assert isinstance(error, dict)
        assert CODES[str(error["code"])] == status, (status, body, raw[:300])


def assert_alive_and_clean(app: App) -> None:
    assert app.request("GET", "/health/live", token=None).status == 200
    text = app.log.read_text(encoding="utf-8")  # fails on bytes that are not text
    for line in text.split("\n")[:-1]:
        entry = json.loads(line)
        assert re.fullmatch(r"[\x20-\x7e]*", line), "an unescaped character"
        assert not str(entry["event"]).startswith("FORGED"), line
        assert entry["event"] not in ("UNEXPECTED_ERROR", "SERVER_ERROR", "LINK_ERROR"), line


def request(target: bytes, method: bytes = b"GET", headers: bytes = b"", body: bytes = b"") -> bytes:
    return (
        method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + TOKEN + b"\r\n"
        b"Connection: close\r\n" + headers + b"\r\n" + body
    )


BROKEN: dict[str, tuple[bytes, int | None]] = {
    "no version": (b"GET /read/a\r\n\r\n", 400),
    "bare words": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "lower-case method": (request(b"/read/a", b"get"), None),
    "method with a control character": (request(b"/read/a", b"GE\x01T"), 400),
    "space in the target": (request(b"/read/a b"), 400),
    "NUL in the target": (request(b"/read/a\x00b"), 400),
    "raw non-UTF-8 in the target": (request(b"/read/\xc3\x28"), 400),
    "no slash": (request(b"read/a"), None),
    "asterisk": (request(b"*"), None),
    "only a query": (request(b"?a=b"), None),
    "absolute target": (request(b"http://other/read/fuzz-none"), 404),
    "unfinished escape": (request(b"/read/a%2"), 400),
    "escape with letters": (request(b"/read/%gg"), 400),
    "overlong UTF-8": (request(b"/read/%c0%af"), 400),
    "surrogate": (request(b"/read/%ed%a0%80"), 400),
    "escaped CR LF": (request(b"/read/a%0d%0aX-Forged:%20yes"), 400),
    "C1 control": (request(b"/read/%c2%85"), 400),
    "513 bytes": (request(b"/read/" + b"%41" * 513), 400),
    "long line": (request(b"/read/" + b"a" * 20000), 413),
    "header without a colon": (request(b"/read/a", headers=b"no colon here\r\n"), 400),
    "header name with a space": (request(b"/read/a", headers=b"Bad Name: x\r\n"), 400),
    "header value with NUL": (request(b"/read/a", headers=b"X-A: a\x00b\r\n"), 400),
    "many headers": (request(b"/read/a", headers=b"".join(b"X-%d: y\r\n" % i for i in range(300))), 413),
    "huge header": (request(b"/read/a", headers=b"X-Big: " + b"y" * 100000 + b"\r\n"), 413),
    "two lengths": (request(b"/write/a", b"POST", b"Content-Length: 1\r\nContent-Length: 2\r\n", b"xy"), 400),
    "negative length": (request(b"/write/a", b"POST", b"Content-Length: -5\r\n"), 400),
    "length with a sign": (request(b"/write/a", b"POST", b"Content-Length: +5\r\n", b"hello"), 400),
    "length that is no number": (request(b"/write/a", b"POST", b"Content-Length: five\r\n", b"hello"), 400),
    "length and chunks": (
        request(b"/write/a", b"POST", b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        400,
    ),
    "chunk size that is no number": (
        request(b"/write/a", b"POST", b"Transfer-Encoding: chunked\r\n", b"zz\r\nabc\r\n0\r\n\r\n"),
        400,
    ),
    "negative chunk": (
        request(b"/write/a", b"POST", b"Transfer-Encoding: chunked\r\n", b"-3\r\nabc\r\n0\r\n\r\n"),
        400,
    ),
    "body over the limit": (
        request(b"/write/a", b"POST", b"Content-Length: 2000000\r\n", b"x" * 2000000),
        413,
    ),
    "an announced terabyte": (request(b"/write/a", b"POST", b"Content-Length: 1099511627776\r\n", b"x"), 413),
    "chunks over the limit": (
        request(
            b"/write/a",
            b"POST",
            b"Transfer-Encoding: chunked\r\n",
            b"100000\r\n" + b"x" * 0x100000 + b"\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        413,
    ),
    "body that is not UTF-8": (request(b"/write/a", b"POST", b"Content-Length: 2\r\n", b"\xff\xfe"), 400),
    "no token": (b"GET /read/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
    "empty bearer": (request(b"/read/a").replace(b"Bearer " + TOKEN, b"Bearer "), 401),
    "basic": (request(b"/read/a").replace(b"Bearer " + TOKEN, b"Basic Zm9vOmJhcg=="), 401),
    "token with control characters": (request(b"/read/a").replace(TOKEN, b"a\x7fb\x1b[31m"), None),
    "token of bytes": (request(b"/read/a").replace(TOKEN, b"\xff" * 40), 401),
    "long token": (request(b"/read/a").replace(TOKEN, b"t" * 5000), 401),
    "two tokens": (request(b"/read/a", headers=b"Authorization: Bearer other-token-0000000\r\n"), None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_request_gets_its_error(app: App, name: str) -> None:
    """A status of None: the server may choose which 4xx."""
    raw, wanted = BROKEN[name]
    # Some clients wait for the answer with the connection open, so the end of input must not be what brings it.
    said = exchange(app, raw, half_close=False)
    status, body = first_answer(said, raw)
    assert_of_the_contract(status, body, raw)
    assert 400 <= status < 500
    assert wanted in (None, status), (status, body)
    assert app.request("GET", "/health/live", token=None).status == 200


def test_a_chunked_value_is_stored_whole_or_not_at_all(app: App) -> None:
    """A chunked body has no declared length: one that is too long by a byte must be refused, not cut."""

    def post(size: int) -> tuple[int, dict[str, object]]:
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"y" * size)
        raw = request(b"/write/chunked-fuzz", b"POST", b"Transfer-Encoding: chunked\r\n", chunks)
        return first_answer(exchange(app, raw, half_close=False), b"")

    assert post(1048576)[0] == 200
    assert len(app.read("chunked-fuzz").json["value"]) == 1048576
    assert app.write("chunked-fuzz", "before").status == 200
    status, body = post(1048577)
    assert (status, body["error"]["code"]) == (413, "too_large")  # type: ignore[index]
    assert app.read("chunked-fuzz").json["value"] == "before"


def test_a_body_that_ends_early_is_not_stored(app: App) -> None:
    assert app.write("cut", "before").status == 200
    for headers, body in (
        (b"Content-Length: 10\r\n", b"only"),
        (b"Transfer-Encoding: chunked\r\n", b"a\r\nonly"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nonly\r\n"),
    ):
        raw = request(b"/write/cut", b"POST", headers, body)
        said = exchange(app, raw)
        if said:
            status, answer = first_answer(said, raw)
            assert_of_the_contract(status, answer, raw)
            assert status == 400
        assert app.read("cut").json["value"] == "before", (headers, body)


def test_nothing_a_client_sends_forges_a_line_of_the_log(app: App) -> None:
    forged = '{"event": "FORGED", "stream": "audit"}'
    quoted = "%0d%0a" + "".join(f"%{b:02x}" for b in forged.encode())
    nasty = b"\x1b[2J\x07\xc2\x85\xe2\x80\xa8" + forged.encode()
    for raw in (
        request(b"/read/" + quoted.encode()),
        request(b"/read/ok%e2%80%a8%c2%ad" + quoted[6:].encode()),
        request(b"/write/a/" + quoted.encode(), b"POST"),
        request(b"/read/a?x=" + quoted.encode()),
        request(b"/" + quoted.encode()),
        request(b"/read/a", headers=b"X-Forwarded-For: " + nasty + b"\r\nUser-Agent: " + nasty + b"\r\n"),
        request(b"/read/a", headers=b"X-Session-Token: " + nasty + b"\r\nX-Request-Id: " + nasty + b"\r\n"),
        request(b"/read/a").replace(TOKEN, nasty),
        request(b"/read/a", b"FORGED"),
        nasty + b"\r\n\r\n",
        b"GET /read/a\r\n" + forged.encode() + b"\r\n\r\n",
    ):
        exchange(app, raw)
    assert_alive_and_clean(app)
    assert app.write("seen", "v").status == 200
    assert any(e.get("key") == "seen" for e in app.entries()), "the log is the one that is looked at"


BASES = (
    request(b"/read/fuzz"),
    request(b"/read/a%2Fb"),
    request(b"/write/fuzz/value", b"POST"),
    request(b"/write/fuzz", b"POST", b"Content-Length: 5\r\n", b"hello"),
    request(b"/write/fuzz", b"POST", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
    request(b"/write/fuzz", b"DELETE"),
    request(b"/health"),
    request(b"/openapi.json"),
)
PIECES = (b"\x00", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"%", b"%00", b"%ff", b"/", b"//", b"?", b"#", b":", b" ", b"\t")
MORE_PIECES = (b"\xff", b"\xc3\xa9", b"\xe2\x80\xa8", b"\x1b[0m", b"Content-Length: 7\r\n", b"HTTP/1.0", b"a" * 3000)


def mutated(rnd: Random) -> bytes:
    raw = bytearray(rnd.choice(BASES))
    for _ in range(rnd.choice((1, 1, 2, 4))):
        at, kind = rnd.randrange(len(raw) or 1), rnd.randrange(5)
        if kind == 0:
            raw[at : at + 1] = bytes([rnd.randrange(256)])
        elif kind == 1:
            raw[at:at] = rnd.choice(PIECES + MORE_PIECES)
        elif kind == 2:
            del raw[at : at + rnd.randint(1, 12)]
        elif kind == 3:
            raw[at:at] = raw[max(0, at - rnd.randint(1, 40)) : at]
        else:
            del raw[at:]
    return bytes(raw)


def test_mutated_requests(app: App) -> None:
    """Seeded. A request that was cut off may be closed without a word; whatever is answered is of the contract."""
    rnd, statuses = Random(11), Counter()
    for _ in range(ROUNDS):
        raw = mutated(rnd)
        said = exchange(app, raw)
        if not said:
            statuses["closed"] += 1
            continue
        status, body = first_answer(said, raw)
        assert_of_the_contract(status, body, raw)
        statuses[status] += 1
    print(dict(statuses))
    assert statuses[400] > ROUNDS / 10
    assert sum(statuses.values()) - statuses["closed"] > ROUNDS / 2
    assert_alive_and_clean(app)


def test_negative_control_of_the_log_check(app: App) -> None:
    with app.log.open("a") as log:
        log.write('{"event": "FORGED"}\n')
    with pytest.raises(AssertionError):
        assert_alive_and_clean(app)
    with pytest.raises(AssertionError):
        first_answer(b"Traceback (most recent call last)", b"")
    with pytest.raises(AssertionError):
        assert_of_the_contract(500, {}, b"")

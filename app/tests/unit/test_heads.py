"""heads.simple against gunicorn's own parser: what it accepts, the parser understands in the same way."""

from __future__ import annotations

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.heads import MAX_HEADERS, Head, simple

PLAIN = b"GET /read/k HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n"
POST = b"POST /write/k HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /next"


def config() -> Config:
    made = Config()
    made.set("limit_request_line", 8190)
    made.set("forwarded_allow_ips", "")
    return made


CONFIG = config()


def fully_parsed(data: bytes) -> tuple[str, str, dict[str, str], bytes, bytes, bool]:
    """Method, target, headers, body, what follows, and whether the connection may go on, as gunicorn sees them."""
    parser = RequestParser(CONFIG, iter([data]), ("127.0.0.1", 1))
    request = next(parser)
    body = request.body.read()
    headers = {name.lower(): value for name, value in request.headers}
    assert len(headers) == len(request.headers), "repeated headers are not simple"
    return request.method, request.uri, headers, body, parser.unreader.take_buffered(), not request.should_close()


def assert_same(data: bytes) -> Head | None:
    head = simple(data)
    if head is None or len(data) < head.size + head.length:
        return head
    end = head.size + head.length
    ours = (head.method, head.target, head.headers, data[head.size : end], data[end:], head.keep)
    assert ours == fully_parsed(data)
    return head


def test_plain_requests_are_simple() -> None:
    head = assert_same(PLAIN)
    assert head is not None
    assert (head.method, head.target, head.length, head.keep) == ("GET", "/read/k", 0, True)
    assert head.headers == {"host": "x", "authorization": "Bearer t"}
    posted = assert_same(POST)
    assert posted is not None
    assert posted.length == 3
    closing = assert_same(PLAIN.replace(b"Host: x", b"Host: x\r\nConnection: Close"))
    assert closing is not None
    assert not closing.keep


LEFT_TO_THE_PARSER = [
    PLAIN[:-2],
    PLAIN.replace(b"1.1", b"1.0"),
    PLAIN.replace(b"Host: x\r\n", b""),
    PLAIN.replace(b"/read/k", b"/health"),
    PLAIN.replace(b"/read/k", b"http://x/read/k"),
    PLAIN.replace(b"/read/k", b"/read/\xff"),
    PLAIN.replace(b"GET", b"PUT"),
    PLAIN.replace(b"GET", b"POST"),
    PLAIN.replace(b"Host: x", b"Host: x\r\nHost: y"),
    PLAIN.replace(b"Host: x", b"Host : x"),
    PLAIN.replace(b"Host: x", b"Host: x\r\n folded"),
    PLAIN.replace(b"Host: x", b"Host: x\r\nX_Forwarded_For: 1"),
    PLAIN.replace(b"Host: x", b"Host: \x00"),
    PLAIN.replace(b"\r\n", b"\n"),
    PLAIN.replace(b"Host: x", b"Host: x\r\nContent-Length: 3"),
    PLAIN.replace(b"Host: x", b"Host: x\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(MAX_HEADERS)) + b"X: 1"),
    *(POST.replace(b"Content-Length: 3", wrong) for wrong in (
        b"Content-Length: +3", b"Content-Length: 03", b"Content-Length: 3, 3", b"Content-Length: -1",
        b"Content-Length: 3\r\nContent-Length: 3", b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked", b"Content-Length: 3\r\nExpect: 100-continue",
        b"Content-Length: 3\r\nUpgrade: h2c", b"Content-Length: 3\r\nConnection: upgrade",
    )),
]  # fmt: skip


@pytest.mark.parametrize("data", LEFT_TO_THE_PARSER)
def test_everything_else_is_left_to_the_parser(data: bytes) -> None:
    assert simple(data) is None


NAMES = ["Host", "host", "Content-Length", "Connection", "Transfer-Encoding", "X-Forwarded-For", "Expect", "Upgrade",
         "Te", "Trailer", "Cookie", "X", "X-", "A_b", "Content-Type", "Script-Name", "Content-Encoding"]  # fmt: skip
VALUES = [
    "x",
    "0",
    "3",
    "03",
    " 3 ",
    "+3",
    "3,3",
    "close",
    "Keep-Alive",
    "chunked",
    "100-continue",
    "a\tb",
    "",
    "é",
    "\x7f",
]
lines = st.one_of(
    st.builds(lambda n, s, v: f"{n}{s}{v}", st.sampled_from(NAMES), st.sampled_from([":", ": ", " :", ":\t", ""]),
              st.one_of(st.sampled_from(VALUES), st.text(max_size=8))),
    st.text(max_size=12),
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "get"]),
    target=st.one_of(st.sampled_from(["/read/k", "/write/a%2Fb/c?x#y", "/read/[", "/write//x"]), st.text(max_size=10)),
    version=st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/1.1 "]),
    headers=st.lists(lines, max_size=6),
    end=st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]),
    body=st.binary(max_size=6),
)
@example("POST", "/write/k", "HTTP/1.1", ["Host: x", "Content-Length: 2"], "\r\n", b"abGET /")
def test_never_understood_in_another_way(
    method: str, target: str, version: str, headers: list[str], end: str, body: bytes
) -> None:
    head = end.join([f"{method} {target} {version}", "Host: x", *headers, "", ""])
    assert_same(head.encode("utf-8", "replace") + body)


def test_the_comparison_can_fail() -> None:
    """Negative control: a reader that ignores Transfer-Encoding ends the message elsewhere than the parser."""
    smuggled = POST.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked").replace(b"abc", b"0\r\n\r\n")
    careless = Head("POST", "/write/k", {}, smuggled.index(b"\r\n\r\n") + 4, 0, True)
    _method, _target, _headers, _body, follows, _keep = fully_parsed(smuggled)
    assert smuggled[careless.size + careless.length :] != follows

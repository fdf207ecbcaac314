"""Recognises the plain requests that make up nearly all traffic: a strict part of HTTP/1.1, by one pattern.

Guarantee: whatever ``simple`` accepts, the server's full parser accepts too and understands in the same way (same
method, target, header values, length of the body, and end). Everything that could be understood in two ways, or is
rare, is left to that parser: transfer codings, repeated or unusual headers, other methods, routes and versions, bytes
outside printable ASCII, heads that have not arrived whole. Pure: no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LINE, MAX_HEAD, MAX_HEADERS = 4096, 8192, 40
_HEAD = re.compile(
    rb"(GET(?= /r)|POST(?= /w)|DELETE(?= /w)) (/(?:read|write)/[!-~]*) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z][A-Za-z0-9-]*:[\t -~]*\r\n)+)\r\n"
)
_HEADER = re.compile(r"([A-Za-z0-9-]+):[\t ]*([^\r]*)\r\n")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,9}")
#: Headers that change how a message is framed or answered. The full parser knows what to do with them.
_NOT_SIMPLE = frozenset(
    ("transfer-encoding", "expect", "upgrade", "http2-settings", "te", "trailer", "content-encoding", "script-name")
)


@dataclass(slots=True)
class Head:
    """``headers`` by lower-case name. ``size`` in bytes of the head, ``length`` of the body that follows it."""

    method: str
    target: str
    headers: dict[str, str]
    size: int
    length: int
    keep: bool


def simple(data: bytes) -> Head | None:
    """The head ``data`` begins with, or None if it is not a simple one."""
    match = _HEAD.match(data, 0, MAX_HEAD)
    if match is None:
        return None
    method, target, block = match[1].decode(), match[2].decode(), match[3].decode()
    found = _HEADER.findall(block)
    headers = {name.lower(): value.rstrip("\t ") for name, value in found}
    if len(headers) != len(found) or len(found) > MAX_HEADERS or len(target) > MAX_LINE:
        return None
    if "host" not in headers or not _NOT_SIMPLE.isdisjoint(headers):
        return None
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length) or (method != "POST" and length != "0"):
        return None
    connection = headers.get("connection", "keep-alive").lower()
    if connection not in ("keep-alive", "close"):
        return None
    return Head(method, target, headers, match.end(), int(length), connection == "keep-alive")

"""What a key and a value may be, and how they come out of a request's raw path.

The path is split *before* it is percent-decoded, so that an encoded slash stays inside its segment:
``/write/a%2Fb`` is the key "a/b", ``/write/a/b`` is the key "a" with the value "b".
"""

from __future__ import annotations

import re

from .errors import BadKey, BadValue, ServiceError, TooLarge

MAX_KEY_BYTES = 512
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def raw_segments(raw_uri: str) -> list[str]:
    """The still-encoded segments of a request target: "/read/a%2Fb?x" gives ["read", "a%2Fb"]."""
    target = raw_uri
    if not target.startswith("/"):  # absolute form: http://host/path
        _, _, rest = target.partition("://")
        target = "/" + rest.partition("/")[2]
    path = target.partition("?")[0].partition("#")[0]
    return path[1:].split("/")


def _decode(segment: str, error: type[ServiceError], what: str) -> str:
    if _BAD_ESCAPE.search(segment):
        raise error(f"the {what} holds a broken percent-escape")
    # A WSGI server hands the raw target over as latin-1 text; unescaped non-ASCII bytes survive that trip.
    try:
        raw = segment.encode("latin-1")
    except UnicodeEncodeError:
        raw = segment.encode("utf-8", "surrogatepass")
    raw = _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise error(f"the {what} is not UTF-8") from None


def decode_key(segment: str) -> str:
    """A valid key: 1 to 512 bytes of UTF-8 without control characters (Unicode's C0, DEL and C1). Raises BadKey."""
    key = _decode(segment, BadKey, "key")
    size = len(key.encode("utf-8"))
    if not 1 <= size <= MAX_KEY_BYTES:
        raise BadKey(f"a key has 1 to {MAX_KEY_BYTES} bytes, this one has {size}")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in key):
        raise BadKey("a key holds no control characters")
    return key


def decode_path_value(segment: str, max_bytes: int) -> str:
    """The value of ``POST /write/<key>/<value>``. Raises BadValue, TooLarge."""
    if segment == "":
        raise BadValue("the value in the path is empty; send an empty value as an empty body of POST /write/<key>")
    value = _decode(segment, BadValue, "value")
    _check_size(len(value.encode("utf-8")), max_bytes)
    return value


def decode_body_value(body: bytes, max_bytes: int) -> str:
    """The value of ``POST /write/<key>``: the whole body, UTF-8 text, may be empty. Raises BadValue, TooLarge."""
    _check_size(len(body), max_bytes)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadValue("the value is not UTF-8") from None


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLarge(f"a value has at most {max_bytes} bytes, this one has {size}")

"""Reading the body of a request: all of it or an error, never a part."""

from __future__ import annotations

from typing import Any, BinaryIO
from wsgiref.types import WSGIEnvironment

from .errors import BadRequest, TooLarge

CHUNK = 65536


def read_body(environ: WSGIEnvironment, max_bytes: int) -> bytes:
    """The whole body, at most ``max_bytes``. Raises TooLarge, and BadRequest for one that is cut or badly framed.

    A chunked body has no declared length: one byte more than allowed is asked for, so that a longer one is refused and
    not cut. What the server finds wrong with the framing only shows while reading, as an exception of its own kind.
    """
    declared = _declared(environ)
    if declared is not None and declared > max_bytes:
        raise TooLarge(f"a value has at most {max_bytes} bytes, this one has {declared}")
    if declared is None and "HTTP_TRANSFER_ENCODING" not in environ:
        return b""
    wanted = max_bytes + 1 if declared is None else declared
    try:
        body = _read(environ["wsgi.input"], wanted)
    except Exception as problem:
        raise BadRequest(f"the body cannot be read ({type(problem).__name__}): send it whole") from problem
    if len(body) > max_bytes:
        raise TooLarge(f"a value has at most {max_bytes} bytes")
    if declared is not None and len(body) < declared:
        raise BadRequest(f"the body ended after {len(body)} of {declared} bytes: send it whole")
    return body


def _declared(environ: WSGIEnvironment) -> int | None:
    length: Any = environ.get("CONTENT_LENGTH") or ""
    return int(length) if length.isascii() and length.isdigit() else None


def _read(stream: BinaryIO, wanted: int) -> bytes:
    parts: list[bytes] = []
    while wanted > 0 and (part := stream.read(min(wanted, CHUNK))):
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)

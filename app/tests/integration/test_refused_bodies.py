"""A body that was refused is not read for ever, neither from a client that sends fast nor from one that drips."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest
from cluster import TOKENS, App, Cluster

MIB = 1024 * 1024
#: What a connection may take: twice the largest value, what is left at the end (4 MiB), and the kernel's buffers.
BOUND = 24 * MIB
OFFERED = 64 * MIB

#: The server without its bound, for the controls.
_BOUNDLESS = """
import os
from gunicorn.http.parser import Parser
from holdfast import server, settings
bounded = Parser.finish_body
Parser.finish_body = lambda parser, *_bounds: bounded(parser)
server.run(settings.load(os.environ))
"""
AUTHORIZED = f"Authorization: Bearer {TOKENS['writer']}\r\n"
LENGTH = f"Content-Length: {1024 * MIB}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
REFUSED = {
    "no token": ("", LENGTH, b"401"),
    "no token, chunked": ("", CHUNKED, b"401"),
    "too large": (AUTHORIZED, LENGTH, b"413"),
    "too large, chunked": (AUTHORIZED, CHUNKED, b"413"),
}


@pytest.fixture(scope="module")
def app(shared: Cluster) -> App:
    return shared.run("serve", "cp")


@pytest.fixture(scope="module")
def boundless(shared: Cluster) -> App:
    return shared.run("serve", "cp", launch=("-c", _BOUNDLESS))


def send(app: App, case: str, goes_on: Callable[[int, float], bool], size: int, pause: float) -> tuple[int, float]:
    """Send pieces of a body while ``goes_on(sent, seconds)`` and the server takes them; how many bytes, and seconds."""
    token, kind, status = REFUSED[case]
    head = f"POST /write/refused HTTP/1.1\r\nHost: x\r\n{token}{kind}\r\n".encode()
    piece = b"%x\r\n%b\r\n" % (size, b"x" * size) if kind == CHUNKED else b"x" * size
    sent, began, answer = 0, time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", app.port), timeout=15) as connection:
        connection.sendall(head)
        try:
            while goes_on(sent, time.monotonic() - began):
                connection.sendall(piece)
                sent += size
                time.sleep(pause)
                if not answer:
                    connection.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        answer = connection.recv(64)
                    connection.settimeout(15)
        except OSError:  # it was closed
            assert answer.startswith(b"HTTP/1.1 " + status), answer
        return sent, time.monotonic() - began


def fast(app: App, case: str) -> int:
    return send(app, case, lambda sent, _seconds: sent < OFFERED, 65536, 0.0)[0]


def dripping(app: App, case: str, seconds: float) -> float:
    return send(app, case, lambda _sent, so_far: so_far < seconds, 100, 0.05)[1]


@pytest.mark.parametrize("case", ["no token", "no token, chunked", "too large"])
def test_a_fast_sender_is_cut_off(app: App, case: str) -> None:
    assert fast(app, case) < BOUND
    assert app.write("after", "v").status == 200


def test_a_fast_sender_of_chunks_is_cut_off_after_the_largest_value(app: App) -> None:
    assert fast(app, "too large, chunked") < BOUND


@pytest.mark.parametrize("case", ["no token", "no token, chunked", "too large"])
def test_a_sender_that_drips_is_cut_off(app: App, case: str) -> None:
    assert dripping(app, case, 15) < 10


def test_control_without_the_bound_all_is_read(boundless: App) -> None:
    assert fast(boundless, "no token") >= OFFERED
    assert dripping(boundless, "too large", 10) >= 10

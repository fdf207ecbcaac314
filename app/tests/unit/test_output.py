"""Standard output that nobody reads: nothing waits for it, audit lines are kept, the others are bounded and counted."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast import output
from holdfast.output import AUDIT_ROOM, LOG_BYTES, Output, sender

LINE = "x" * 249 + "\n"


def as_reopened(fd: int, _monkeypatch: pytest.MonkeyPatch) -> Output:
    return Output(fd)


def as_another_users(fd: int, monkeypatch: pytest.MonkeyPatch) -> Output:
    """A pipe that cannot be opened anew."""

    def refuse(*_args: object) -> int:
        raise PermissionError

    monkeypatch.setattr(output.os, "open", refuse)
    return Output(fd)


class Pipe:
    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer = reader, writer
        self.open = {reader, writer}

    def read(self, size: int = 65536) -> bytes:
        """What is there, or nothing: who waits for a thread must not wait here."""
        ready, _, _ = select.select([self.reader], [], [], 0.02)
        return os.read(self.reader, size) if ready else b""

    def close(self, fd: int) -> None:
        self.open.discard(fd)
        os.close(fd)

    def read_all(self, out: Output) -> bytes:
        """Everything that was written and held."""
        got, more = b"", b"-"
        while not out.flush() or more:
            more = self.read()
            got += more
        return got


@pytest.fixture(params=["pipe", "socket"])
def pipe(request: pytest.FixtureRequest) -> Iterator[Pipe]:
    ends = os.pipe() if request.param == "pipe" else [s.detach() for s in socket.socketpair()]
    made = Pipe(*ends)
    yield made
    for fd in list(made.open):
        made.close(fd)


@pytest.fixture(params=[as_reopened, as_another_users])
def out(request: pytest.FixtureRequest, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> Output:
    make: Callable[[int, pytest.MonkeyPatch], Output] = request.param
    return make(pipe.writer, monkeypatch)


def fill(out: Output, stream: str = "audit", limit: int = 40_000) -> int:
    """Write numbered lines until no request may begin or something is dropped; how many were written."""
    dropped: list[str] = []
    out.on_drop = dropped.append
    for i in range(limit):
        if out.blocked or dropped:
            return i
        out.write(stream, f"{i:09d}{LINE[9:]}")
    raise AssertionError("it took everything")


def test_no_audit_line_is_lost_and_the_order_stays(out: Output, pipe: Pipe) -> None:
    began = time.monotonic()
    count = fill(out)
    assert count > AUDIT_ROOM // len(LINE), "the room, and what the pipe itself holds"
    assert not out.ready(0.0)
    for i in range(1000):  # those that had begun
        out.write("audit", f"{count + i:09d}{LINE[9:]}")
    assert time.monotonic() - began < 30
    got = pipe.read_all(out).decode().splitlines()
    assert [int(line[:9]) for line in got] == list(range(count + 1000))
    assert out.ready(0.0)
    assert out.waiting == 0


def test_operational_lines_are_dropped_and_counted(out: Output, pipe: Pipe) -> None:
    fill(out, "log")
    assert LOG_BYTES - len(LINE) < out.waiting <= LOG_BYTES
    out.write("audit", "audited\n")
    for _ in range(10):
        out.write("log", LINE)
    dropped: list[str] = []
    out.on_drop = dropped.append
    out.write("log", LINE)
    assert dropped == ["log"]
    assert pipe.read_all(out).endswith(b"audited\n")


def test_a_request_waits_for_room(out: Output, pipe: Pipe) -> None:
    out.start()
    fill(out)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(out.ready(10.0)))
    waiting.start()
    time.sleep(0.1)
    assert answers == []
    while waiting.is_alive():
        pipe.read()
    assert answers == [True]


def test_what_happened_is_told_when_it_is_read_again(pipe: Pipe) -> None:
    out, told = Output(pipe.writer), []
    out.start(told.append)
    out.write("audit", LINE)
    time.sleep(0.05)
    assert told == [], "nothing to tell of a line that was taken"
    fill(out)
    assert not out.ready(0.0)
    while not told:
        pipe.read()
    assert (told[0]["refused"], told[0]["dropped"]) == (1, {"log": 0, "audit": 0})


def test_a_reader_that_is_gone_is_waited_for_too(out: Output, pipe: Pipe) -> None:
    pipe.close(pipe.reader)
    out.write("audit", LINE)
    assert out.waiting == len(LINE)


def test_flags_of_the_descriptor_itself_stay(out: Output, pipe: Pipe) -> None:
    """They are shared with other processes, such as a shell."""
    assert os.get_blocking(pipe.writer)


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with path.open("ab") as file:
        Output(file.fileno()).write("log", LINE)
        with path.open("ab") as other:
            other.write(b"other\n")
        Output(file.fileno()).write("log", LINE)
    assert path.read_text() == "before\n" + LINE + "other\n" + LINE


def test_a_child_does_not_send_what_its_parent_holds(pipe: Pipe) -> None:
    out = Output(pipe.writer)
    fill(out)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if out.waiting == 0 and out.flush() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert out.waiting > 0


def test_what_is_lost_at_the_end_is_said(pipe: Pipe, capfd: pytest.CaptureFixture[str]) -> None:
    out = Output(pipe.writer)
    fill(out)
    out.finish(0.1)
    assert " audit and 0 log lines lost" in capfd.readouterr().err


def test_control_a_plain_write_waits(pipe: Pipe) -> None:
    """Why ``sender`` is needed."""
    stuck = threading.Thread(target=lambda: [os.write(pipe.writer, LINE.encode()) for _ in range(8000)])
    stuck.start()
    stuck.join(1.0)
    assert stuck.is_alive()
    while stuck.is_alive():
        pipe.read()
    send = sender(pipe.writer)
    with pytest.raises(BlockingIOError):
        sum(send(LINE.encode()) for _ in range(8000))

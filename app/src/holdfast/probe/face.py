"""One target of a run: its writer, its reader, and the line each of their requests leaves."""

from __future__ import annotations

import time
from random import Random
from typing import Any, Protocol

from .answers import outcome, parse, seen_fields, text
from .client import Client, NoAnswer, Refused, Result, Url
from .http1 import Answer
from .ledger import Choice, Reader, Written
from .options import RunOptions, Target
from .records import NO_ANSWER, OK, REFUSED_CONNECTION, UNSENT, Layout, stamp

#: Requests of one target at once. A service that hangs holds rate * timeout of them; the limit is above that.
MIN_IN_FLIGHT = 64


class Sink(Protocol):
    """What a face needs of the run."""

    def record(self, record: dict[str, Any]) -> None: ...


class Face:
    """One target with its writer and its reader. ``in_flight``: requests sent and not yet recorded."""

    def __init__(
        self, options: RunOptions, target: Target, layout: Layout, written: dict[str, Written], sink: Sink
    ) -> None:
        self._target, self._layout, self._sink = target, layout, sink
        self._value_bytes = options.value_bytes
        self._timeout = options.access.timeout_sec
        self.client = Client(Url.parse(target.url), options.access.token, options.access.tls, options.access.lookup())
        self._mine = written[target.writer]
        same_mode = [written[t.writer] for t in options.targets if t.mode == target.mode]
        self._reader = Reader(same_mode, Random(f"{layout.run} {target.writer}"))  # noqa: S311  not a secret
        self._limit = max(MIN_IN_FLIGHT, int((options.rate + options.read_rate) * self._timeout * 2))
        self.in_flight = self._seq = 0

    def due_write(self, due: float, late: bool) -> None:
        self._seq += 1
        line = self._line("write", self._target.writer, self._layout.key(self._target.writer, self._seq), due)
        line["seq"] = self._seq
        if not self._unsent(line, late):
            self._write(line, self._seq)

    def due_read(self, due: float, late: bool) -> None:
        choice = self._reader.next()
        if choice is None:
            line = self._line("read", self._target.writer, "", due)
            self._unsent(line, late, "nothing_to_read")
            return
        line = self._line("session_read" if choice.token else "read", choice.writer, choice.key, due)
        line["acked"] = choice.acked
        line["acked_age_ms"] = round((time.monotonic() - choice.acked_at) * 1000, 1)
        line["acked_version"] = choice.version
        if not self._unsent(line, late):
            self._read(line, choice)

    def _line(self, op: str, writer: str, key: str, due: float) -> dict[str, Any]:
        target = self._target
        return {
            "type": "request",
            "op": op,
            "mode": target.mode,
            "zone": target.zone,
            "writer": writer,
            "key": key,
            "due": round(due, 6),
        }

    def _unsent(self, line: dict[str, Any], late: bool, detail: str | None = None) -> bool:
        if self.in_flight >= self._limit:
            detail = "in_flight"
        if late:
            detail = "late"
        if detail is None:
            return False
        now = time.monotonic()
        line |= {"start": stamp(time.time()), "m0": round(now, 6), "outcome": UNSENT, "detail": detail}
        self._sink.record(line)
        return True

    def _write(self, line: dict[str, Any], seq: int) -> None:
        value = self._layout.value(self._target.writer, seq, self._value_bytes)
        began = self._start(line)

        def done(result: Result) -> None:
            body = self._judge(line, result)
            if isinstance(result, Answer):
                line["version"] = text(body.get("version"))
                if line["outcome"] == OK:
                    token = result.headers.get(b"x-session-token", b"").decode("latin-1") or None
                    self._mine.acknowledge(seq, time.monotonic(), line["version"], token)
            self._finish(line, began)

        self.client.start_write(line["key"], value, self._mine.token, self._timeout, done)

    def _read(self, line: dict[str, Any], choice: Choice) -> None:
        began = self._start(line)

        def done(result: Result) -> None:
            body = self._judge(line, result)
            line.update(seen_fields(self._layout, choice.key, choice.writer, line["outcome"], body))
            self._finish(line, began)

        self.client.start_read(choice.key, choice.token, self._timeout, done)

    def _start(self, line: dict[str, Any]) -> float:
        self.in_flight += 1
        began = time.monotonic()
        line["start"], line["m0"] = stamp(time.time()), round(began, 6)
        return began

    @staticmethod
    def _judge(line: dict[str, Any], result: Result) -> dict[str, Any]:
        """The body of the answer, if there is one; ``line`` gets the outcome."""
        if isinstance(result, Refused):
            line["outcome"], line["detail"] = REFUSED_CONNECTION, str(result)
        elif isinstance(result, NoAnswer):
            line["outcome"], line["detail"] = NO_ANSWER, str(result)
        else:
            body = parse(result.body)
            line["status"], line["outcome"] = result.status, outcome(result.status, body)
            return body
        return {}

    def _finish(self, line: dict[str, Any], began: float) -> None:
        self.in_flight -= 1
        ended = time.monotonic()
        line["end"], line["m1"] = stamp(time.time()), round(ended, 6)
        line["latency_ms"] = round((ended - began) * 1000, 3)
        self._sink.record(line)

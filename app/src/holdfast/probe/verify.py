"""`holdfast probe verify`: read back every acknowledged write of a run and append what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from .acks import Acks
from .answers import outcome, parse, seen_fields
from .client import Client, NoAnswer, Refused, Url
from .options import Access, Target
from .records import LOST, NEVER_READ, NOT_FOUND, OK, STATES, Layout, encode, stamp

PARALLEL = 16


@dataclass(slots=True)
class Key:
    """One key to read back: the acknowledged writes that went there, which targets gave a definite answer, and which of
    those did not call it stale."""

    name: str
    writer: str
    seqs: list[int]
    states: dict[int, str] = field(default_factory=dict)
    definite: set[str] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)


class Verifier:
    """Reads keys through the targets of their mode, at most ``rate`` reads a second, in ``rounds`` rounds while
    anything is not there, and in more of them until ``wait_sec`` are over while it may yet arrive.

    *present* and *superseded* are decided by any target that shows them. *lost* needs a definite answer (a value or
    not_found): in CP from one target, as any of them must know; in AP from every target given, because a zone that
    does not answer may be the one that holds the write. Anything else is *never_read*. Later rounds read only what is
    undecided or would be lost: replication gets ``pause_sec`` more each time. While an answer says that it is stale, or
    a target gives none, the write may yet arrive: that is what ``wait_sec`` is for. What is not there then is lost.
    """

    def __init__(
        self,
        acks: Acks,
        layout: Layout,
        targets: tuple[Target, ...],
        access: Access,
        rate: float,
        rounds: int,
        pause_sec: float,
        wait_sec: float,
    ) -> None:
        self._acks, self._layout, self._targets, self._access = acks, layout, targets, access
        self._interval, self._rounds, self._pause, self._wait = 1 / rate, rounds, pause_sec, wait_sec
        self._next = 0.0

    async def run(self, out: TextIO) -> dict[str, Any]:
        """Appends ``verify``, ``final`` and ``verify_end`` records; returns the last, with the counts."""
        access = self._access
        clients = {t.writer: Client(Url.parse(t.url), access.token, access.tls, access.lookup()) for t in self._targets}
        for client in clients.values():
            client.start()
        listed = [t.as_json() for t in self._targets]
        out.write(encode({"type": "verify", "start": stamp(time.time()), "targets": listed}))
        counts = dict.fromkeys(STATES, 0)
        try:
            until, number = time.monotonic() + self._wait, 1
            undecided = await self._round(self._keys(), clients, out, counts, number, until)
            while undecided:
                await asyncio.sleep(self._pause)
                number += 1
                undecided = await self._round(iter(undecided), clients, out, counts, number, until)
        finally:
            for client in clients.values():
                client.close()
        end = {"type": "verify_end", "end": stamp(time.time()), "acknowledged": sum(counts.values()), **counts}
        out.write(encode(end))
        return end

    def _keys(self) -> Iterator[Key]:
        for writer, log in self._acks.writers.items():
            registers: dict[int, Key] = {}
            for seq in log.acked():
                name = self._layout.key(writer, seq)
                if self._layout.is_register(seq):
                    registers.setdefault(self._layout.slot(seq), Key(name, writer, [])).seqs.append(seq)
                else:
                    yield Key(name, writer, [seq])
            yield from registers.values()

    async def _round(
        self,
        keys: Iterator[Key],
        clients: dict[str, Client],
        out: TextIO,
        counts: dict[str, int],
        number: int,
        until: float,
    ) -> list[Key]:
        """Returns the keys to be read again."""
        again: list[Key] = []
        late = number >= self._rounds
        over = late and time.monotonic() >= until

        async def work() -> None:
            for key in keys:  # shared by all workers
                await self._read(key, clients)
                decided = all(s in key.states for s in key.seqs) or (late and self._all(key, key.fresh))
                if not decided and not over:
                    again.append(key)
                else:
                    self._close(key, out, counts)

        await asyncio.gather(*(work() for _ in range(PARALLEL)))
        return again

    async def _read(self, key: Key, clients: dict[str, Client]) -> None:
        mode = self._acks.writers[key.writer].mode
        fitting = [t for t in self._targets if t.mode == mode]
        key.definite.clear()
        key.fresh.clear()  # an answer of an earlier round says nothing about now
        first = key.seqs[0] % len(fitting) if fitting else 0  # spread the reads; then the other targets
        for target in fitting[first:] + fitting[:first]:
            await self._pace()
            try:
                answer = await clients[target.writer].read(key.name, None, self._access.timeout_sec)
            except (Refused, NoAnswer):
                continue
            body = parse(answer.body)
            result = outcome(answer.status, body)
            if result not in (OK, NOT_FOUND):
                continue
            shown = seen_fields(self._layout, key.name, key.writer, result, body)
            key.definite.add(target.writer)
            if not shown["stale"]:
                key.fresh.add(target.writer)
            for seq in key.seqs:
                state = self._acks.classify(key.writer, seq, shown["seen"], shown.get("version"))
                if state is not None and key.states.get(seq) != "present":
                    key.states[seq] = state
            if all(s in key.states for s in key.seqs):
                return

    def _all(self, key: Key, answered: set[str]) -> bool:
        """Whether these targets are enough to say that something is lost."""
        mode = self._acks.writers[key.writer].mode
        fitting = sum(t.mode == mode for t in self._targets)
        return len(answered) >= (1 if mode == "cp" else fitting) and fitting > 0

    def _close(self, key: Key, out: TextIO, counts: dict[str, int]) -> None:
        enough = self._all(key, key.definite)
        for seq in key.seqs:
            state = key.states.get(seq) or (LOST if enough else NEVER_READ)
            counts[state] += 1
            out.write(
                encode(
                    {
                        "type": "final",
                        "writer": key.writer,
                        "seq": seq,
                        "key": key.name,
                        "state": state,
                        "at": stamp(time.time()),
                    }
                )
            )

    async def _pace(self) -> None:
        now = time.monotonic()
        self._next = max(self._next + self._interval, now)
        if self._next > now:
            await asyncio.sleep(self._next - now)

"""The command `holdfast region replay`: writes what `region compare` found back through the edge, as any client would.

Before each write the key is read: only if it is still what compare saw there is the old value written. A key that holds
it already counts as done, so the command may be run again, and goes on after a kill. Between that read and the write
another client may write; nothing but a condition in the service could exclude that, and it has none.

One JSON object on standard output. Exit codes: ``Exit``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

from .errors import SettingsError
from .lost_writes import read_lines, read_summary
from .probe.answers import outcome, parse
from .probe.client import Client, NoAnswer, Refused, Url
from .probe.http1 import Answer
from .probe.options import Target, checked, make_access
from .region_compare import CONFLICT, SAFE, UNDONE, epoch_of

PARALLEL = 8
ATTEMPTS = 5
NAMED = 20
#: Longest wait that an answer's Retry-After is followed for.
LONGEST_WAIT_SEC = 60.0
_STALE = "a stale read"
_AGAIN = ("no_quorum", "unavailable", "rate_limited", "outcome_unknown", _STALE)


class Exit(IntEnum):
    OK = 0
    USAGE = 2
    INCOMPLETE = 3
    CHANGED = 4
    REFUSED = 6


class Stop(Exception):
    """It makes no sense to go on: every further line would end in the same way."""


class End(StrEnum):
    REPLAYED = "replayed"
    ALREADY = "already"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Present:
    """What a read showed. ``version`` '' and ``value`` None: there is no such key."""

    version: str
    value: str | None


def judge(line: dict[str, Any], present: Present, epoch: int) -> End | None:
    """What became of a lost write by what its key is now; None: it is still as compare saw it. ``epoch``: that from
    which on the serving region has written alone. Pure."""
    there, deleted = line["there"], line["kind"] == "tombstone"
    if present.value is None:
        if deleted:
            return End.ALREADY
        return None if there is None or there["kind"] == "tombstone" else End.CHANGED
    if there is not None and present.version == there["version"]:
        return None
    since = epoch_of(present.version) >= epoch
    return End.ALREADY if since and not deleted and present.value == line["value"] else End.CHANGED


def execute(arguments: Namespace) -> int:
    """Raises SettingsError."""
    path = Path(arguments.file)
    if not 0 < arguments.rate <= 10_000:
        raise SettingsError(f"--rate is {arguments.rate:g}: it must be above 0 and at most 10000 per second")
    if arguments.token_file is None:
        raise SettingsError("--token-file is missing: give a file that holds a token of the role write")
    summary = read_summary(path)
    refused = _why_not(summary, arguments)
    if refused:
        sys.stderr.write(f"holdfast region: {refused}; nothing was written\n")
        sys.stdout.write(json.dumps({"result": "refused", "why": refused}) + "\n")
        return int(Exit.REFUSED)
    given = (("cp", arguments.url_cp), ("ap", arguments.url_ap))
    targets = tuple(checked("edge", face, url, f"--url-{face}") for face, url in given if url)
    if not targets:
        raise SettingsError("--url-cp and --url-ap are missing: give the public names of the region that serves")
    return asyncio.run(Replay(path, summary, arguments, targets).run())


def _why_not(summary: dict[str, Any], arguments: Namespace) -> str:
    if not summary.get("complete"):
        return f"{arguments.file} is not complete ({summary.get('problem')}): compare again, --without what is gone"
    if arguments.of not in (None, summary.get("region")):
        return f"{arguments.file} is of region {summary.get('region')}, and --of says {arguments.of}"
    return ""


@dataclass(slots=True)
class _Told:
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys([str(e) for e in End], 0))
    keys: dict[str, list[str]] = field(default_factory=lambda: {End.CHANGED: [], End.FAILED: []})
    left: dict[str, int] = field(default_factory=lambda: {SAFE: 0, CONFLICT: 0, UNDONE: 0})
    why: str = ""

    def add(self, end: End, line: dict[str, Any], why: str = "") -> None:
        self.counts[end] += 1
        named = self.keys.get(end)
        if named is not None and len(named) < NAMED:
            named.append(line["key"])
        self.why = self.why or why


class Replay:
    def __init__(self, path: Path, summary: dict[str, Any], arguments: Namespace, targets: tuple[Target, ...]) -> None:
        self._path, self._epoch = path, int(summary["epoch"])
        self._parted = int(summary.get("parted_epoch") or self._epoch)  # files of older releases do not tell
        self._classes = frozenset(arguments.classes or [SAFE])
        self._keys, self._drills = frozenset(arguments.key), arguments.drills
        access = make_access(targets, arguments.ca_file, arguments.token_file, arguments.timeout, arguments.resolver)
        self._access, self._timeout, self._targets = access, arguments.timeout, targets
        self._interval, self._next = 1 / arguments.rate, 0.0
        self._clients: dict[str, Client] = {}
        self._told = _Told()

    async def run(self) -> int:
        access = self._access
        for target in self._targets:
            client = Client(Url.parse(target.url), access.token, access.tls, access.lookup())
            self._clients[target.mode] = client
            client.start()
        lines, stopped = self._chosen(), ""
        workers: list[asyncio.Task[None]] = []
        try:
            while not self._told.counts[End.REPLAYED] and (first := next(lines, None)) is not None:
                await self._work(iter([first]))  # one alone, as its answer shows whether this is the right service
            workers += [asyncio.create_task(self._work(lines)) for _ in range(PARALLEL)]
            await asyncio.gather(*workers)
        except Stop as why:
            stopped = str(why)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            for client in self._clients.values():
                client.close()
        return self._end(stopped)

    def _end(self, stopped: str) -> int:
        told = self._told
        failed, changed = told.counts[End.FAILED], told.counts[End.CHANGED]
        code = Exit.REFUSED if stopped else Exit.INCOMPLETE if failed else Exit.CHANGED if changed else Exit.OK
        if stopped:
            sys.stderr.write(f"holdfast region: {stopped}; stopped\n")
        elif failed:
            sys.stderr.write(f"holdfast region: {failed} could not be written ({told.why}); run this again\n")
        shown = {"result": code.name.lower(), **told.counts, "left": told.left}
        shown |= {f"{end}_keys": keys for end, keys in told.keys.items()} | ({"why": stopped} if stopped else {})
        sys.stdout.write(json.dumps(shown) + "\n")
        return int(code)

    def _chosen(self) -> Iterator[dict[str, Any]]:
        """Shared by all workers. No key stands in the file twice, so their order does not matter."""
        for line in read_lines(self._path):
            wanted = line["class"] in self._classes and (not self._keys or line["key"] in self._keys)
            if wanted and line["face"] in self._clients and (self._drills or not line.get("drill")):
                yield line
            else:
                self._told.left[line["class"]] += 1

    async def _work(self, lines: Iterator[dict[str, Any]]) -> None:
        for line in lines:
            try:
                self._told.add(await self._one(line), line)
            except (Refused, NoAnswer, _Failed) as why:
                self._told.add(End.FAILED, line, str(why))
            except UnicodeEncodeError:
                self._told.add(End.FAILED, line, "it is not UTF-8")

    async def _one(self, line: dict[str, Any]) -> End:
        await self._pace()
        present = await self._read(line)
        end = judge(line, present, self._parted)
        if end is not None:
            return end
        deleting = line["kind"] == "tombstone"
        client, key, value = self._clients[line["face"]], line["key"], line["value"]
        for attempt in range(ATTEMPTS):
            if deleting:
                answer = await client.delete(key, None, self._timeout)
            else:
                answer = await client.write(key, value, None, self._timeout)
            body = parse(answer.body)
            code = outcome(answer.status, body)
            if code == "ok":
                self._check_epoch(str(body.get("version") or ""))
                return End.REPLAYED
            await self._wait_or_fail(code, answer, attempt)
            if code == "outcome_unknown":  # it may have been done; by now somebody may have written after it
                end = judge(line, await self._read(line), self._parted)
                if end is not None:
                    return End.REPLAYED if end is End.ALREADY else end
        raise _Failed("no answer that counts")

    async def _read(self, line: dict[str, Any]) -> Present:
        for attempt in range(ATTEMPTS):
            answer = await self._clients[line["face"]].read(line["key"], None, self._timeout)
            body = parse(answer.body)
            code = outcome(answer.status, body)
            stale = bool(body.get("stale"))
            if code == "not_found" and not stale:
                return Present("", None)
            if code == "ok" and not stale:
                version = str(body["version"])
                self._check_epoch(version, reading=True)
                return Present(version, str(body["value"]))
            await self._wait_or_fail(_STALE if stale else code, answer, attempt)
        raise _Failed("no answer that counts")

    def _check_epoch(self, version: str, reading: bool = False) -> None:
        epoch = epoch_of(version)
        if epoch > self._epoch or (not reading and epoch != self._epoch):
            raise Stop(f"the service is at region epoch {epoch} and FILE was made at {self._epoch}: compare again")

    async def _wait_or_fail(self, code: str, answer: Answer, attempt: int) -> None:
        if code in ("unauthorized", "forbidden", "fenced"):
            raise Stop(f"the service answers {code}: give a token of the role write, and the region that serves")
        if code not in _AGAIN or attempt + 1 == ATTEMPTS:
            raise _Failed(code)
        after = answer.headers.get(b"retry-after", b"1")
        await asyncio.sleep(min(LONGEST_WAIT_SEC, float(after) if after.isdigit() else 1.0))

    async def _pace(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._next = max(self._next + self._interval, now)
        if self._next > now:
            await asyncio.sleep(self._next - now)


class _Failed(Exception):
    """This line could not be written back now."""

"""`holdfast backup beside`: keys of a moment in the past beside what the service answers for them now, for an operator.

Of the extracts of all nodes the largest version of each key counts. What differs goes into FILE, which `holdfast region
replay` writes back through the edge, like any client, and only where the key is still what was shown here. A key that
was deleted at that moment is shown and never written back by itself (class *undone*): to delete it, delete it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..hlc import Version
from ..lost_writes import LostFile
from ..probe.answers import outcome, parse
from ..probe.client import Client, NoAnswer, Url
from ..probe.client import Refused as NotSent
from ..probe.options import checked, make_access
from ..region_compare import SAFE, UNDONE
from . import moments
from .backup_compare import milliseconds
from .refusals import Code, Refused

#: Of a value so much is shown; FILE has all of it.
SHOWN = 60
ATTEMPTS, PAUSE_SEC = 5, 0.5
Say = Callable[..., None]


def execute(arguments: Namespace) -> int:
    """On the control machine, as a client: no settings, no nodes."""
    try:
        return int(_beside(arguments, _say))
    except Refused as why:
        _say("BACKUP_REFUSED", code=why.code.name.lower(), why=why.cause, cure=why.cure)
        return int(why.code)


def _say(name: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": name, **fields}) + "\n")
    sys.stdout.flush()


def _beside(arguments: Namespace, say: Say) -> int:
    rows, moment, face = gather(arguments.files)
    target = checked("edge", face, arguments.url, "--url")
    access = make_access((target,), arguments.ca_file, arguments.token_file, arguments.timeout, arguments.resolver)
    client = Client(Url.parse(arguments.url), access.token, access.tls, access.lookup())
    today = asyncio.run(_read_all(client, [r["key"] for r in rows], arguments.timeout))
    began, out, differ = moments.shown(time.time()), LostFile(arguments.out), 0
    try:
        for row, now in zip(rows, today, strict=True):
            deleted = row["kind"] == "tombstone"
            same = now.get("value") == row["value"]
            say("BACKUP_KEY", key=row["key"], at_the_moment=_shown(row, face), now=_shown(now, face), same=same)
            if not same:
                differ += not deleted
                there = {"version": now["version"], "kind": "value"} if now else None
                out.line({**row, "class": UNDONE if deleted else SAFE, "there": there, "nodes": []})
        summary = {"type": "summary", "complete": True, "region": arguments.region, "epoch": arguments.epoch}
        out.end(summary | {"moment": moment, "read": began, "lines": out.lines})
    except BaseException:
        out.abandon()
        raise
    say("BACKUP_BESIDE", face=face, moment=moment, keys=len(rows), differ=differ)
    return Code.OK


def gather(files: list[Path]) -> tuple[list[dict[str, Any]], str, str]:
    """(rows by key, the moment, the face) of extracts, which must be whole and of one moment. Raises Refused."""
    found: dict[str, dict[str, Any]] = {}
    said: set[tuple[str, str]] = set()
    for path in files:
        try:
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        except OSError as problem:
            raise Refused(f"{path}: {problem.strerror}", "give what `holdfast backup extract` wrote") from None
        except ValueError:
            lines = []
        rows, last = lines[:-1], lines[-1] if lines else {}
        if last.get("event") != "BACKUP_EXTRACTED" or last.get("keys") != len(rows):
            raise Refused(f"{path} is no whole extract", "give what `holdfast backup extract` wrote, and all of it")
        said.add((last["moment"], last["face"]))
        for row in rows:
            held = found.get(row["key"])
            if held is None or _order(row) > _order(held):
                found[row["key"]] = row
    if len(said) != 1:
        raise Refused("the extracts are of several moments or faces", "extract the same of each node")
    ((moment, face),) = said
    return [found[key] for key in sorted(found)], moment, face


def _order(row: dict[str, Any]) -> Any:
    return row["version"] if row["face"] == "cp" else Version.parse(row["version"]).order()


def _shown(row: dict[str, Any], face: str) -> dict[str, Any] | None:
    """None: there is no such key."""
    if not row:
        return None
    value = row["value"]
    written = moments.shown(milliseconds(f"{face}:".encode(), row["version"]) / 1000)
    if value is None:
        return {"deleted": True, "written": written}
    return {"value": value if len(value) <= SHOWN else f"{value[:SHOWN]}... ({len(value)})", "written": written}


async def _read_all(client: Client, keys: list[str], timeout: float) -> list[dict[str, Any]]:
    client.start()
    try:
        return [await _read(client, key, timeout) for key in keys]
    finally:
        client.close()


async def _read(client: Client, key: str, timeout: float) -> dict[str, Any]:
    """Empty: there is no such key. Raises Refused."""
    why = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_SEC)
        try:
            answer = await client.read(key, None, timeout)
        except UnicodeEncodeError:
            raise Refused("a key is not UTF-8", "no client can read or write it: leave it out") from None
        except (NotSent, NoAnswer) as problem:
            why = str(problem)
            continue
        body = parse(answer.body)
        why = outcome(answer.status, body)
        if why == "not_found":
            return {}
        if why == "ok":
            return {"version": str(body["version"]), "value": str(body["value"])}
        if why in ("unauthorized", "forbidden"):
            raise SettingsError(f"--token-file: the service answers {why}; give a token that may read")
    raise Refused(f"the service does not tell what the keys are now ({why})", "see that it serves, and run this again")

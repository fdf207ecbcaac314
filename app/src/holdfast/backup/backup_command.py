"""`holdfast backup ...`. Lines on standard output are JSON. Exit codes: ``refusals.Code``."""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from .. import logs, settings
from ..errors import SettingsError
from . import (
    backup_looks,
    backup_plan,
    backup_prune,
    backup_restore,
    backup_sets,
    backup_verify,
    census,
    moments,
)
from .aof_hold import Hold, Watch
from .backup_collect import Collect, alone
from .backup_plan import Plan
from .node_facts import NodeFacts, NodeTalk
from .refusals import Code, Damaged, Refused

#: The watch looks at least so often, in case the kernel's notice was lost.
WATCH_SEC = 1.0


def execute(arguments: argparse.Namespace) -> int:
    logs.configure("WARNING", {"mode": "backup"}, sys.stderr)
    try:
        return int(_ACTIONS[arguments.action](arguments))
    except Refused as refusal:
        why = refusal
    except OSError as problem:
        why = _refusal(problem)
    _say("BACKUP_REFUSED", code=why.code.name.lower(), why=why.cause, cure=why.cure)
    return int(why.code)


def _refusal(problem: OSError) -> Refused:
    where = f"{problem.filename}: " if problem.filename is not None else ""
    cure = (
        "make room on its file system" if problem.errno in (errno.ENOSPC, errno.EDQUOT) else "look at it, and the disk"
    )
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cure = "run this as root or as the owner of the data and the store, on a file system that can be written"
    return Refused(f"{where}{problem.strerror or problem}", cure)


def _tell(why: Damaged) -> None:
    _say("BACKUP_DAMAGED", path=why.path, why=why.cause, cure=why.cure)


def _watch(arguments: argparse.Namespace) -> int:
    hold = Hold(arguments.data, arguments.store)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stopped.append(number))
    with (hold.held / "watch.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"{arguments.store} is watched already", "stop the other watch first") from None
        watch = Watch(hold)  # before the first look: what appears in between wakes it
        _say("BACKUP_WATCHING", data=str(arguments.data))
        trouble = ""
        while not stopped:
            try:
                if hold.take().began:
                    _say("BACKUP_LINE_BEGAN", line=hold.lines()[-1])
                gone = hold.spare_the_node()
                if gone:
                    _say("BACKUP_LET_GO", files=gone, why="the disk is nearly full: history has a hole")
                watch.wait(WATCH_SEC)
                trouble = ""
            except (Refused, OSError) as problem:  # the directory may be away for a while: a node is emptied and healed
                why = problem if isinstance(problem, Refused) else _refusal(problem)
                if why.cause != trouble:
                    _say("BACKUP_WATCH_TROUBLE", why=why.cause, cure=why.cure)
                trouble = why.cause
                time.sleep(WATCH_SEC / 10)
    return Code.OK


def _collect(arguments: argparse.Namespace) -> int:
    loaded = settings.load_bootstrap(os.environ)
    if arguments.node not in loaded.nodes:
        raise SettingsError(f"backup: {arguments.node} is not in NODES: use one of {', '.join(loaded.nodes)}")
    began = time.monotonic()
    watched = _is_watched(arguments.store)
    with NodeTalk(loaded, arguments.node) as talk:

        def look() -> NodeFacts:
            found = talk.facts()
            found.refuse_other(arguments.node, arguments.data)
            found.facts["watched"] = watched
            return found

        def count() -> dict[str, Any]:
            taken = census.take(talk, arguments.store, moments.stamp(time.time()))
            return {"census": asdict(taken)}

        collect = Collect(arguments.data, arguments.store, arguments.node, look)
        made, path = collect.run(count if arguments.census else dict, _tell)
    for where, why, cure in made.facts["damaged"]:
        _say("BACKUP_DAMAGED", path=where, why=why, cure=cure)
    _say(
        "BACKUP_COLLECTED",
        node=made.node,
        set=path.name,
        line=made.listing[0],
        moment=moments.shown(made.moment),
        keys=made.facts["keys"],
        commands=made.facts["commands"],
        bytes=sum(p.bytes for p in made.pieces),
        damaged=len(made.facts["damaged"]),
        watched=watched,
        seconds=round(time.monotonic() - began, 3),
    )
    if made.facts["new_line"]:
        _say(
            "BACKUP_LINE_BEGAN",
            line=made.listing[0],
            why="the directory shares no file with what was held, or a note of the watch was torn",
        )
    if not watched:
        _say(
            "BACKUP_NOT_WATCHED",
            cure="run `holdfast backup watch` all the time: a rewrite between two may lose history",
        )
    if made.doubt:
        span = [moments.shown(s) for s in made.doubt]
        _say("BACKUP_DOUBT", between=span, cure="set aof-timestamp-enabled yes, and look at the host's clock (chronyc)")
    return Code.OK


def _is_watched(store: Path) -> bool:
    path = store / "held" / "watch.lock"
    if not path.exists():
        return False
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _list(arguments: argparse.Namespace) -> int:
    sets = backup_sets.load(arguments.store, _tell, brief=True)
    for path, made in backup_sets.load_named(arguments.store, lambda _: None, brief=True):
        _say(
            "BACKUP_SET",
            set=path.name,
            moment=moments.shown(made.moment),
            keys=made.facts["keys"],
            node=made.node,
        )
    for first, last in backup_plan.spans(sets):
        _say("BACKUP_SPAN", first=moments.shown(first), last=moments.shown(last), seconds=last - first)
    return Code.OK


def _check(arguments: argparse.Namespace) -> int:
    files = read = wrong = 0

    def tell(why: Damaged) -> None:
        nonlocal wrong
        wrong += 1
        _tell(why)

    for made in backup_sets.load(arguments.store, tell, brief=True):
        wanted = [(b.path, b.bytes, b.sha256) for b in made.bases] + [(p.path, p.bytes, p.sha256) for p in made.pieces]
        found = census.Census.of(made)
        wanted += [(found.path, found.bytes, found.sha256)] if found else []
        for name, size, sha256 in wanted:
            files += 1
            try:
                read += sum(len(b) for b in backup_sets.check(arguments.store / "files" / name, size, sha256))
            except Damaged as why:
                tell(why)
    _say("BACKUP_CHECKED", files=files, bytes=read, damaged=wrong)
    return Code.DAMAGED if wrong else Code.OK


def _planned(arguments: argparse.Namespace) -> Plan:
    sets = backup_sets.load(arguments.store, _tell, brief=True)
    return _choose(arguments, sets, _moment(arguments.to, sets))


def _choose(
    arguments: argparse.Namespace, sets: list[backup_sets.Set], to: int | None, without: frozenset[str] = frozenset()
) -> Plan:
    return backup_plan.choose(sets, to, without, backup_sets.all_marks(arguments.store))


def _moment(text: str, sets: list[backup_sets.Set]) -> int | None:
    """None: the newest."""
    to = None if text == "newest" else moments.parse(text)
    if to is not None and to > time.time():
        raise Refused(f"{text} is in the future", f"choose a moment in {backup_plan.windows(sets)}, or newest")
    return to


def _plan(arguments: argparse.Namespace) -> int:
    _show("BACKUP_PLAN", _planned(arguments))
    return Code.OK


def _restore(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    sets = backup_sets.load(arguments.store, _tell, brief=True)
    without: frozenset[str] = frozenset()
    while True:
        plan = _choose(arguments, sets, _moment(arguments.to, sets), without)
        try:
            backup_restore.restore(arguments.store, plan, arguments.into, secrets.token_hex(16))
            break
        except Damaged as why:
            # An older base and all that followed it give the same state, only slower.
            if plan.base is None or why.path != str(arguments.store / "files" / plan.base.path):
                raise
            without |= {plan.base.path}
            try:
                _choose(arguments, sets, _moment(arguments.to, sets), without)
            except Refused:
                raise why from None
            _say(
                "BACKUP_DAMAGED",
                path=why.path,
                why=why.cause,
                cure="an older base is used instead; bring this file back all the same",
            )
    _show("BACKUP_RESTORED", plan, into=str(arguments.into), seconds=round(time.monotonic() - began, 3))
    return Code.OK


def _verify(arguments: argparse.Namespace) -> int:
    sets, told = backup_sets.load(arguments.store, _tell, brief=True), backup_restore.plan_of(arguments.directory)
    moment = _moment(arguments.to, sets)
    if moment is None and told.get("newest") is True:
        # What was the newest when it was restored; backups may have come since.
        sets = [made for made in sets if made.moment <= told["moment"]] or sets
    plan = _choose(arguments, sets, moment)
    if not (arguments.directory / "appendonlydir").is_dir():
        raise Refused(f"{arguments.directory} was not restored", "run `holdfast backup restore` first")
    if not plan.made(told):
        raise Refused(
            f"{arguments.directory} holds another restore than that to {moments.shown(plan.moment)}",
            f"give the moment that it was restored to ({backup_restore.TOLD} in it says which)",
        )
    verdict = backup_verify.verify(arguments.store, sets, plan, arguments.directory)
    _say("BACKUP_VERIFIED" if not verdict.wrong_count else "BACKUP_DIFFERS", **asdict(verdict))
    return Code.DIFFERS if verdict.wrong_count else Code.OK


def _mark(arguments: argparse.Namespace) -> int:
    path = backup_restore.mark(arguments.directory, secrets.token_hex(16), "put back as it was before")
    _say("BACKUP_MARKED", file=str(path))
    return Code.OK


def _prune(arguments: argparse.Namespace) -> int:
    if not (arguments.store / "sets").is_dir():
        raise Refused(f"there is no backup in {arguments.store}", "name the directory that holds sets/ and files/")
    with alone(arguments.store):
        gone, files = backup_prune.prune(arguments.store, time.time() - arguments.keep_hours * 3600, _tell)
    _say("BACKUP_PRUNED", sets=gone, files=files)
    return Code.OK


def _show(name: str, plan: Plan, **more: Any) -> None:
    _say(
        name,
        moment=moments.shown(plan.moment),
        line=plan.line,
        base=plan.base.name if plan.base else None,
        files=[{"incr": p.incr, "bytes": p.take} for p in plan.parts],
        bytes=plan.bytes,
        **more,
    )


def _say(name: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": name, **fields}) + "\n")
    sys.stdout.flush()


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "watch": _watch,
    "collect": _collect,
    "prune": _prune,
    "list": _list,
    "check": _check,
    "plan": _plan,
    "restore": _restore,
    "verify": _verify,
    "mark": _mark,
    **{action: partial(backup_looks.execute, _say) for action in backup_looks.ACTIONS},
}

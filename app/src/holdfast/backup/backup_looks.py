"""The actions of `holdfast backup` that look into a restored directory and change nothing: compare, extract."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable

from .. import settings
from ..errors import SettingsError
from . import backup_compare, backup_extract, backup_restore
from .node_facts import NodeTalk
from .refusals import Code
from .scratch_node import AttachedNode, ScratchNode

Say = Callable[..., None]


def execute(say: Say, arguments: Namespace) -> int:
    return ACTIONS[arguments.action](say, arguments)


def _private(arguments: Namespace) -> AttachedNode | ScratchNode:
    if arguments.socket is not None:
        return AttachedNode(arguments.socket)
    backup_restore.plan_of(arguments.directory)
    return ScratchNode(arguments.directory)


def _compare(say: Say, arguments: Namespace) -> int:
    loaded, node = settings.load_bootstrap(os.environ), arguments.node
    if node not in loaded.nodes:
        raise SettingsError(f"backup: {node} is not in NODES: use one of {', '.join(loaded.nodes)}")
    began = time.monotonic()
    with _private(arguments) as then, NodeTalk(loaded, node) as now:
        moment = backup_extract.restored_to(then, node)
        found = backup_compare.compare(then, now).told()
    say("BACKUP_COMPARED", node=node, moment=moment, **found, seconds=round(time.monotonic() - began, 3))
    return Code.OK


def _extract(say: Say, arguments: Namespace) -> int:
    wanted = backup_extract.Wanted(arguments.face, arguments.key, arguments.prefix, arguments.max_keys)
    with _private(arguments) as then:
        moment, rows = backup_extract.restored_to(then), backup_extract.extract(then, wanted)
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    say("BACKUP_EXTRACTED", face=wanted.face, moment=moment, keys=len(rows))
    return Code.OK


ACTIONS: dict[str, Callable[[Say, Namespace], int]] = {"compare": _compare, "extract": _extract}

"""The arguments of `holdfast backup`. Light: every command of `holdfast` imports this."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  holdfast backup watch   --data /srv/holdfast/redis/db_g1 --store /srv/holdfast/backup/db_g1
  holdfast backup collect db_g1 --data /srv/holdfast/redis/db_g1 --store /srv/holdfast/backup/db_g1
  holdfast backup plan    --store /srv/holdfast/backup/db_g1 --to 2026-05-01T10:14:59Z
  holdfast backup restore --store /srv/holdfast/backup/db_g1 --to 2026-05-01T10:14:59Z --into /srv/restored/db_g1
  holdfast backup verify  --store /srv/holdfast/backup/db_g1 --to 2026-05-01T10:14:59Z --directory /srv/restored/db_g1
exit codes: 0 done, 2 wrong usage or settings, 3 the node does not answer, 4 refused (nothing was changed), 5 a file is
damaged, 6 a restored key is not what it was
"""


def add_arguments(backup: argparse.ArgumentParser) -> None:
    backup.epilog, backup.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    commands = backup.add_subparsers(dest="action", required=True)
    watch = commands.add_parser("watch", help="runs all the time: hold each file of a node from its birth")
    _on_the_host(watch)
    collect = commands.add_parser("collect", help="back a running node up, every few minutes; changes nothing on it")
    collect.add_argument("node", metavar="NODE", help="its name in NODES")
    _on_the_host(collect)
    collect.add_argument("--census", action="store_true", help="also note every key's version and checksum, daily")
    prune = commands.add_parser("prune", help="forget what only moments of long ago need")
    _in_the_store(prune)
    prune.add_argument("--keep-hours", type=_hours, required=True, help="moments this far back can still be restored")
    _in_the_store(commands.add_parser("list", help="the backups, and what can be restored"))
    _in_the_store(commands.add_parser("check", help="read every file and compare its checksum"))
    plan = commands.add_parser("plan", help="say what a restore would use; changes nothing")
    restore = commands.add_parser("restore", help="make a data directory of the state at one moment")
    verify = commands.add_parser("verify", help="start a private Redis on a restored directory; compare every key")
    for command in (plan, restore, verify):
        _in_the_store(command)
        command.add_argument("--to", required=True, metavar="MOMENT", help="as 2026-05-01T10:14:59Z, or newest")
    compare = commands.add_parser("compare", help="what a restored directory would change on the running node")
    compare.add_argument("node", metavar="NODE", help="its name in NODES")
    extract = commands.add_parser("extract", help="keys and their values out of a restored directory")
    which = extract.add_mutually_exclusive_group(required=True)
    which.add_argument("--key", help="this one")
    which.add_argument("--prefix", help="all that begin so")
    extract.add_argument("--face", choices=("cp", "ap"), required=True)
    extract.add_argument("--max-keys", type=int, default=100, metavar="N", help="refuse more (100)")
    for command in (compare, extract):
        place = command.add_mutually_exclusive_group(required=True)
        place.add_argument("--directory", type=Path, metavar="DIR", help="what was restored; starts a private Redis")
        place.add_argument("--socket", type=Path, metavar="PATH", help="of a private Redis that runs on it already")
    _beside(commands.add_parser("beside", help="what extracts hold, beside what the service answers now"))
    restore.add_argument("--into", type=Path, required=True, metavar="DIR", help="must not exist, or be empty")
    mark = commands.add_parser("mark", help="a data directory that comes back: its node will not vote before a repair")
    mark.add_argument("--directory", type=Path, required=True, metavar="DIR", help="no node may run on it")
    verify.add_argument("--directory", type=Path, required=True, metavar="DIR", help="what was restored")


def _beside(beside: argparse.ArgumentParser) -> None:
    beside.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what extract wrote, one for each node")
    beside.add_argument(
        "--out", required=True, metavar="FILE", help="for `holdfast region replay`; - is standard output"
    )
    beside.add_argument("--epoch", type=int, required=True, metavar="N", help="the region epoch of the service")
    beside.add_argument("--region", required=True, help="its region")
    beside.add_argument("--url", required=True, help="of the face that the extracts are of")
    beside.add_argument("--ca-file", type=Path, help="the authority of an https:// URL")
    beside.add_argument("--token-file", type=Path, help="holds a token that may read")
    beside.add_argument(
        "--resolver", metavar="ADDRESS[:PORT]", action="append", default=[], help="ask this name server"
    )
    beside.add_argument("--timeout", type=float, default=5.0, help="seconds a request may take (5)")


def _on_the_host(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the node's data directory")
    command.add_argument("--store", type=Path, required=True, metavar="DIR", help="on the same file system")


def _in_the_store(command: argparse.ArgumentParser) -> None:
    command.add_argument("--store", type=Path, required=True, metavar="DIR", help="the backups of one node")


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value < 100_000:
        raise ValueError
    return value

"""The command `holdfast`. Exit codes: 0 fine, 2 wrong settings or usage, others as each command says."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable

from . import __version__, breaker_command, settings
from .auth import hash_token
from .backup import backup_arguments as backup
from .errors import SettingsError
from .evidence import evidence_arguments as evidence
from .probe import arguments as probe
from .region_arguments import add_arguments as region_arguments

MIN_TOKEN = 16


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="holdfast", description="Key-value service with a CP and an AP face.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve HTTP; APP_MODE=cp|ap")
    commands.add_parser("replicate", help="move AP writes from the other zones to this zone's node")
    bootstrap = commands.add_parser("bootstrap", help="give blank nodes their guard, once")
    bootstrap.add_argument("--check", action="store_true", help="say what would be done, change nothing")
    repair = commands.add_parser("repair", help="heal nodes that lost data from the others and let them vote again")
    repair.add_argument("nodes", nargs="*", metavar="NODE", help="these nodes")
    repair.add_argument("--all", action="store_true", help="every node that does not vote")
    repair.add_argument("--suspect", action="store_true", help="also heal a NODE that votes: its data may be cut")
    repair.add_argument("--confirm", metavar="REGION", help="no majority is left: the largest version of all nodes")
    repair.add_argument("--check", action="store_true", help="say what would be done, change nothing")
    parked = commands.add_parser("parked", help="entries whose version is too far in the future")
    actions = parked.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="show them, on every node")
    restamp = actions.add_parser("restamp", help="write those of NODE anew, once its clock is right")
    restamp.add_argument("node", metavar="NODE", help="the node that minted them")
    restamp.add_argument("--confirm", metavar="NODE", help="do it; without, only say what would be done")
    region_arguments(commands.add_parser("region", help="the other region: show, fence, promote, compare and more"))
    commands.add_parser("hash-token", help="read a token on stdin, print what api_tokens holds for it")
    breaker_command.add_arguments(commands.add_parser("breaker", help="force a breaker of a running instance"))
    probe.add_arguments(commands.add_parser("probe", help="measure: the client of drills, tests and benchmarks"))
    backup.add_arguments(commands.add_parser("backup", help="back nodes up, restore them to a moment, verify that"))
    evidence.add_arguments(commands.add_parser("evidence", help="judge a drill by its probe; page, index, metrics"))
    arguments = parser.parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except SettingsError as problem:
        print(f"holdfast: {problem}", file=sys.stderr)
        return 2


def _serve(_arguments: argparse.Namespace) -> int:
    loaded = settings.load(os.environ)
    refused = _check_nodes(loaded)
    if refused:
        return refused
    from .server import run  # late: the server is heavy and the other commands do not need it

    run(loaded)
    return 0


def _replicate(_arguments: argparse.Namespace) -> int:
    loaded = settings.load(os.environ)
    if loaded.mode != "ap":
        raise SettingsError("APP_MODE is 'cp': `holdfast replicate` moves AP writes, set it to ap")
    refused = _check_nodes(loaded)
    if refused:
        return refused
    from .replicate_server import run

    return run(loaded)


def _check_nodes(loaded: settings.Settings) -> int:
    """0, or the exit code of a start that was refused. In a process of its own: nothing that talks to nodes may be
    imported, and no thread have run, before the server forks and its workers set themselves up."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        from . import logs
        from .start_check import check_nodes

        logs.configure(loaded.log_level, {"mode": loaded.mode, "zone": loaded.zone})
        check_nodes(loaded)
        code = 0
    except SettingsError as problem:
        print(f"holdfast: {problem}", file=sys.stderr)
        code = 2
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _bootstrap(arguments: argparse.Namespace) -> int:
    """Exit codes: 3 a node is unreachable, 4 data without a guard, 5 NODES and the servers do not fit together,
    6 the other region serves or did."""
    loaded = settings.load_bootstrap(os.environ)
    from .bootstrap import Bootstrap

    report = Bootstrap(loaded).run(check=arguments.check)
    print(json.dumps(report.as_json()))
    for message in report.messages:
        print(f"holdfast bootstrap: {message}", file=sys.stderr)
    return report.exit_code


def _repair(arguments: argparse.Namespace) -> int:
    """Exit codes: 2 usage, others in repair_plan.Code and the README."""
    loaded = settings.load_bootstrap(os.environ)
    unknown = [n for n in arguments.nodes if n not in loaded.nodes]
    if unknown or bool(arguments.nodes) == arguments.all or (arguments.suspect and arguments.all):
        raise SettingsError(
            f"repair: {', '.join(unknown)} not in NODES"
            if unknown
            else "repair: give NODE names, or --all (which takes no --suspect)"
        )
    from .repair_command import RepairCommand

    hide: Callable[[str], str] = str
    if settings.load_pseudonymise(os.environ):
        from .audit import Audit

        hide = Audit(*settings.load_audit(os.environ)).hide
    return RepairCommand(loaded, hide).run(arguments.nodes, arguments.suspect, arguments.confirm, arguments.check)


def _parked(arguments: argparse.Namespace) -> int:
    """Exit codes: parked_command.Code."""
    loaded = settings.load_bootstrap(os.environ)
    if arguments.action == "restamp" and arguments.node not in loaded.nodes:
        raise SettingsError(f"parked: {arguments.node} is not in NODES: use one of {', '.join(loaded.nodes)}")
    from . import logs
    from .audit import Audit
    from .parked_command import ParkedCommand

    logs.configure("WARNING", {"mode": "parked"})
    command = ParkedCommand(loaded, Audit(*settings.load_audit(os.environ)))
    return command.show() if arguments.action == "list" else command.restamp(arguments.node, arguments.confirm)


def _region(arguments: argparse.Namespace) -> int:
    """Exit codes: Exit of region_command, region_compare_command, region_replay."""
    if arguments.action == "replay":  # on the control machine, as a client: no settings, no nodes
        from .region_replay import execute

        return execute(arguments)
    loaded = settings.load_bootstrap(os.environ)
    from . import logs
    from .audit import Audit
    from .region_command import RegionCommand

    logs.configure("WARNING", {"mode": "region"}, sys.stderr)
    audit = Audit(*settings.load_audit(os.environ))
    if arguments.action == "compare":
        from .region_compare_command import CompareCommand

        return CompareCommand(loaded, audit).run(arguments)
    return RegionCommand(loaded, audit, settings.load_listen(os.environ).port).run(arguments)


def _hash_token(_arguments: argparse.Namespace) -> int:
    token = sys.stdin.read().strip()
    if len(token) < MIN_TOKEN:
        print(
            f"holdfast: the token on stdin has fewer than {MIN_TOKEN} characters: make one with openssl rand -hex 32",
            file=sys.stderr,
        )
        return 2
    print(hash_token(token))
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    """Exit code 3: `verify` could not read some writes back."""
    from .probe.command import execute

    return execute(arguments)


def _evidence(arguments: argparse.Namespace) -> int:
    """Exit codes of `report`: 3 failed, 4 not measured."""
    from .evidence.evidence_command import execute

    return execute(arguments)


def _backup(arguments: argparse.Namespace) -> int:
    """Exit codes: Code in backup/refusals.py."""
    if arguments.action == "beside":
        from .backup.backup_beside import execute as beside

        return beside(arguments)
    from .backup.backup_command import execute

    return execute(arguments)


def _breaker(arguments: argparse.Namespace) -> int:
    """Exit code 3: the instance refused, or did not answer."""
    return breaker_command.execute(arguments)


_COMMANDS = {
    "serve": _serve,
    "replicate": _replicate,
    "bootstrap": _bootstrap,
    "repair": _repair,
    "parked": _parked,
    "region": _region,
    "hash-token": _hash_token,
    "backup": _backup,
    "breaker": _breaker,
    "evidence": _evidence,
    "probe": _probe,
}

if __name__ == "__main__":
    sys.exit(main())

"""The command `holdfast`. Exit codes: 0 fine, 2 wrong settings or usage, others as each command says."""

from __future__ import annotations

import argparse
import json
import os
import sys

from . import __version__, settings
from .auth import hash_token
from .errors import SettingsError

MIN_TOKEN = 16


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="holdfast", description="Key-value service with a CP and an AP face.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve HTTP; APP_MODE=cp|ap")
    commands.add_parser("replicate", help="move AP writes from the other zones to this zone's node")
    bootstrap = commands.add_parser("bootstrap", help="give blank nodes their guard, once")
    bootstrap.add_argument("--check", action="store_true", help="say what would be done, change nothing")
    commands.add_parser("hash-token", help="read a token on stdin, print what api_tokens holds for it")
    commands.add_parser("probe", help="the measuring client (not available yet)")
    arguments = parser.parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except SettingsError as problem:
        print(f"holdfast: {problem}", file=sys.stderr)
        return 2


def _serve(_arguments: argparse.Namespace) -> int:
    loaded = settings.load(os.environ)
    from .server import run  # late: the server is heavy and the other commands do not need it

    run(loaded)
    return 0


def _replicate(_arguments: argparse.Namespace) -> int:
    loaded = settings.load(os.environ)
    if loaded.mode != "ap":
        raise SettingsError("APP_MODE is 'cp': `holdfast replicate` moves AP writes, set it to ap")
    from .replicate_server import run

    return run(loaded)


def _bootstrap(arguments: argparse.Namespace) -> int:
    """Exit codes: 3 a node is unreachable, 4 data without a guard, 5 NODES and the servers do not fit together."""
    loaded = settings.load_bootstrap(os.environ)
    from .bootstrap import Bootstrap

    report = Bootstrap(loaded).run(check=arguments.check)
    print(json.dumps(report.as_json()))
    for message in report.messages:
        print(f"holdfast bootstrap: {message}", file=sys.stderr)
    return report.exit_code


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


def _probe(_arguments: argparse.Namespace) -> int:
    print("holdfast: `probe` is not available yet", file=sys.stderr)
    return 2


_COMMANDS = {
    "serve": _serve,
    "replicate": _replicate,
    "bootstrap": _bootstrap,
    "hash-token": _hash_token,
    "probe": _probe,
}

if __name__ == "__main__":
    sys.exit(main())

"""`holdfast breaker`: forces a breaker of one instance, for people on call. One request, no retries."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from .errors import SettingsError

TIMEOUT_SEC = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--open", dest="state", action="store_const", const="OPEN", help="send it nothing")
    how.add_argument("--close", dest="state", action="store_const", const="CLOSED", help="call it although it fails")
    how.add_argument("--auto", dest="state", action="store_const", const="AUTO", help="end what was forced")
    parser.add_argument("--seconds", type=int, default=300, help="1 to 3600, then it ends by itself (300)")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the instance (http://127.0.0.1:8000)")
    parser.add_argument("--token-file", required=True, help="holds a token of the role admin")


def execute(arguments: argparse.Namespace) -> int:
    """Prints the breaker as it is now. Exit codes: 0 done, 2 usage, 3 refused or no answer."""
    url = urllib.parse.urlsplit(arguments.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError(f"--url is {arguments.url!r}: write http://host:port")
    try:
        token = Path(arguments.token_file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsError(f"--token-file {arguments.token_file} cannot be read ({type(problem).__name__})") from None
    body: dict[str, object] = {"state": arguments.state}
    if arguments.state != "AUTO":
        body["seconds"] = arguments.seconds
    request = urllib.request.Request(  # noqa: S310  the scheme was checked
        f"{arguments.url.rstrip('/')}/circuit-breaker/{urllib.parse.quote(arguments.node, safe='')}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SEC) as answer:  # noqa: S310
            print(answer.read().decode())
            return 0
    except urllib.error.HTTPError as refusal:
        print(f"holdfast breaker: refused: {refusal.read(4096).decode('utf-8', 'replace').strip()}", file=sys.stderr)
    except OSError as problem:
        print(f"holdfast breaker: {arguments.url} does not answer ({problem})", file=sys.stderr)
    return 3

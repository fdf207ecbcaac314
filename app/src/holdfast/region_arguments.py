"""The arguments of `holdfast region`; apart from the command, as the parser is built by every command."""

from __future__ import annotations

from argparse import ArgumentParser


def add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    status = actions.add_parser("status", help="what each node of both regions says of itself")
    status.add_argument("--json", action="store_true", help="as JSON, which is what it always is")
    fence = actions.add_parser("fence", help="this region must not serve from now on")
    fence.add_argument("--reason", required=True, help="for the audit log and the guards")
    unfence = actions.add_parser("unfence", help="a planned switch was given up before the other region was promoted")
    promote = actions.add_parser("promote", help="this region's nodes are primaries now: let it serve")
    promote.add_argument("--reason", default="promoted by hand", help="for the audit log and the guards")
    settle = actions.add_parser("settle", help="end what follows a promotion now, and not in the background")
    for action in (promote, settle):
        action.add_argument("--without", metavar="NODE", action="append", default=[], help="it is gone for good")
    confirm = actions.add_parser(
        "confirm", help="nodes were started and nobody is there to say that this region still serves"
    )
    for action in (fence, unfence, promote, confirm):
        action.add_argument("--epoch", type=_epoch, required=True, metavar="N", help="the region epoch")
    for action in (unfence, confirm):
        action.add_argument(
            "--confirm", metavar="REGION", help="its name, typed by somebody who knows that no other serves"
        )


def _epoch(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) < 1 << 31:
        raise ValueError
    return int(text)

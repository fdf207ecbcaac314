"""The arguments of `holdfast region`; apart from the command, as the parser is built by every command."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path

from .backup import moments
from .backup.refusals import Refused


def add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    status = actions.add_parser("status", help="what each node of both regions says of itself")
    status.add_argument("--json", action="store_true", help="as JSON, which is what it always is")
    fence = actions.add_parser("fence", help="this region must not serve from now on")
    fence.add_argument("--reason", required=True, help="for the audit log and the guards")
    fence.add_argument(
        "--copies",
        type=_seconds,
        default=0.0,
        metavar="SEC",
        help="wait so long for the copies in the other region to show it",
    )
    unfence = actions.add_parser("unfence", help="a planned switch was given up before the other region was promoted")
    promote = actions.add_parser("promote", help="this region's nodes are primaries now: let it serve")
    promote.add_argument("--reason", default="promoted by hand", help="for the audit log and the guards")
    adopt = actions.add_parser("adopt", help="all its nodes were put back to one moment: let this region serve again")
    adopt.add_argument("--reason", default="adopted by hand", help="for the audit log and the guards")
    put_back = adopt.add_mutually_exclusive_group(required=True)
    put_back.add_argument(
        "--to", type=_moment, metavar="MOMENT", help="to which `holdfast backup restore` brought all of them"
    )
    put_back.add_argument(
        "--fenced-at", type=_epoch, metavar="N", help="the inverse: they have the data of before again"
    )
    settle = actions.add_parser("settle", help="end what follows a promotion now, and not in the background")
    for action in (promote, adopt, settle):
        action.add_argument("--without", metavar="NODE", action="append", default=[], help="it is gone for good")
    confirm = actions.add_parser(
        "confirm", help="nodes were started and nobody is there to say that this region still serves"
    )
    for action in (fence, unfence, promote, adopt, confirm):
        action.add_argument("--epoch", type=_epoch, required=True, metavar="N", help="the region epoch")
    for action in (unfence, adopt, confirm):
        action.add_argument(
            "--confirm", metavar="REGION", help="its name, typed by somebody who knows that no other serves"
        )
    _add_compare(actions.add_parser("compare", help="this region is back: what did the one that serves never get?"))
    _add_replay(actions.add_parser("replay", help="write back, as a client, what compare found"))


def _add_compare(compare: ArgumentParser) -> None:
    compare.add_argument("--out", metavar="FILE", required=True, help="a JSON line for each; - is standard output")
    compare.add_argument("--json", action="store_true", help="the summary as JSON, which is what it always is")
    compare.add_argument("--without", metavar="NODE", action="append", default=[], help="an old node gone for good")
    compare.add_argument("--without-peer", metavar="NODE", action="append", default=[], help="a serving one")


def _add_replay(replay: ArgumentParser) -> None:
    replay.add_argument("file", metavar="FILE", help="what compare wrote")
    replay.add_argument("--of", metavar="REGION", help="refuse a FILE that is not of this region: the old one")
    replay.add_argument("--url-cp", metavar="URL", help="the CP face of the region that serves; none: no CP writes")
    replay.add_argument("--url-ap", metavar="URL", help="the same for AP")
    replay.add_argument("--ca-file", type=Path, help="the authority of https:// URLs")
    replay.add_argument("--token-file", type=Path, help="holds a token of the role write, without a rate limit at best")
    replay.add_argument(
        "--resolver", metavar="ADDRESS[:PORT]", action="append", default=[], help="ask this name server"
    )
    replay.add_argument(
        "--class",
        dest="classes",
        action="append",
        choices=("safe", "conflict", "undone"),
        default=[],
        help="which (safe)",
    )
    replay.add_argument("--key", action="append", default=[], help="only this one; may be given several times")
    replay.add_argument("--drills", action="store_true", help="also the keys of drills")
    replay.add_argument("--rate", type=float, default=200.0, help="keys a second (200)")
    replay.add_argument("--timeout", type=float, default=5.0, help="seconds a request may take (5)")


def _moment(text: str) -> str:
    """As the guards of restored nodes have it."""
    try:
        return moments.shown(moments.parse(text))
    except Refused as why:
        raise ArgumentTypeError(str(why)) from None


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number <= 3600:
        raise ValueError
    return number


def _epoch(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) < 1 << 31:
        raise ValueError
    return int(text)

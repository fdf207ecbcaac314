"""The arguments of `holdfast probe`. Light: every command of `holdfast` imports this."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_PREFIX = "__drill:"
EXAMPLES = """\
examples:
  holdfast probe run --target a=https://kv.example:5001 --ca-file ca.crt --token-file token --duration 600 \\
      --out probe.jsonl
  holdfast probe run --target a/cp=http://10.0.1.1:5001 --target a/ap=http://10.0.1.1:5002 --rate 50 --out probe.jsonl
  holdfast probe verify probe.jsonl --ca-file ca.crt --token-file token
  holdfast probe report probe.jsonl --fault-at 2026-03-01T10:00:00Z --json
exit codes: 0 done (whatever was measured), 2 wrong settings or usage; verify: 3 some writes could not be read back
"""


def add_arguments(probe: argparse.ArgumentParser) -> None:
    probe.epilog, probe.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    commands = probe.add_subparsers(dest="probe_command", required=True)
    run = commands.add_parser("run", help="write and read at a fixed rate, one JSON line for every request")
    _reaching(run)
    run.add_argument("--rate", type=float, default=10.0, metavar="N", help="writes per second and target (10)")
    run.add_argument("--read-rate", type=float, metavar="N", help="reads per second and target (as --rate)")
    run.add_argument("--duration", type=float, default=0.0, metavar="SEC", help="0: until SIGINT or SIGTERM (0)")
    run.add_argument("--prefix", default=DEFAULT_PREFIX, help=f"begin of all keys ({DEFAULT_PREFIX})")
    run.add_argument("--value-bytes", type=int, default=0, metavar="N", help="fill values up to N bytes (0)")
    run.add_argument("--realtime", action="store_true", help="go before all else on this machine, as root")
    run.add_argument("--out", type=Path, required=True, metavar="FILE", help="the record; must not exist")
    verify = commands.add_parser("verify", help="read every acknowledged write back; append what became of it")
    verify.add_argument("file", type=Path, help="what `run` wrote")
    _reaching(verify)
    verify.add_argument("--rate", type=float, default=200.0, metavar="N", help="most reads per second (200)")
    verify.add_argument("--rounds", type=int, default=3, help="times a write that is not there is looked for (3)")
    verify.add_argument("--pause", type=float, default=2.0, metavar="SEC", help="between two rounds (2)")
    verify.add_argument("--wait", type=float, default=0.0, metavar="SEC", help="while zones are away or stale (0)")
    report = commands.add_parser("report", help="compute availability, RTO, RPO, violations, latencies")
    report.add_argument("file", type=Path, help="what `run` and `verify` wrote")
    report.add_argument("--fault-at", metavar="TIME", help="of the fault: ISO 8601 with a zone, or seconds since 1970")
    report.add_argument("--json", action="store_true", help="machine-readable, with every second")


def _reaching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="ZONE[/MODE]=URL",
        help="once for each (verify: those of the run)",
    )
    parser.add_argument("--targets", type=Path, metavar="FILE", help='JSON list of {"zone", "mode", "url"}')
    parser.add_argument("--mode", choices=("cp", "ap"), default="cp", help="of targets that do not name one (cp)")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM of the authority (the system's)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token; give it rate limit `unlimited`")
    parser.add_argument(
        "--resolver",
        action="append",
        default=[],
        metavar="ADDRESS[:PORT]",
        help="name server to ask instead of the system's resolver; several are asked in turn",
    )
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SEC", help="of one request as a whole (3)")

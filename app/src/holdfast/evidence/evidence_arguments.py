"""The arguments of `holdfast evidence`. Light: every command of `holdfast` imports this."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  holdfast evidence report evidence/20260301T100000Z-dr_failover
  holdfast evidence report --running evidence/20260301T100000Z-dr_failover
  holdfast evidence index evidence
  holdfast evidence metrics evidence --out /var/lib/prometheus/node-exporter/holdfast_drills.prom
exit codes: 0 done, 2 wrong usage or no record that can be read; report: 0 passed, 3 failed, 4 not measured
"""


def add_arguments(evidence: argparse.ArgumentParser) -> None:
    evidence.epilog, evidence.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    commands = evidence.add_subparsers(dest="evidence_command", required=True)
    report = commands.add_parser("report", help="judge one run by its probe; completes record.json, writes report.html")
    report.add_argument("directory", type=Path, metavar="DIR", help="holds record.json and, of a drill, probe.jsonl")
    report.add_argument(
        "--running",
        action="store_true",
        help="for the runbook itself: its own verdict is not known yet and does not count; only says, writes nothing",
    )
    index = commands.add_parser("index", help="write index.html: all runs, newest first, and how the numbers go")
    index.add_argument("root", type=Path, metavar="ROOT", help="holds one directory a run")
    metrics = commands.add_parser("metrics", help="the newest drills, for node_exporter's textfile collector")
    metrics.add_argument("root", type=Path, metavar="ROOT", help="holds one directory a run")
    metrics.add_argument("--out", type=Path, metavar="FILE", help="replaced at once (standard output)")

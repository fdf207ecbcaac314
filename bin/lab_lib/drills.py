"""The command bin/drills: the lab's region is lost and brought back, again and again, by the shipped runbooks."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import drill_keys, drill_numbers, hosts, machine, paths, roundtrip, site
from .drill_numbers import Drill
from .report import Problem, Report, Step, last_lines

EVIDENCE = paths.STATE / "evidence"
#: How long a killed region may take to be back, closed; and copies and settling, with very many keys.
BACK_SECONDS, COPY_SECONDS = 180, 1800
#: How far behind a copy may be that counts as in step, and how long to look for an edge that is ready.
COPY_LAG_SECONDS, READY_SECONDS = 2.0, 10.0
#: The drill's client ends by itself, at the latest, after so long: longer than a failback that copies very many keys.
CLIENT_SECONDS = 3600


def arguments(given: list[str], usage: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bin/drills", description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=_whole(1, 1000), default=10, help="rounds of a failover and a failback (%(default)s)")
    parser.add_argument("--keys", type=_whole(0, 2_000_000), default=1_000_000, help="keys to load before the first (%(default)s)")
    parser.add_argument(
        "--writes-per-second", type=_whole(2, 2000), default=200, help="of the measuring client, half on each face (%(default)s)"
    )
    parser.add_argument("--json", type=_place, metavar="FILE", help="all numbers; replaced")
    return parser.parse_args(given)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return number


def _place(text: str) -> Path:
    if Path(text).is_dir() or not Path(text).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no file in a directory that is there")
    return Path(text)


def main(given: list[str], usage: str) -> int:
    wanted = arguments(given, usage)
    done: list[Drill] = []
    try:
        lab, home, other = _ready()
        report = Report("drills", 2 * wanted.count + 1)
        try:
            with report.step(f"Load {wanted.keys} keys") as step:
                step.note = _load(lab, home, other, wanted.keys, step)
            for number in range(1, wanted.count + 1):
                _round(report, lab, (home, other), wanted, f"{number} of {wanted.count}", done)
        except Problem as problem:
            report.fail(problem)
            return 1
        except (OSError, subprocess.SubprocessError) as problem:
            report.fail(Problem(str(problem), "bin/lab status shows what answers; bin/lab repairs the lab"))
            return 1
        finally:
            _end(done, wanted)
    except Problem as problem:
        print(f"Cause: {problem.cause}\nCure:  {problem.cure}")
        return 1
    except KeyboardInterrupt:
        print("\nStopped. bin/lab status says which region serves. If it is not the usual one: sudo bin/lab create, then dr_failback.yml")
        return 130
    return 0 if drill_numbers.held(done) else 1


def _end(done: list[Drill], wanted: argparse.Namespace) -> None:
    print("\n" + drill_numbers.text(done))
    for drill in done:
        for why in drill_numbers.broken(drill):
            print(f"does not hold: {drill.evidence}: {why}")
    if wanted.json:
        try:
            wanted.json.write_text(json.dumps(drill_numbers.as_json(done, wanted.keys, wanted.writes_per_second), indent=1) + "\n")
        except OSError as problem:
            raise Problem(f"{wanted.json} cannot be written: {problem.strerror}", "make room there; the numbers are above") from None


def _ready() -> tuple[hosts.Lab, str, str]:
    """The lab, the region that serves, and the other one; both are in order."""
    if os.geteuid() != 0:
        raise Problem("a drill kills containers that act as hosts, and that needs root", "sudo bin/drills")
    if not machine.engine_answers() or not hosts.owner():
        raise Problem("there is no lab on this machine", "sudo bin/lab makes one")
    hosts.check_owner()
    lab = hosts.read_inventory()
    home = lab.active_at_first
    if (now := _serving(lab)) != home:
        raise Problem(f"{now} serves, and the drills begin with {home}", f"sudo bin/lab create, then dr_failback.yml -e to={home}")
    others = {host.region for host in lab.hosts if host.serves} - {home}
    if len(others) != 1:
        raise Problem(f"the lab has no one other region beside {home}", "git diff inventories/lab shows what changed in it")
    return lab, home, others.pop()


def _load(lab: hosts.Lab, home: str, other: str, count: int, step: Step) -> str:
    note = drill_keys.load(lab, home, count, step) if count else "none"
    step.say(f"{other} catches up")
    _wait(f"{home} holds them on every node", COPY_SECONDS, lambda: _hold(lab, home, "primary", count))
    _wait(f"{other} holds them as well, on every node", COPY_SECONDS, lambda: _hold(lab, other, "replica", count))
    return note


def _hold(lab: hosts.Lab, region: str, role: str, count: int) -> bool:
    """Whether all nodes of the region are members or in step with one, and hold at least so many keys."""
    said = drill_keys.counted(lab, _host(lab, region))
    return len(said) == 3 and all(
        node.get("role") == role
        and node.get("state") == "member"
        and node.get("link") == ("-" if role == "primary" else "up")
        and int(str(node.get("keys") or 0)) >= count
        and (role == "primary" or _below(node.get("lag_seconds"), COPY_LAG_SECONDS))
        for node in said.values()
    )


def _below(lag: object, limit: float) -> bool:
    """A copy whose lag nobody knows is not in step."""
    return isinstance(lag, int | float) and lag < limit


def _serving(lab: hosts.Lab) -> str:
    """The region that serves; `no region` when none does so for some seconds, as an edge of a busy machine may miss one look."""
    end = time.monotonic() + READY_SECONDS
    while (now := roundtrip.serving(lab)) == "no region" and time.monotonic() < end:
        time.sleep(0.5)
    return now


def _closed(lab: hosts.Lab, region: str) -> bool:
    """Whether every edge of the region answers, and sends clients away."""
    edges = [edge for edge in roundtrip.all_edges(lab) if edge.region == region]
    return {roundtrip.health(edge, "cp") for edge in edges} <= roundtrip.CLOSED - {"no answer"}


def _host(lab: hosts.Lab, region: str) -> hosts.Host:
    return next(host for host in lab.hosts if host.serves and host.region == region)


def _round(report: Report, lab: hosts.Lab, regions: tuple[str, str], wanted: argparse.Namespace, number: str, done: list[Drill]) -> None:
    home, other = regions
    with report.step(f"Drill {number}: {home} loses its power") as step:
        done.append(_drill(report, step, "dr_failover", other, wanted, fault="power"))
    _say(done[-1])
    _expect(lab, other, done[-1])
    with report.step(f"Drill {number}: {home} comes back") as step:
        step.say("power for its hosts")
        report.command([str(paths.ROOT / "bin" / "lab"), "create"], cause="the hosts do not start", cure="bin/lab")
        _wait(f"{home} is back, closed", BACK_SECONDS, lambda: _closed(lab, home))
        step.say(f"the copies of {other} are made equal")
        _wait(f"{other} has settled", COPY_SECONDS, lambda: _hold(lab, other, "primary", wanted.keys))
        drill_keys.look(lab, wanted.keys)
        done.append(_drill(report, step, "dr_failback", home, wanted, replay="none"))
        _say(done[-1])
        _expect(lab, home, done[-1])
        step.say(f"{other} follows")
        _wait(f"{home} has settled", COPY_SECONDS, lambda: _hold(lab, home, "primary", wanted.keys))
        _wait(f"{other} follows", COPY_SECONDS, lambda: _hold(lab, other, "replica", wanted.keys))
        drill_keys.look(lab, wanted.keys)


def _drill(report: Report, step: Step, runbook: str, to: str, wanted: argparse.Namespace, **more: str) -> Drill:
    """Run one by its runbook; what its record says."""
    rate = wanted.writes_per_second // 2
    variables = {"to": to, "reason": "a drill of bin/drills", "drill": True, **more}
    variables |= {"drill_writes_per_second": rate, "drill_seconds": CLIENT_SECONDS}
    before = set(EVIDENCE.glob(f"*-{runbook}")) if EVIDENCE.is_dir() else set()
    lines: list[str] = []

    def on_line(text: str) -> None:
        lines.append(text)
        if text.startswith("TASK ["):
            step.say(text[6 : text.rfind("]")])

    command = [f"{paths.VENV}/bin/ansible-playbook", f"runbooks/{runbook}.yml", "-i", "inventories/lab"]
    command += ["-e", json.dumps(variables)]
    code = report.stream(command, on_line, cwd=paths.ROOT, env=site.playbook_environment(), stdin=subprocess.DEVNULL)
    made = sorted(set(EVIDENCE.glob(f"*-{runbook}")) - before)
    if not made:
        raise Problem(f"{runbook}.yml was refused (exit code {code})", "mend it, and begin again", last_lines("\n".join(lines), 12))
    try:
        drill = drill_numbers.read(json.loads((made[-1] / "record.json").read_text()), made[-1].name)
    except (OSError, ValueError, LookupError, TypeError) as problem:
        raise Problem(f"{made[-1]}/record.json cannot be used: {problem}", "the log has the runbook's output") from None
    step.note = drill.verdict
    return drill


def _say(drill: Drill) -> None:
    print(f"      {drill_numbers.line(drill)}", flush=True)


def _expect(lab: hosts.Lab, region: str, drill: Drill) -> None:
    """After a drill that left the wrong region serving no other one makes sense."""
    if (now := _serving(lab)) != region:
        # A drill begins with a client that is served, so where nothing serves only the runbook itself goes on.
        unfenced = f", and with -e accept_unfenced={lab.active_at_first} while its hosts have no power"
        raise Problem(
            f"after {drill.evidence} {now} serves, and not {region}: {'; '.join(drill.reasons) or drill.verdict}",
            f"read {EVIDENCE / drill.evidence}/report.html; start {drill.runbook}.yml -e to={region} again without -e drill=true"
            + (unfenced if drill.runbook == "dr_failover" else ""),
        )


def _wait(what: str, seconds: float, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except (OSError, ValueError, subprocess.SubprocessError) as problem:
            print(f"      waiting until {what}: {problem!r}", file=sys.stderr)
        if time.monotonic() > end:
            raise Problem(f"not within {seconds:g} s: {what}", "bin/lab status shows what answers; bin/lab repairs the lab")
        time.sleep(1)

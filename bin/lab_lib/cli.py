"""The commands of bin/lab."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable

from . import hosts, machine, nodes, paths, roundtrip, secrets_files, site
from .report import Problem, Report


def main(arguments: list[str], usage: str) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("up", [])
    commands: dict[str, Callable[[list[str]], int]] = {"up": up, "create": create, "status": status, "ssh": ssh, "down": down}
    try:
        code = _run(commands, command, rest, usage)
        sys.stdout.flush()
        return code
    except Problem as problem:
        print(f"Cause: {problem.cause}\nCure:  {problem.cure}")
        return 1
    except BrokenPipeError:  # whoever read our output has had enough, as in `bin/lab status | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("\nStopped. bin/lab goes on where it was; bin/lab down removes what is there.")
        return 130


def _run(commands: dict[str, Callable[[list[str]], int]], command: str, rest: list[str], usage: str) -> int:
    if command in ("-h", "--help", "help"):
        print(usage)
        return 0
    if command not in commands:
        print(f"Cause: bin/lab has no command {command!r}\nCure:  bin/lab --help lists them")
        return 2
    return commands[command](rest)


def up(_: list[str]) -> int:
    report = _checked_report("up", 10)
    try:
        lab = _create(report)
        serving = any(roundtrip.health(edge, "cp") == "ready" for edge in roundtrip.edges(lab)) if paths.CA_FILE.exists() else False
        with report.step("Run playbooks/site.yml") as step:
            step.note = site.converge(report, step, lab, first_time=not serving)
        with report.step("Heal nodes that lost their data") as step:
            step.note = nodes.heal(report, lab)
        with report.step("Write and read through every zone") as step:
            step.note = roundtrip.run(lab)
    except Problem as problem:
        report.fail(problem)
        return 1
    _show(lab)
    print(NEXT.format(edge=roundtrip.edges(lab)[0].url("cp")))
    return 0


def create(_: list[str]) -> int:
    report = _checked_report("create", 7)
    try:
        _create(report)
    except Problem as problem:
        report.fail(problem)
        return 1
    return 0


def _checked_report(name: str, steps: int) -> Report:
    machine.check()
    _lock()
    return Report(name, steps)


def _lock() -> None:
    """One bin/lab at a time: two would make the same containers. The lock ends with the process, however it ends."""
    paths.STATE.mkdir(exist_ok=True)
    descriptor = os.open(paths.STATE / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Problem("another bin/lab is at work in this checkout", "wait until it is done; .lab/log shows what it does") from None


def _create(report: Report) -> hosts.Lab:
    with report.step("Make the Python environment (.venv)") as step:
        step.note = machine.python_environment(report)
    with report.step("Start the Docker Engine") as step:
        step.note = machine.engine(report)
    with report.step("Have the Debian base image") as step:
        step.note = machine.base_image(report)
    with report.step("Have the image of the hosts") as step:
        image, step.note = machine.host_image(report)
    with report.step("Make secrets and tokens (.lab)") as step:
        step.note = secrets_files.make()
    with report.step("Read inventories/lab") as step:
        lab = hosts.read_inventory()
        step.note = f"{len(lab.hosts)} hosts"
    with report.step("Start the hosts") as step:
        machine.keep_overcommit()
        step.note = hosts.make(report, lab, image)
    return lab


def status(rest: list[str]) -> int:
    if not machine.engine_answers() or not hosts.owner():
        raise Problem("there is no lab on this machine", "bin/lab makes one")
    hosts.check_owner()
    lab = hosts.read_inventory()
    if rest == ["--json"]:
        print(json.dumps(_as_json(lab), indent=2))
    else:
        _show(lab)
    return 0


def _as_json(lab: hosts.Lab) -> dict[str, object]:
    return {
        "hosts": {h.name: {"address": h.address, "zone": h.zone, "region": h.region} for h in lab.hosts},
        "edges": [{"zone": e.zone, "region": e.region, "cp": e.url("cp"), "ap": e.url("ap")} for e in roundtrip.edges(lab)],
        "ca_file": str(paths.CA_FILE),
        "token_files": {role: str(paths.TOKENS / role) for role in secrets_files.ROLES},
        "ssh": {"user": lab.user, "key_file": str(paths.SSH_KEY), "known_hosts_file": str(paths.KNOWN_HOSTS)},
    }


def _show(lab: hosts.Lab) -> None:
    print(f"\n{'host':<9} {'address':<14} {'region':<7} {'zone':<5} {'state':<8} {'CP :5001':<12} {'AP :5002':<12} node")
    by_address = {edge.address: edge for edge in roundtrip.all_edges(lab)}
    states = nodes.states(lab)
    for host in lab.hosts:
        state = "running" if hosts.running(host.name) else "stopped"
        edge = by_address.get(host.address)
        cp, ap = (roundtrip.health(edge, "cp"), roundtrip.health(edge, "ap")) if edge and state == "running" else ("-", "-")
        node = states.get(host.name, "-")
        print(f"{host.name:<9} {host.address:<14} {host.region:<7} {host.zone:<5} {state:<8} {cp:<12} {ap:<12} {node}")


NEXT = """
Try next:
  bin/lab ssh lab-a1 sudo docker ps                      what runs in a zone
  docker kill lab-b1; bin/lab status                     lose a zone; the others go on
  bin/lab                                                bring it back
  curl --cacert .lab/pki/ca.pem -H "Authorization: Bearer $(cat .lab/tokens/write)" \\
       -X POST -d hello {edge}/write/greeting
  bin/lab down                                           remove it all"""


def ssh(rest: list[str]) -> int:
    lab = hosts.read_inventory()
    host = next((h for h in lab.hosts if rest and h.name == rest[0]), None)
    if host is None:
        raise Problem(
            f"which host? {' '.join(rest[:1]) or 'none'} is not in the lab",
            f"bin/lab ssh HOST, with one of {', '.join(h.name for h in lab.hosts)}",
        )
    sys.stdout.flush()
    return subprocess.call([*hosts.ssh_command(lab, host), *rest[1:]])


def down(rest: list[str]) -> int:
    if os.geteuid() != 0:
        raise Problem("bin/lab down removes containers, and that needs root", "sudo bin/lab down")
    _lock()
    report = Report("down", 3)
    try:
        with report.step("Remove hosts, volumes and network") as step:
            step.note = hosts.remove(report, "--any" in rest) if machine.engine_answers() else "no engine"
            machine.restore_overcommit()
        with report.step("Stop the Docker Engine if the lab started it") as step:
            step.note = machine.stop_own_engine(report)
        with report.step("Remove keys, secrets and tokens") as step:
            step.note = secrets_files.remove()
    except Problem as problem:
        report.fail(problem)
        return 1
    print("Kept as caches: .venv, Docker images, .lab/log. To remove them too: rm -rf .venv .lab; docker system prune -a")
    return 0

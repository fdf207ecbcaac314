"""The Redis nodes of the lab's zones: whether they vote, and healing those that lost their data."""

import concurrent.futures
import json
import shlex
import subprocess

from . import hosts, roundtrip
from .report import Problem, Report

ASK = """for n in $(docker ps --format '{{.Names}}' --filter name=^db_g | sort); do
    docker exec $n redis-cli --raw role | grep -qx slave && state=replica || state=$(docker exec $n redis-cli hget holdfast:guard state)
    echo "$n $state"
done"""


def states(lab: hosts.Lab) -> dict[str, str]:
    """Serving host that runs -> its nodes, each a replica or with the state of its guard (`db_g1 member`), or `no answer`."""

    def ask(host: hosts.Host) -> str:
        try:
            done = subprocess.run(
                [*hosts.ssh_command(lab, host), "sudo", "sh", "-c", shlex.quote(ASK)], capture_output=True, text=True, timeout=10
            )
        except subprocess.TimeoutExpired:
            return "no answer"
        return ", ".join(done.stdout.splitlines()) or "no answer"

    serving = [host for host in lab.hosts if host.serves and hosts.running(host.name)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip([host.name for host in serving], pool.map(ask, serving), strict=True))


def heal(report: Report, lab: hosts.Lab) -> str:
    """Run `holdfast repair --all`: a node that came back empty is filled from the others and votes again. Returns a note."""
    active = roundtrip.active_region(lab)
    first = next(host for host in lab.hosts if host.serves and host.region == active)
    output = report.command(
        [*hosts.ssh_command(lab, first), "sudo", "docker", "exec", "app_cp_1", "holdfast", "repair", "--all"],
        cause="a node could not be healed",
        cure="the lines above name it; bin/lab again, or bin/lab down for a lab without data",
    )
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    ended = next((event for event in events if event.get("event") == "REPAIR_FINISHED"), None)
    if ended is None:
        raise Problem("holdfast repair did not say how it ended", f"bin/lab ssh {first.name} sudo docker logs app_cp_1 shows more", output)
    return f"{', '.join(ended['healed'])} healed" if ended["healed"] else "none"

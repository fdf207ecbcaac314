"""The lab's hosts: systemd containers on one bridge network, reached over SSH with recorded host keys."""

import concurrent.futures
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import paths
from .report import Problem, Report

LABEL = "io.holdfast.lab"
NETWORK = "holdfast-lab"


@dataclass(frozen=True)
class Host:
    """One host of the inventory. `serves` says whether its zone has an edge."""

    name: str
    address: str
    zone: str
    region: str
    serves: bool


@dataclass(frozen=True)
class Lab:
    """The lab as the inventory describes it."""

    subnet: str
    user: str
    hosts: list[Host]
    active_at_first: str = ""


def read_inventory() -> Lab:
    """The inventory is the only list of hosts; Ansible reads it for us."""
    if not (paths.VENV / "bin" / "ansible-inventory").exists():
        raise Problem("this checkout has no Python environment yet", "sudo bin/lab makes it, and the lab")
    done = subprocess.run(
        [f"{paths.VENV}/bin/ansible-inventory", "-i", str(paths.INVENTORY), "--list"], capture_output=True, text=True, cwd=paths.ROOT
    )
    if done.returncode != 0:
        raise Problem("the lab's inventory cannot be read", "see inventories/lab; git diff shows what changed in it", done.stderr.strip())
    data = json.loads(done.stdout)
    variables = data["_meta"]["hostvars"]
    serving = _members(data, "serving")
    prefix = address_prefix()
    hosts = [
        Host(name, f"{prefix}.{v['lab_host_number']}", v.get("zone", ""), v.get("region", ""), name in serving)
        for name, v in sorted(variables.items())
    ]
    return Lab(f"{prefix}.0/24", "admin", hosts, str(next(iter(variables.values())).get("region_active_at_first", "")))


def address_prefix() -> str:
    """The first three numbers of every address: chosen when the lab is made, then kept for every later command."""
    kept = paths.STATE / "address_prefix"
    if not kept.exists():
        kept.write_text(os.environ.get("HOLDFAST_LAB_PREFIX", "172.30.77"))
    return kept.read_text().strip()


def _members(data: dict[str, dict[str, list[str]]], group: str) -> set[str]:
    found = set(data.get(group, {}).get("hosts", []))
    for child in data.get(group, {}).get("children", []):
        found |= _members(data, child)
    return found


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True)


def inspect(name: str) -> dict[str, object] | None:
    done = docker("container", "inspect", name)
    return json.loads(done.stdout)[0] if done.returncode == 0 else None


def running(name: str) -> bool:
    return docker("container", "inspect", "-f", "{{.State.Running}}", name).stdout.strip() == "true"


def owner() -> str:
    """The checkout that made the lab now on this machine; empty when there is none."""
    names = docker("ps", "-aq", "--filter", f"label={LABEL}").stdout.split()
    return docker("container", "inspect", "-f", f'{{{{index .Config.Labels "{LABEL}"}}}}', names[0]).stdout.strip() if names else ""


def check_owner() -> None:
    """Leave a lab alone that another checkout made."""
    if (other := owner()) and other != str(paths.ROOT):
        raise Problem(
            f"another lab is on this machine, made from {other}",
            f"use that one, or remove it: {other}/bin/lab down (or bin/lab down --any here)",
        )


def make(report: Report, lab: Lab, image: str) -> str:
    """Have every host running, with our key in and its host key recorded; returns a note."""
    check_owner()
    _make_key(report)
    _make_network(report, lab)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        made = sum(pool.map(lambda host: _make_host(report, host, image), lab.hosts))
        keys = list(pool.map(lambda host: _prepare_ssh(lab, host), lab.hosts))
    paths.KNOWN_HOSTS.write_text("".join(keys))
    return f"{made} made" if made else "there"


def _make_key(report: Report) -> None:
    paths.SSH_KEY.parent.mkdir(mode=0o700, exist_ok=True)
    if not paths.SSH_KEY.exists():
        report.command(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "holdfast-lab", "-f", str(paths.SSH_KEY)],
            cure="remove .lab/ssh and try again",
        )


def _make_network(report: Report, lab: Lab) -> None:
    done = docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", NETWORK)
    if done.returncode == 0 and done.stdout.strip() == lab.subnet:
        return
    if done.returncode == 0:
        raise Problem(f"the lab's network has the range {done.stdout.strip()}, not {lab.subnet}", "bin/lab down, then bin/lab")
    try:
        report.command(
            ["docker", "network", "create", "--label", LABEL, "--subnet", lab.subnet, NETWORK],
            cause=f"the address range {lab.subnet} is taken on this machine",
            cure="choose another for the lab: sudo HOLDFAST_LAB_PREFIX=172.30.99 bin/lab",
        )
    except Problem:
        (paths.STATE / "address_prefix").unlink(missing_ok=True)  # kept, it would win over the one that the cure names
        raise


def _make_host(report: Report, host: Host, image: str) -> bool:
    if running(host.name):
        return False
    if inspect(host.name) is None:
        report.command(
            ["docker", "create", "--name", host.name, "--hostname", host.name, "--network", NETWORK, "--ip", host.address,
             "--label", f"{LABEL}={paths.ROOT}", *_systemd_options(), image],
            cause=f"the host {host.name} could not be made", cure="bin/lab down, then bin/lab",
        )  # fmt: skip
    report.command(["docker", "start", host.name], cause=f"the host {host.name} does not start", cure="bin/lab down, then bin/lab")
    return True


def _systemd_options() -> list[str]:
    """What systemd as PID 1 and a nested engine need; every capability but the one that some virtual machines lack."""
    options = [
        "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--volume", "/var/lib/docker",
        "--tmpfs", "/run", "--tmpfs", "/tmp:exec", "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
        "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined",
    ]  # fmt: skip
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        options += ["--env", "SYSTEMD_PROC_CMDLINE=systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
    return options


def _prepare_ssh(lab: Lab, host: Host) -> str:
    """Put our public key in and return the host's known_hosts line, both through the engine, not the network."""
    public = paths.SSH_KEY.with_suffix(".pub").read_text()
    place = f"/home/{lab.user}/.ssh/authorized_keys"
    script = (
        f"until systemctl is-active --quiet ssh; do sleep 0.2; done; printf %s '{public}' > {place}; "
        f"chown {lab.user}: {place}; chmod 0600 {place}; cat /etc/ssh/ssh_host_ed25519_key.pub"
    )
    for _ in range(3):
        done = docker("exec", host.name, "timeout", "60", "bash", "-c", script)
        if done.returncode == 0 and done.stdout.startswith("ssh-ed25519"):
            kind, key = done.stdout.split()[:2]
            return f"{host.name},{host.address} {kind} {key}\n"
        time.sleep(1)
    raise Problem(
        f"the host {host.name} did not get its SSH server up", f"docker logs {host.name}; or bin/lab down, then bin/lab", done.stderr
    )


def ssh_command(lab: Lab, host: Host) -> list[str]:
    return [
        "ssh",
        "-i",
        str(paths.SSH_KEY),
        "-o",
        f"UserKnownHostsFile={paths.KNOWN_HOSTS}",
        "-o",
        "IdentitiesOnly=yes",
        f"{lab.user}@{host.address}",
    ]


def remove(report: Report, any_owner: bool) -> str:
    """Remove every host, volume and network with the lab's label; returns a note."""
    if not any_owner:
        check_owner()
    names = docker("ps", "-aq", "--filter", f"label={LABEL}").stdout.split()
    if names:
        report.command(["docker", "rm", "-f", "-v", *names], cure="run bin/lab down again")
    if docker("network", "inspect", NETWORK).returncode == 0:
        report.command(["docker", "network", "rm", NETWORK], cure="docker network inspect shows what still uses it; run bin/lab down again")
    return f"{len(names)} removed"

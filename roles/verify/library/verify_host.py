#!/usr/bin/python
"""Looks at a host from inside: containers, secrets, nodes, settings, and how the host itself is kept."""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: verify_host
short_description: What the checklist asks of a host, seen from inside
description: Changes nothing but a line in the audit log. A check that cannot be made fails, with the reason as evidence.
options:
  keeps_time: {type: bool, required: true, description: Whether the host sets its own clock.}
  owns_kernel: {type: bool, required: true, description: Whether the host has a kernel of its own.}
author: Holdfast
"""
EXAMPLES = "- verify_host: {keeps_time: true, owns_kernel: true}"
RETURN = """
items: {type: list, returned: always, description: "Dictionaries with section, item, passed and evidence."}
"""

SECRETS = ("/etc/holdfast/app/secrets/*", "/etc/holdfast/redis/*/secrets/*")
PLACEHOLDER = re.compile(r"change.?me|placeholder|example|^secret|^password", re.IGNORECASE)
#: A request's deadline should be this many round trips between zones, for it may need two phases and a flush to disk.
ROUND_TRIPS = 4
AUDIT_LOG = Path("/var/log/holdfast/audit.jsonl")
AUDIT_RULES = Path("/etc/audit/rules.d/60-holdfast.rules")
AUDITED_WITHIN_SEC = 10
#: A token that the look from outside made up is not older than this.
RECENT_SEC = 120


class Unknown(Exception):
    """A check could not be made; the text is the evidence."""


def output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unknown(f"{command[0]}: {problem}") from problem
    if done.returncode != 0:
        raise Unknown(f"{' '.join(command[:3])}: {(done.stderr or done.stdout).strip()[:200] or f'exit code {done.returncode}'}")
    return done.stdout


class Host:
    """Each public method is a check: (passed, evidence). ``None`` for passed: does not apply here."""

    def __init__(self, keeps_time: bool, owns_kernel: bool) -> None:
        self.keeps_time, self.owns_kernel = keeps_time, owns_kernel
        self.containers: list[dict[str, Any]] = []
        self.inspected = "[]"
        if Path("/usr/bin/docker").exists() and (names := output("docker", "ps", "--quiet").split()):
            self.inspected = output("docker", "inspect", *names)
            self.containers = json.loads(self.inspected)

    def _each(self, wrong: dict[str, list[str]], what: str) -> tuple[bool | None, str]:
        if not self.containers:
            return None, "no containers"
        if wrong:
            return False, "; ".join(f"{name}: {', '.join(faults)}" for name, faults in sorted(wrong.items()))
        return True, f"{len(self.containers)} containers, {what}"

    def _faults(self, find: Any) -> dict[str, list[str]]:
        found = {container["Name"].lstrip("/"): find(container) for container in self.containers}
        return {name: faults for name, faults in found.items() if faults}

    def privileges(self) -> tuple[bool | None, str]:
        def find(container: dict[str, Any]) -> list[str]:
            user, given = container["Config"]["User"].partition(":")[0], container["HostConfig"]
            return [
                fault
                for fault, there in {
                    "runs as root": user in ("", "0", "root"),
                    "may write its root": not given["ReadonlyRootfs"],
                    "keeps capabilities": "ALL" not in (given["CapDrop"] or []),
                    "may gain privileges": not any(option.startswith("no-new-privileges") for option in given["SecurityOpt"] or []),
                    "is privileged": given["Privileged"],
                    "holds the Docker socket": any("docker.sock" in mount["Source"] for mount in container["Mounts"]),
                }.items()
                if there
            ]

        return self._each(self._faults(find), "own users, read-only, no capabilities, no socket")

    def limits(self) -> tuple[bool | None, str]:
        def find(container: dict[str, Any]) -> list[str]:
            given = container["HostConfig"]
            return [
                f"no limit of {name}"
                for name, key in {"memory": "Memory", "cpu": "NanoCpus", "processes": "PidsLimit"}.items()
                if not given[key]
            ]

        return self._each(self._faults(find), "each with limits of memory, cpu and processes")

    def secrets_hidden(self) -> tuple[bool | None, str]:
        values = {path: path.read_text().strip() for pattern in SECRETS for path in Path("/").glob(pattern[1:])}
        if not values:
            return None, "no secrets"
        open_to_others = [str(path) for path in values if path.stat().st_mode & 0o077]
        shown = [str(path) for path, value in values.items() if len(value) >= 8 and json.dumps(value)[1:-1] in self.inspected]
        if open_to_others or shown:
            return False, f"readable by others: {open_to_others or 'none'}; shown by docker inspect: {shown or 'none'}"
        return True, f"{len(values)} files, readable by one user each, none in docker inspect"

    def secret_key(self) -> tuple[bool | None, str]:
        path = Path("/etc/holdfast/app/secrets/secret_key")
        if not path.exists():
            return None, "no service"
        value = path.read_text().strip()
        if len(value) < 32 or len(set(value)) < 10 or PLACEHOLDER.search(value):
            return False, f"{path} is short, monotonous or a placeholder"
        return True, f"{len(value)} characters, no placeholder"

    def _setting(self, name: str) -> str | None:
        for container in self.containers:
            if container["Name"].startswith("/app_"):
                for line in container["Config"]["Env"]:
                    if line.startswith(f"{name}="):
                        return str(line.partition("=")[2])
        return None

    def network_timeout(self) -> tuple[bool | None, str]:
        given, nodes = self._setting("NETWORK_TIMEOUT_SEC"), self._setting("NODES")
        if given is None or nodes is None:
            return None, "no service"
        slowest = 0.0
        for node in nodes.split(","):
            address, _colon, port = node.partition("=")[2].rpartition(":")
            times = []
            for _ in range(5):
                started = time.monotonic()
                try:
                    socket.create_connection((address, int(port)), timeout=3).close()
                except OSError as problem:
                    return False, f"{node}: {problem}"
                times.append(time.monotonic() - started)
            slowest = max(slowest, sorted(times)[2])
        evidence = f"{given} s, slowest round trip to a node {slowest * 1000:.1f} ms"
        return float(given) >= ROUND_TRIPS * slowest, evidence

    def staleness(self) -> tuple[bool | None, str]:
        given = self._setting("MAX_STALENESS_MS")
        return (None, "no service") if given is None else (int(given) > 0, f"MAX_STALENESS_MS={given}")

    def log_level(self) -> tuple[bool | None, str]:
        given = self._setting("LOG_LEVEL")
        return (None, "no service") if given is None else (given in ("WARNING", "ERROR"), f"LOG_LEVEL={given}")

    def _nodes(self) -> list[dict[str, Any]]:
        return [
            container
            for container in self.containers
            if container["Config"]["Cmd"] is None and "REDIS_NODE_ID" in str(container["Config"]["Env"])
        ]

    def persistence(self) -> tuple[bool | None, str]:
        wanted = {"appendonly": "yes", "appendfsync": "always", "aof-load-truncated": "no", "maxmemory-policy": "noeviction"}
        nodes = self._nodes()
        for node in nodes:
            name = node["Name"].lstrip("/")
            for key, value in wanted.items():
                answer = output("docker", "exec", name, "redis-cli", "config", "get", key).split()
                if answer != [key, value]:
                    return False, f"{name}: {key} is {answer[-1:] or 'unknown'}, not {value}"
        return (True, "AOF on, flushed before each answer") if nodes else (None, "no node")

    def volumes(self) -> tuple[bool | None, str]:
        nodes = self._nodes()
        for node in nodes:
            mounts = [mount for mount in node["Mounts"] if mount["Destination"] == "/data"]
            if not mounts or mounts[0]["Type"] != "bind" or not any(Path(mounts[0]["Source"]).glob("appendonlydir/*")):
                return False, f"{node['Name'].lstrip('/')}: no AOF in a directory of the host"
        return (
            (True, ", ".join(m["Source"] for n in nodes for m in n["Mounts"] if m["Destination"] == "/data"))
            if nodes
            else (None, "no node")
        )

    def redis_users(self) -> tuple[bool | None, str]:
        nodes = self._nodes()
        for node in nodes:
            name = node["Name"].lstrip("/")
            users = output("docker", "exec", name, "redis-cli", "acl", "list").splitlines()
            for user in users:
                if user.startswith("user default") and " off" not in user:
                    return False, f"{name}: the default user is on"
                if "nopass" in user:
                    return False, f"{name}: {user.split()[1]} needs no password"
        return (True, "default user off, every other has a password") if nodes else (None, "no node")

    def votes(self) -> tuple[bool | None, str]:
        nodes = self._nodes()
        states = {}
        for node in nodes:
            name = node["Name"].lstrip("/")
            part, *rest = output("docker", "exec", name, "redis-cli", "--raw", "role").split()
            if part == "slave":
                states[name] = "a follower" if "connected" in rest else "a follower that hears nothing"
            else:
                states[name] = output("docker", "exec", name, "redis-cli", "hget", "holdfast:guard", "state").strip() or "blank"
        said = ", ".join(f"{name} is {state}" for name, state in states.items())
        return (set(states.values()) <= {"member", "a follower"}, said) if nodes else (None, "no node")

    def firewall(self) -> tuple[bool | None, str]:
        rules = output("nft", "list", "table", "inet", "holdfast")
        if "policy drop" not in rules:
            return False, "the table has no default of drop"
        hash_ = re.search(r'comment "(\S+)"', rules)
        return True, f"table inet holdfast drops by default, rules {hash_[1][:12] if hash_ else 'without a hash'}"

    def ssh(self) -> tuple[bool | None, str]:
        settings = dict(line.split(" ", 1) for line in output("sshd", "-T").splitlines() if " " in line)
        wanted = {"passwordauthentication": "no", "permitrootlogin": "no", "kbdinteractiveauthentication": "no"}
        wrong = [f"{name} {settings.get(name)}" for name, value in wanted.items() if settings.get(name) != value]
        return not wrong, "; ".join(wrong) or "keys only, not as root"

    def updates(self) -> tuple[bool | None, str]:
        for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
            if output("systemctl", "is-enabled", timer).strip() != "enabled":
                return False, f"{timer} is off"
        return True, "security updates install themselves"

    def time_kept(self) -> tuple[bool | None, str]:
        if not self.keeps_time:
            return None, "shares the clock of another system"
        tracking = output("chronyc", "-n", "tracking")
        found = re.search(r"System time\s*: ([\d.]+) seconds", tracking)
        return bool(found and float(found[1]) < 0.1), f"off by {found[1]} s" if found else "chrony follows no source"

    def certificates(self) -> tuple[bool | None, str]:
        found = dict.fromkeys(Path("/etc/holdfast/tls").glob("*/tls.crt"), 0)
        for path in found:
            end = output("openssl", "x509", "-in", str(path), "-noout", "-enddate").strip().partition("=")[2]
            found[path] = int((ssl.cert_time_to_seconds(end) - time.time()) / 86400)
        if not found:
            return None, "no certificates"
        path, days = min(found.items(), key=lambda entry: entry[1])
        return days >= 7, f"{path} ends first, in {days} days"

    def audit_log(self) -> tuple[bool | None, str]:
        """A sudo command of this moment, with a mark of its own, is in the file within some seconds."""
        mark = f"holdfast-verify-{secrets.token_hex(8)}"
        output("sudo", "--non-interactive", "--user", "nobody", "/bin/true", mark)
        started = time.monotonic()
        while time.monotonic() - started < AUDITED_WITHIN_SEC:
            if any(mark in line for line in _tail(AUDIT_LOG)):
                mode = AUDIT_LOG.stat().st_mode & 0o777
                if mode != 0o640:
                    return False, f"{AUDIT_LOG} has mode {mode:o}, not 640"
                return True, f"a sudo command was in {AUDIT_LOG} after {time.monotonic() - started:.1f} s"
            time.sleep(0.2)
        return False, f"a sudo command was not in {AUDIT_LOG} after {AUDITED_WITHIN_SEC} s"

    def audited_refusals(self) -> tuple[bool | None, str]:
        """The look from outside came with a made-up token a moment ago; that must be on record."""
        if self._setting("NODES") is None:
            return None, "no service"
        started = time.monotonic()
        while time.monotonic() - started < AUDITED_WITHIN_SEC:
            for line in reversed(_tail(AUDIT_LOG)):
                if '"AUTHENTICATION_FAILURE"' in line:
                    age = datetime.now(UTC) - datetime.fromisoformat(json.loads(line)["ts"])
                    if age.total_seconds() < RECENT_SEC:
                        return True, f"a refused token is in {AUDIT_LOG}, {age.total_seconds():.0f} s old"
                    break
            time.sleep(0.5)
        return False, f"no token refused within {RECENT_SEC} s is in {AUDIT_LOG}"

    def kernel_audit(self) -> tuple[bool | None, str]:
        wanted = [line for line in AUDIT_RULES.read_text().splitlines() if line.startswith("-a ")]
        if not self.owns_kernel:
            return False, f"nothing is recorded: the kernel is another system's; {len(wanted)} rules are written, none is loaded"
        loaded = [line for line in output("auditctl", "-l").splitlines() if "holdfast_" in line]
        if output("systemctl", "is-active", "auditd").strip() != "active" or "enabled 0" in output("auditctl", "-s"):
            return False, "auditd does not run"
        return len(loaded) == len(wanted), f"{len(loaded)} of {len(wanted)} rules are in the kernel"


def _tail(path: Path) -> list[str]:
    """The last lines, some hundred at least."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 262144))
        return file.read().decode(errors="replace").splitlines()


#: section, item, check; in the order of the table.
CHECKS = [
    ("Security", "The secret key is not a default", Host.secret_key),
    ("Security", "No Redis user without a password", Host.redis_users),
    ("Security", "Secrets are files of one user, shown nowhere", Host.secrets_hidden),
    ("Security", "Containers have no privileges", Host.privileges),
    ("Security", "The firewall denies by default", Host.firewall),
    ("Security", "SSH takes keys only, not root's", Host.ssh),
    ("Security", "Security updates install themselves", Host.updates),
    ("Security", "Certificates are in time", Host.certificates),
    ("Security", "Logins and sudo reach the host's audit log", Host.audit_log),
    ("Security", "Refused tokens reach the host's audit log", Host.audited_refusals),
    ("Security", "The kernel records changes of rights and settings", Host.kernel_audit),
    ("Configuration", "NETWORK_TIMEOUT_SEC fits the network", Host.network_timeout),
    ("Configuration", "MAX_STALENESS_MS is decided", Host.staleness),
    ("Configuration", "LOG_LEVEL is WARNING or ERROR", Host.log_level),
    ("Configuration", "Containers have limits", Host.limits),
    ("Configuration", "The clock is kept", Host.time_kept),
    ("Data persistence", "Nodes keep their data on the host's disk", Host.volumes),
    ("Data persistence", "Nodes flush before they answer (AOF)", Host.persistence),
    ("High availability", "Every node votes, or follows one that does", Host.votes),
]


def run(host: Host) -> list[dict[str, Any]]:
    items = []
    for section, item, check in CHECKS:
        try:
            passed, evidence = check(host)
        except (Unknown, OSError, ValueError, KeyError) as problem:
            passed, evidence = False, f"could not be checked: {problem}"
        if passed is not None:
            items.append({"section": section, "item": item, "passed": passed, "evidence": evidence})
    return items


def main() -> None:
    flags = ("keeps_time", "owns_kernel")
    module = AnsibleModule(argument_spec={name: {"type": "bool", "required": True} for name in flags}, supports_check_mode=True)
    try:
        host = Host(*(module.params[name] for name in flags))
    except (Unknown, ValueError) as problem:
        module.fail_json(msg=f"the host's containers cannot be read: {problem}")
        return
    module.exit_json(changed=False, items=run(host))


if __name__ == "__main__":
    main()

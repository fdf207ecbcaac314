"""Tasks of role redis_node on real Redis nodes of this machine: what is meant for a node's container is run beside the node."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
import yaml

ROOT = Path(__file__).resolve().parents[2]
#: Notes whose turn it is. redis-cli without an address is the node's own.
DOCKER = """#!/bin/sh
echo "$2" >> {place}/asked
PATH={place}/$2:$PATH
shift 2
exec "$@"
"""


def node(place: Path, *options: str) -> tuple[subprocess.Popen[bytes], redis.Redis]:
    """A Redis that runs alone or follows; what it holds lies in `place`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place.mkdir(exist_ok=True)
    server = shutil.which("redis-server") or str(ROOT / ".venv/bin/redis-server")
    command = [
        server,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(place),
        "--save",
        "",
        "--repl-diskless-sync-delay",
        "0",
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    for _ in range(1200):
        try:
            client.ping()
            return process, client
        except redis.ConnectionError:  # BusyLoadingError is one too
            time.sleep(0.05)
    process.kill()
    raise AssertionError(f"no Redis at {port}")


def port_of(client: redis.Redis) -> int:
    return int(client.get_connection_kwargs()["port"])


def task(file: str, name: str) -> dict[str, Any]:
    """That of the role whose name begins so."""
    found = yaml.safe_load((ROOT / f"roles/redis_node/tasks/{file}.yml").read_text())
    [one] = [each for each in found if each["name"].startswith(name)]
    return dict(one)


def run(place: Path, tasks: list[dict[str, Any]], hosts: dict[str, dict[str, int]], **given: Any) -> subprocess.CompletedProcess[str]:
    """Run them on hosts with nodes of the given ports; `given` are variables."""
    play = {"hosts": "all", "gather_facts": False, "any_errors_fatal": True, "tasks": tasks}
    play["vars"] = yaml.safe_load((ROOT / "roles/redis_node/vars/main.yml").read_text()) | given
    (place / "play.yml").write_text(yaml.safe_dump([play]))
    local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    listed: dict[str, Any] = {}
    for host, ports in hosts.items():
        held = [{"name": each, "address": "127.0.0.1", "port": port} for each, port in ports.items()]
        listed[host] = local | {"redis_node_nodes": held}
        for each, port in ports.items():
            (place / each).mkdir(exist_ok=True)
            program(place / each / "redis-cli", f'#!/bin/sh\nexec {shutil.which("redis-cli")} -p {port} "$@"\n')
    (place / "hosts.json").write_text(json.dumps({"all": {"hosts": listed}}))
    program(place / "docker", DOCKER.format(place=place))
    environment = os.environ | {"PATH": f"{place}:{ROOT}/.venv/bin:{os.environ['PATH']}", "ANSIBLE_STRATEGY": "linear"}
    command = ["ansible-playbook", "-i", place / "hosts.json", place / "play.yml"]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)

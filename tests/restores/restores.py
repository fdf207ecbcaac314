"""Role restore at work on real nodes: three of the service's test cluster, of which one is a container of a `docker` that a script plays.

The script runs holdfast from this checkout, and the node through the start guard of its image.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "app/tests/integration"), str(ROOT / "tests/repositories")]

from backups import Backups, moment, next_second  # noqa: E402
from cluster import COMMAND_TIMEOUT_SEC, PASSWORD, TOKENS, App, Cluster, Node, wait_for  # noqa: E402
from far import PASSWORD as RIGHT  # noqa: E402
from far import Host  # noqa: E402
from servers import KINDS, S3, Sshd, served  # noqa: E402

DOCKER = r"""#!/usr/bin/python3
import json, os, pathlib, signal, subprocess, sys, time
place = pathlib.Path(__file__).parent
told = json.loads((place / "told.json").read_text())
with (place / "calls").open("a") as out:
    out.write(" ".join(sys.argv[1:]) + "\n")
name, words = told["node"], sys.argv[2:]
pid_file = place / "pid"
def holdfast(arguments):
    env = told["env"] | {"PYTHONPATH": told["src"]}
    done = subprocess.run([told["python"], "-m", "holdfast", *arguments], env=env, cwd="/", stdout=subprocess.PIPE, text=True)
    # With the file there, every plan is of more than any disk has room for.
    huge = arguments[:2] == ["backup", "plan"] and (place / "huge").exists()
    print(done.stdout.replace('"bytes": ', '"bytes": 1' + "0" * 18) if huge else done.stdout, end="")
    sys.exit(done.returncode)
def running():
    return pid_file.exists() and pathlib.Path("/proc", pid_file.read_text().strip(), "exe").exists()
match sys.argv[1]:
    case "run":
        # With the file there, this process ends while the data is made.
        if (place / "ends").exists() and words[words.index(told["image"]) + 1 :][:2] == ["backup", "restore"]:
            os.kill(int((place / "ends").read_text()), signal.SIGKILL)
        holdfast(words[words.index(told["image"]) + 1 :])
    case "exec" if words[0] == "app_cp_1":
        holdfast(words[2:])
    case "exec":
        if not running():
            sys.exit("the container is not running")
        to = [] if "-h" in words else ["-h", "127.0.0.1", "-p", str(told["port"])]
        command = ["redis-cli", "--user", "tester", "--no-auth-warning", *to, *words[2:]]
        sys.exit(subprocess.run(command, env=os.environ | {"REDISCLI_AUTH": told["password"]}).returncode)
    case "inspect" if words[-1] in ("db_g1", "db_g2", "db_g9") and "State.Status" in words[1]:
        if words[-1] == "db_g9":
            sys.exit("no such container")
        print("running" if running() else "exited")
    case "inspect":
        # With the file there, it says another time whenever it is asked.
        print("/app_cp_1", time.time() if (place / "started_again").exists() else "then")
        print("/" + name, time.time())
    case "ps":
        if "status=restarting" in words:
            print("x" if not running() else "", end="")
    case "logs":
        print((place / "log").read_text())
    case "stop":
        if running():
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGTERM)
            while running():
                time.sleep(0.02)
    case "start":
        data = pathlib.Path(told["data"]) / name
        script = pathlib.Path(told["guard"]).read_text().replace("/data", str(data)).replace("sleep 2", "true")
        script = script.replace("/etc/redis/redis.conf", str(place / "redis.conf"))
        with (place / "log").open("a") as log:
            done = subprocess.run(["sh", "-c", script], env=os.environ | {"REDIS_NODE_ID": name}, stdout=log, stderr=log)
"""

PLAY = """
- hosts: zones
  gather_facts: false
  tasks:
"""


class Restores:
    """The node db_g1 belongs to the played docker; the others run as they are."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.node = cluster, cluster.nodes["db_g1"]
        self.place, self.data = cluster.root / "docker", cluster.root / "redis"
        self.store, self.own = cluster.root / "backup", cluster.root / "redis/db_g1"
        self.place.mkdir()
        self.data.mkdir()
        self.node.kill()
        shutil.move(self.node.directory / "data", self.own)
        (self.own / ".node-id").write_text("db_g1\n")
        self.backups = Backups(cluster, self.store / "db_g1")
        self.backups.data = self.own
        (self.place / "docker").write_text(DOCKER)
        (self.place / "docker").chmod(0o755)
        told = {"node": "db_g1", "image": "holdfast@sha256:0", "data": str(self.data), "port": self.node.port, "password": PASSWORD}
        told |= {"env": cluster.env("cp", NETWORK_TIMEOUT_SEC=COMMAND_TIMEOUT_SEC), "src": str(ROOT / "app/src"), "python": sys.executable}
        told |= {"guard": str(ROOT / "roles/redis_node/files/image/redis-node")}
        (self.place / "told.json").write_text(json.dumps(told))
        lines = (self.node.directory / "redis.conf").read_text().splitlines()
        lines = [line for line in lines if not line.startswith(("dir ", "daemonize"))]
        lines += [f"dir {self.own}", "daemonize yes", f"pidfile {self.place}/pid", f"logfile {self.place}/log"]
        (self.place / "redis.conf").write_text("\n".join(lines) + "\n")
        self.docker("start", "db_g1")
        self.node.wait()

    def docker(self, *arguments: str) -> str:
        done = subprocess.run([str(self.place / "docker"), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        self.docker("stop", "db_g1")

    def lose(self) -> None:
        """The data directory is gone, and the node with it."""
        self.stop()
        shutil.rmtree(self.own)

    def state(self) -> str | None:
        return self.cluster.bootstrap("--check")[1]["nodes"]["db_g1"]["state"]

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.data.iterdir() if ".before-" in path.name)

    def tree(self) -> dict[str, Any]:
        """What is on the disk of the host: the same before and after a refusal. What Redis appends to its file does not count."""
        return {str(path): path.stat().st_ino for place in (self.data, self.store) for path in sorted(place.rglob("*"))}

    def play(self, *verbs: str, check: bool = False, **variables: Any) -> tuple[int, str]:
        """Run these task files of the role, one after the other."""
        tasks = "".join(f"    - ansible.builtin.import_role: {{name: restore, tasks_from: {verb}}}\n" for verb in verbs)
        path = self.cluster.root / "play.yml"
        path.write_text(PLAY + tasks)
        given = {"restore_nodes": ["db_g1"], **variables}
        return self._ansible(path, *(["--check"] if check else []), **given)

    def runbook(self, faces: dict[str, App], *arguments: str, **variables: Any) -> tuple[int, str]:
        """Run restore_node.yml itself, for the one host that there is here; `faces`: where its client writes and reads."""
        (self.cluster.root / "token").write_text(TOKENS["boss"])
        settings = {
            "ansible_become": False,
            "evidence_directory": str(self.cluster.root / "evidence"),
            "evidence_lock_file": str(self.cluster.root / "locks/runbook.lock"),
            "drill_directory": str(self.cluster.root),
            "drill_urls": {mode: f"http://127.0.0.1:{app.port}" for mode, app in faces.items()},
            # Without TLS there is no authority to name.
            "__drill_client_arguments": ["--token-file", str(self.cluster.root / "token")],
            "drill_ca_file": str(self.cluster.root / "token"),
            "drill_authorization_file": str(self.cluster.root / "token"),
        }
        given = {"host": "here", "node": "db_g1", "confirm": "db_g1", "reason": "a try of the runbook", **settings, **variables}
        return self._ansible(ROOT / "runbooks/restore_node.yml", *arguments, **given)

    def _ansible(self, playbook: Path, *arguments: str, **variables: Any) -> tuple[int, str]:
        given = {
            "restore_host_nodes": [self.address("db_g1")],
            "restore_peers": [self.address("db_g2"), self.address("db_g3")],
            "restore_image": "holdfast@sha256:0",
            "restore_data_directory": str(self.data),
            "restore_store_directory": str(self.store),
            "restore_start_timeout_seconds": 60,
            "__restore_log": str(self.cluster.root / "repair.log"),
            "ansible_python_interpreter": sys.executable,
            **variables,
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        env |= {"PATH": f"{self.place}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STRATEGY": "linear"}
        hosts = self.cluster.root / "hosts.yml"
        hosts.write_text("all: {children: {zones: {hosts: {here: {ansible_connection: local}}}}}\n")
        command = [str(ROOT / ".venv/bin/ansible-playbook"), str(playbook), "-i", str(hosts), "-e", json.dumps(given), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.cluster.root.glob("evidence/*/record.json"))]

    def address(self, name: str) -> dict[str, Any]:
        return {"name": name, "host": "localhost", "address": "127.0.0.1", "port": self.cluster.nodes[name].port}


class Repository:
    """restic's own, on this machine: what differs from the deployment's is the way to it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        (place / "repository").write_text(str(place / "kept"))
        for name in ("right", "wrong"):
            (place / name).write_text(name)
        subprocess.run([*self.restic()[:-1], "init"], check=True, capture_output=True)

    def restic(self, password: str = "right") -> list[str]:
        given = {"repository-file": self.place / "repository", "password-file": self.place / password, "cache-dir": self.place / "cache"}
        return ["restic", *[f"--{name}={value}" for name, value in given.items()], "--quiet", "--no-lock"]

    def keep(self, store: Path) -> None:
        subprocess.run(
            [*self.restic()[:-1], "backup", "--tag", store.name, f"{store}/sets", f"{store}/files"], check=True, capture_output=True
        )


class FarRepository(Repository):
    """The same on another machine, reached by the files and the program of role backup."""

    def __init__(self, place: Path, server: Sshd | S3) -> None:
        place.mkdir()
        self.host = Host(place, server.url, server.let_in(place), server.ca)
        code, said = self.host.play("access", "repository")
        assert code == 0, said

    def restic(self, password: str = "right") -> list[str]:
        (self.host.access / "password").write_text(RIGHT if password == "right" else password)
        return [str(self.host.programs / "holdfast-restic"), str(self.host.access), "--quiet", "--no-lock"]


@contextlib.contextmanager
def repository(kind: str, place: Path) -> Iterator[Repository]:
    if kind == "here":
        yield Repository(place)
    else:
        with served(kind) as server:
            yield FarRepository(place, server)


@contextlib.contextmanager
def running(place: Path) -> Iterator[Restores]:
    """Three nodes whose files tell the time of each command, until the end of the block."""
    cluster = Cluster(place)
    for node in cluster.nodes.values():
        node.extra = ["aof-timestamp-enabled yes"]
    try:
        cluster.start()
        made = Restores(cluster)
        yield made
        made.stop()
    finally:
        cluster.stop()


@contextlib.contextmanager
def west_fenced(place: Path, docker: Path, epoch: int) -> Iterator[None]:
    """Until the end of the block, the played containers know of another region, whose nodes are fenced at this epoch."""
    nodes = [Node(name, place / name) for name in ("db_g1", "db_g2", "db_g3")]
    told = json.loads((docker / "told.json").read_text())
    peers = ",".join(f"{node.name}=127.0.0.1:{node.port}" for node in nodes)
    (docker / "told.json").write_text(json.dumps(told | {"env": told["env"] | {"PEER_NODES": peers}}))
    try:
        for node in nodes:
            node.start()
            guard = {"state": "fenced", "region": "west", "node": node.name, "region_epoch": epoch, "membership_epoch": 1}
            node.client().hset("holdfast:guard", mapping=guard | {"incarnation": "f" * 32})
        yield
    finally:
        for node in nodes:
            node.kill()
        (docker / "told.json").write_text(json.dumps(told))


__all__ = [
    "KINDS",
    "ROOT",
    "Cluster",
    "Repository",
    "Restores",
    "moment",
    "next_second",
    "repository",
    "running",
    "wait_for",
    "west_fenced",
]

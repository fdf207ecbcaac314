"""The runbooks restore_region and restore_key at work on three real nodes, each of which is a host of its own to Ansible.

The containers are played by a script, as in restores.py: it runs holdfast from this checkout and Redis as the nodes' images do. There is no
standby region, and clients reach the service without an edge.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from backups import Backups
from cluster import PASSWORD, TOKENS, App, wait_for
from restored import Restorable  # the integration tests' region
from restores import ROOT

IMAGE = "holdfast@sha256:0"
DOCKER = r"""#!/usr/bin/python3
import json, os, pathlib, signal, subprocess, sys, time
place = pathlib.Path(__file__).parent
told = json.loads((place / "told.json").read_text())
with (place / "calls").open("a") as out:
    out.write(" ".join(sys.argv[1:]) + "\n")
verb, words = sys.argv[1], sys.argv[2:]
# With the file there, somebody takes the lock over while this is done.
thief = json.loads((place / "thief").read_text()) if (place / "thief").exists() else {}
if thief and thief["at"] in " ".join(sys.argv[1:]):
    lock = pathlib.Path(thief["lock"])
    (place / str(os.getpid())).write_text(json.dumps(json.loads(lock.read_text()) | {"run": "another", "holder": "somebody"}))
    (place / str(os.getpid())).rename(lock)
def holdfast(arguments):
    env = told["env"] | {"PYTHONPATH": told["src"]}
    # Nodes that a fence does not reach, until somebody asks after it; with "mute" there, nobody is answered then.
    missed = (place / "missed").read_text().split() if arguments[:2] == ["region", "fence"] and (place / "missed").exists() else []
    for nobody, name in enumerate(missed, 1):
        env["NODES"] = env["NODES"].replace(f":{told['ports'][name]}", f":{nobody}")
        (place / "has_missed").touch()
    if arguments[:2] == ["region", "status"] and (place / "has_missed").exists():
        if (place / "mute").exists():
            sys.exit("nobody answers")
        (place / "missed").unlink(missing_ok=True)
        (place / "has_missed").unlink(missing_ok=True)
    # An adoption that is cut off: a program that ends as the command does.
    cut = arguments[:2] == ["region", "adopt"] and (place / "cut").exists()
    launch = [str(place / "cut")] if cut else ["-m", "holdfast"]
    sys.exit(subprocess.run([told["python"], *launch, *arguments], env=env, cwd="/").returncode)
def pid_of(name):
    return place / f"{name}.pid"
def running(name):
    return pid_of(name).exists() and pathlib.Path("/proc", pid_of(name).read_text().strip(), "exe").exists()
def stop(name):
    if running(name):
        os.kill(int(pid_of(name).read_text()), signal.SIGTERM)
        while running(name):
            time.sleep(0.02)
match verb:
    case "run" if "--detach" in words:
        name = next(w for w in words if w.startswith("--name=")).split("=")[1]
        options = words[words.index(told["image"]) + 1 :]
        own = ["--daemonize", "yes", "--pidfile", str(pid_of(name)), "--logfile", str(place / "private.log")]
        subprocess.run(["redis-server", *options, *own], check=True)
    case "run":
        holdfast(words[words.index(told["image"]) + 1 :])
    case "exec" if words[0].startswith(("app_cp_", "backup_")):
        holdfast(words[2:])
    case "exec":
        if not running(words[0]):
            sys.exit("the container is not running")
        if "-s" in words:
            sys.exit(subprocess.run(["redis-cli", *words[2:]]).returncode)
        to = ["-h", "127.0.0.1", "-p", str(told["ports"][words[0]]), "--user", "tester", "--no-auth-warning"]
        sys.exit(subprocess.run(["redis-cli", *to, *words[2:]], env=os.environ | {"REDISCLI_AUTH": told["password"]}).returncode)
    case "inspect" if "HostConfig.Memory" in words[1]:
        print(told["image"], 0)
    case "inspect" if "State.Status" in words[1]:
        looks = words[-1].startswith("backup_") and not (place / "no_watch").exists()
        print("running" if looks or running(words[-1]) else "exited")
    case "inspect":
        print("/app_cp_1 then")
    case "ps" | "logs":
        pass
    case "stop" if (place / "busy").exists() and words[-1] == (place / "busy").read_text():
        sys.exit("the daemon is busy")
    case "stop":
        stop(words[-1])
    case "rm":
        sys.exit(0 if words[-1].startswith("restored_") else "only private ones are removed")
    case "start" if (place / "stuck").exists() and words[-1] == (place / "stuck").read_text():
        sys.exit("the daemon does not answer")
    case "start":
        if not running(words[-1]):
            subprocess.run(["redis-server", str(place / f"{words[-1]}.conf")], check=True, stdout=subprocess.DEVNULL)
"""


class RestoredRegion:
    def __init__(self, root: Path) -> None:
        self.region = Restorable(root / "east")
        self.root, self.place, self.data, self.store = root, root / "docker", root / "redis", root / "backup"
        for path in (self.place, self.data, self.store, root / "evidence"):
            path.mkdir()
        self.region.start()
        for name, node in self.region.nodes.items():
            node.kill()
            shutil.move(node.directory / "data", self.data / name)
            (self.data / name / ".node-id").write_text(f"{name}\n")
            self.region.stores[name].data, self.region.stores[name].store = self.data / name, self.store / name
            lines = [ln for ln in (node.directory / "redis.conf").read_text().splitlines() if not ln.startswith(("dir ", "daemonize"))]
            lines += [f"dir {self.data / name}", "daemonize yes", f"pidfile {self.place}/{name}.pid", f"logfile {self.place}/{name}.log"]
            (self.place / f"{name}.conf").write_text("\n".join(lines) + "\n")
        told = {"image": IMAGE, "ports": {n: node.port for n, node in self.region.nodes.items()}, "password": PASSWORD}
        told |= {"env": self.region.env("cp"), "src": str(ROOT / "app/src"), "python": sys.executable}
        (self.place / "told.json").write_text(json.dumps(told))
        (self.place / "docker").write_text(DOCKER)
        (self.place / "docker").chmod(0o755)
        for name, node in self.region.nodes.items():
            self.docker("start", name)
            node.wait()
        for name in self.region.nodes:
            self.region.run("replicate", "ap", name)
        self.cp, self.ap = self.region.run("serve", "cp"), self.region.run("serve", "ap")
        (root / "token").write_text(TOKENS["boss"])
        (root / "hosts.yml").write_text(json.dumps(self.inventory()))
        wait_for("both serve", lambda: self.cp.ready() and self.ap.ready())

    def stop(self) -> None:
        self.region.stop()
        for name in self.region.nodes:
            self.docker("stop", name)

    def docker(self, *arguments: str) -> str:
        done = subprocess.run([str(self.place / "docker"), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inventory(self) -> dict[str, Any]:
        nodes = [{"name": n, "host": f"host-{n}", "address": "127.0.0.1", "port": node.port} for n, node in self.region.nodes.items()]
        hosts = {
            n["host"]: {"restore_host_nodes": [n], "restore_region_host_nodes": [n], "evidence_lock_file": f"{self.root}/{n['name']}.lock"}
            for n in nodes
        }
        variables = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "region": "east",
            "region_other": "west",
            "region_nodes": nodes,
            "region_export_file": f"{self.root}/none",
            "restore_region_nodes": nodes,
            "restore_region_data_directory": str(self.data),
            "restore_peers": [],
            "restore_image": IMAGE,
            "restore_data_directory": str(self.data),
            "restore_store_directory": str(self.store),
            "restore_start_timeout_seconds": 20,
            "evidence_directory": f"{self.root}/evidence",
            "drill_directory": "{{ evidence_directory }}/{{ (lookup('ansible.builtin.env', 'HOLDFAST_RUN') | from_json).name }}",
            "drill_urls": {"cp": f"http://127.0.0.1:{self.cp.port}", "ap": f"http://127.0.0.1:{self.ap.port}"},
            "drill_ca_file": "",
            "drill_authorization_file": f"{self.root}/token",
        }
        return {"all": {"vars": variables, "children": {"zones": {"hosts": hosts}}}}

    def play(self, runbook: str, *more: str, **variables: Any) -> tuple[int, str]:
        """(exit code, what it wrote, with single blanks)."""
        given = {"reason": "a test of the runbook", "__restore_region_records": f"{self.root}/restored", **variables}
        given["__drill_client_arguments"] = [f"--token-file={self.root}/token"]  # no TLS here, and no names
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        env |= {"PATH": f"{self.place}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STRATEGY": "linear"}
        command = [str(ROOT / ".venv/bin/ansible-playbook"), f"runbooks/{runbook}.yml", "-i", str(self.root / "hosts.yml")]
        done = subprocess.run([*command, "-e", json.dumps(given), *more], cwd=ROOT, env=env, capture_output=True, text=True)
        return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)

    def runs(self) -> list[str]:
        """Names of the runs that left a record, oldest first."""
        return sorted(path.parent.name for path in (self.root / "evidence").glob("*/record.json"))

    def record(self) -> dict[str, Any]:
        """Of the newest run."""
        held: dict[str, Any] = json.loads((self.root / "evidence" / self.runs()[-1] / "record.json").read_text())
        return held

    def made(self) -> list[str]:
        """Data directories beside the nodes'."""
        return sorted(path.name for path in (self.data / ".restore").glob("db_*"))

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.data.iterdir() if ".before-" in path.name)


__all__ = ["App", "Backups", "RestoredRegion", "wait_for"]

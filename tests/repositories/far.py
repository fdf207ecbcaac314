"""Role backup's own tasks and programs at work on this machine, with their files below a directory instead of /."""

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "the password of the repositories, 32 and more"

#: What is asked of docker: a backup that was collected, a restore and its verification. What a drill hands over is kept for a look.
DOCKER = """#!/bin/sh
case " $* " in
*" collect "*) echo '{"event": "BACKUP_COLLECTED", "moment": "2026-05-01T10:14:59Z"}' ;;
*" --into "*)
    for word in "$@"; do case "$word" in *:/scratch) cp -a "${word%:/scratch}/store" "$0.drilled" ;; esac; done
    echo '{"event": "BACKUP_RESTORED", "moment": "2026-05-01T10:14:59Z", "bytes": 5, "seconds": 0.1}' ;;
*" verify "*) echo '{"event": "BACKUP_VERIFIED", "keys": 3, "same": 3, "younger": 0, "census": "c", "load_sec": [0.1, 0.1, 0.1]}' ;;
esac
"""
TASKS = "- hosts: all\n  gather_facts: false\n  tasks:\n"


def load(name: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "roles/backup/files" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Host:
    """A host, or the operations host, with role backup's files under `place` instead of / and docker played by a script."""

    def __init__(self, place: Path, repository: str, access: dict[str, Any], ca: str = "") -> None:
        self.place, self.access, self.programs = place, place / "access", place / "programs"
        self.variables = {
            "backup_repository": repository,
            "backup_access": access,
            "backup_ca_file": ca,
            "backup_repository_password": PASSWORD,
            "backup_server_secret": "a secret that only the control machine has, 32",
            "__backup_programs": str(self.programs),
            "__backup_access_directory": str(self.access),
            "__backup_packages": {"changed": False},
            "ansible_python_interpreter": sys.executable,
        }
        for directory in (self.programs, place / "bin", place / "metrics", place / "store/db_g1/sets", place / "store/db_g1/files"):
            directory.mkdir(parents=True)
        (place / "bin/docker").write_text(DOCKER)
        (place / "bin/docker").chmod(0o755)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "RESTIC_", "AWS_"))}
        self.env |= {"PATH": f"{place}/bin:{ROOT}/.venv/bin:{os.environ['PATH']}", "CACHE_DIRECTORY": f"{place}/cache"}

    def play(self, *verbs: str, check: bool = False, **variables: Any) -> tuple[int, str]:
        """Run these task files of the role, one after the other, on a host `a1`."""
        (self.place / "play.yml").write_text(
            TASKS + "".join(f"    - ansible.builtin.import_role: {{name: backup, tasks_from: {verb}}}\n" for verb in verbs)
        )
        (self.place / "hosts.yml").write_text("all: {hosts: {a1: {ansible_connection: local}}}\n")
        given = ["-e", json.dumps(self.variables | variables), *(["--check"] if check else [])]
        command = [str(ROOT / ".venv/bin/ansible-playbook"), str(self.place / "play.yml"), "-i", str(self.place / "hosts.yml"), *given]
        env = self.env | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_STRATEGY": "linear"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)

    def restic(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As somebody on the host would call it."""
        command = [str(self.programs / "holdfast-restic"), str(self.access), *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True)

    def snapshots(self) -> list[str]:
        done = self.restic("snapshots", "--json", "--no-lock")
        assert done.returncode == 0, done.stderr
        return [snapshot["short_id"] for snapshot in json.loads(done.stdout)]

    def program(self, name: str, monkeypatch: Any, **settings: Any) -> ModuleType:
        """holdfast-backup or holdfast-backup-keep, with the files that the role has written here."""
        module = load(name)
        for variable in ("PATH", "CACHE_DIRECTORY"):
            monkeypatch.setenv(variable, self.env[variable])
        (self.place / "settings.json").write_text(json.dumps(settings | {"metrics_directory": f"{self.place}/metrics"}))
        (self.place / "password").write_text(PASSWORD)
        places = {"SETTINGS": "settings.json", "STATE": "state", "PASSWORD": "password", "LOCK": "lock", "SCRATCH": "scratch"}
        for constant, file in places.items():
            monkeypatch.setattr(module, constant, self.place / file, raising=False)
        monkeypatch.setattr(module, "ACCESS", str(self.access), raising=False)
        monkeypatch.setattr(module, "RESTIC", str(self.programs / "holdfast-restic"), raising=False)
        monkeypatch.setattr(module, "ELSEWHERE", [str(self.programs / "holdfast-restic"), str(self.access)], raising=False)
        return module

    def backup(self, monkeypatch: Any) -> int:
        """One backup of db_g1, as the timer makes it."""
        settings = {"host": "a1", "data": "/nowhere", "store": f"{self.place}/store", "census_hours": 20, "local_hours": 72}
        return int(self.program("holdfast-backup", monkeypatch, **settings).main("db_g1"))

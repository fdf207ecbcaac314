#!/usr/bin/python
"""What there is to restore for one node, and whether it can be: looks only, and says cause and cure where it cannot."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: restore_find
short_description: Finds the backup of a node for a moment, on its host or in the repository
description: Changes nothing. Of a backup in the repository only the list of its files is read, into a directory that is removed again.
options:
  node: {type: str, required: true, description: Name of the node.}
  to: {type: str, required: true, description: "A moment as 2026-05-01T10:14:59Z, newest, or nothing for an empty node."}
  source: {type: str, choices: [host, repository], required: true, description: Where to look first.}
  data: {type: path, required: true, description: Directory with the nodes' data directories.}
  store: {type: path, required: true, description: Directory with the nodes' backups.}
  place: {type: path, required: true, description: Where the restored files will be made.}
  records: {type: path, default: /etc/holdfast/redis, description: Where the hosts' records of their nodes are.}
  container: {type: list, elements: str, required: true, description: Options of the container that runs holdfast.}
  image: {type: str, required: true, description: The service's image.}
  restic: {type: list, elements: str, required: true, description: How restic is called.}
author: Holdfast
"""
EXAMPLES = "- restore_find: {node: db_g1, to: newest, source: host, data: /srv/holdfast/redis, ...}"
RETURN = """
found:
  type: dict
  returned: success
  description: "node, source (host, repository, nothing), snapshot and its store, moment, bytes, region_epoch, needed_bytes, free_bytes."
"""

OWNER = 10002
#: As `holdfast backup restore` reckons.
SPARE_SHARE, SPARE_BYTES = 0.1, 16 * 1024 * 1024
#: restic's exit codes.
NO_REPOSITORY, WRONG_PASSWORD = 10, 12


#: What a restore of nothing needs.
NOTHING = {"source": "nothing", "snapshot": "", "store": "", "moment": "", "bytes": 0, "region_epoch": 0, "copied_bytes": 0}


class Refused(Exception):
    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause}. Nothing was changed. Cure: {cure}.")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    except FileNotFoundError:
        raise Refused(f"{command[0]} is not installed", "run playbooks/site.yml, and playbooks/backup.yml") from None


def last_words(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Cause and cure, if it told them in a line of JSON."""
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            told = json.loads(line)
            if "why" in told:
                return told["why"], told.get("cure", "see its log")
    lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or f"it ended with {done.returncode} and said nothing", "look at this message"


def check_node(wanted: dict[str, Any]) -> None:
    """The node has run here, plays the part of a primary, and nobody else restores it."""
    node = wanted["node"]
    if run(["docker", "inspect", "--format", "{{.State.Status}}", node]).returncode != 0:
        cure = f'run playbooks/zones.yml with --limit HOST and -e \'{{"redis_node_replace_lost": ["{node}"]}}\', and then this again'
        raise Refused(f"{node} has no container on this host", cure)
    part = Path(wanted["records"]) / node / "role"
    if part.exists() and part.read_text().strip() == "replica":
        raise Refused(f"{node} follows its namesake in the other region", "runbooks/dr_follow.yml fills it anew from there")
    lock = Path(wanted["place"]) / f".{node}.restore.lock"
    if lock.exists():
        with lock.open() as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                raise Refused(f"another restore of {node} is running", "wait until it is through") from None


def seconds(stamp: str) -> float:
    """Of restic's times, which have up to nine digits of a second, and of moments."""
    return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", stamp)).timestamp()


def shown(stamp: str) -> str:
    return datetime.fromtimestamp(seconds(stamp), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def choose(snapshots: list[dict[str, Any]], to: str) -> list[dict[str, Any]]:
    """The copies worth a look, the best first: for a moment the second one made after it, as the first may have been collected before."""
    ordered = sorted(snapshots, key=lambda snapshot: seconds(snapshot["time"]))
    if to == "newest":
        return ordered[-1:]
    later = [snapshot for snapshot in ordered if seconds(snapshot["time"]) > seconds(to)]
    return [*later[1:2], *later[:1]]


class Find:
    def __init__(self, wanted: dict[str, Any]) -> None:
        self.wanted, self.node, self.to = wanted, wanted["node"], wanted["to"]
        self.store = Path(wanted["store"]) / self.node

    def look(self) -> dict[str, Any]:
        """Raises Refused."""
        check_node(self.wanted)
        found: dict[str, Any] = {"node": self.node, **NOTHING}
        if self.to == "nothing":
            pass
        elif self.wanted["source"] == "host" and any((self.store / "sets").glob("[0-9]*.json")):
            found |= {"source": "host", "store": str(self.store), **self.plan(self.store, self.store)}
        else:
            found |= {"source": "repository", **self.from_repository()}
        needed = int(found["bytes"] * (1 + SPARE_SHARE)) + SPARE_BYTES + found["copied_bytes"]
        return found | {"needed_bytes": needed, "free_bytes": shutil.disk_usage(self.wanted["data"]).free}

    def plan(self, store: Path, mounted: Path) -> dict[str, Any]:
        """``store``: as the container sees it below ``mounted``."""
        command = ["docker", "run", "--rm", *self.wanted["container"], f"--volume={mounted}:{mounted}:ro", self.wanted["image"]]
        done = run([*command, "backup", "plan", "--store", str(store), "--to", self.to])
        if done.returncode != 0:
            raise Refused(*last_words(done))
        told = json.loads(done.stdout.splitlines()[-1])
        return {"moment": told["moment"], "bytes": told["bytes"], "region_epoch": region_epoch(store, told["moment"])}

    def restic(self, *arguments: str) -> str:
        done = run([*self.wanted["restic"], *arguments])
        if done.returncode == WRONG_PASSWORD or "wrong password" in done.stderr:
            cure = "set backup_repository_password to the one it was made with (a copy is kept elsewhere) and run playbooks/backup.yml"
            raise Refused("the repository's password on this host is wrong", cure)
        if done.returncode == NO_REPOSITORY:
            raise Refused("this host has no repository yet", "run playbooks/backup.yml; there is nothing to restore from")
        if done.returncode != 0:
            raise Refused(f"the repository cannot be read: {last_words(done)[0]}", "look at the server that backup_repository names")
        return done.stdout

    def from_repository(self) -> dict[str, Any]:
        # The program that starts restic, and what it knows of the repository.
        if not all(os.path.exists(word) for word in self.wanted["restic"] if word.startswith("/")):
            raise Refused(
                f"there is no backup of {self.node} here, and no access to the repository",
                "run playbooks/backup.yml; or let the other nodes fill it (to=nothing)",
            )
        snapshots = json.loads(self.restic("snapshots", "--json", "--tag", self.node) or "[]")
        if not snapshots:
            raise Refused(f"there is no backup of {self.node} in this host's repository", "let the other nodes fill it (to=nothing)")
        newest = max((snapshot["time"] for snapshot in snapshots), key=seconds)
        if not (candidates := choose(snapshots, self.to)):
            raise Refused(f"{self.to} is after the newest backup ({shown(newest)})", "choose an earlier moment, or newest")
        refusal: Refused | None = None
        for snapshot in candidates:
            store = os.path.commonpath(snapshot["paths"])
            with scratch() as place:
                self.restic("restore", snapshot["id"], "--include", f"{store}/sets", "--target", str(place))
                run(["chown", "-R", f"{OWNER}:{OWNER}", str(place)])
                try:
                    planned = self.plan(Path(f"{place}{store}"), place)
                except Refused as why:
                    refusal = refusal or why
                    continue
            copied = snapshot.get("summary", {}).get("total_bytes_processed", 2 * planned["bytes"])
            return {"snapshot": snapshot["id"], "store": store, "copied_bytes": copied, **planned}
        assert refusal
        raise refusal


def region_epoch(store: Path, moment: str) -> int:
    """What the first backup that was made at that moment or later says; 0 if it does not."""
    for path in sorted((store / "sets").glob("[0-9]*.json")):
        with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
            made = json.loads(path.read_text().splitlines()[1])
            if made["moment"] >= seconds(moment):
                return int(made["facts"]["guard"]["region_epoch"])
    return 0


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="holdfast-restore-") as place:
        yield Path(place)


def main() -> None:
    texts = {name: {"type": "str", "required": True} for name in ("node", "to", "image")}
    paths = {name: {"type": "path", "required": True} for name in ("data", "store", "place")}
    lists = {name: {"type": "list", "elements": "str", "required": True} for name in ("container", "restic")}
    source = {"source": {"type": "str", "choices": ["host", "repository"], "required": True}}
    records = {"records": {"type": "path", "default": "/etc/holdfast/redis"}}
    module = AnsibleModule(argument_spec={**texts, **paths, **lists, **source, **records}, supports_check_mode=True)
    try:
        module.exit_json(changed=False, found=Find(module.params).look())
    except Refused as why:
        module.fail_json(msg=str(why))


if __name__ == "__main__":
    main()

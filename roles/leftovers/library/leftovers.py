#!/usr/bin/python
"""What lies on a host and belongs to no node of the inventory: lists it with size and age, and removes what is named."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: leftovers
short_description: Lists, and removes by name, data, backups, volumes and images that nothing uses
description: What a container has mounted or runs from, or a node of the inventory owns, is never listed; only what is listed is removed.
options:
  nodes: {type: list, elements: str, required: true, description: Names of the host's nodes.}
  data: {type: path, required: true, description: Directory with the nodes' data directories.}
  store: {type: path, required: true, description: Directory with the nodes' backups.}
  images: {type: list, elements: str, required: true, description: Images of the inventory, by digest.}
  remove: {type: list, elements: str, default: [], description: "What to remove, each as listed."}
author: Holdfast
"""
EXAMPLES = "- leftovers: {nodes: [db_g1], data: /srv/holdfast/redis, store: /srv/holdfast/backup, images: []}"
RETURN = """
leftovers: {type: list, elements: dict, returned: success, description: "What is there: name, what, bytes, days."}
removed: {type: list, elements: str, returned: success, description: What was removed.}
"""
KEPT = ".before-"
#: Where restores make their directories.
PLACE = ".restore"
DAY = 86400


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode != 0:
        raise OSError(f"{' '.join(command[:3])}: {done.stderr.strip()}")
    return done.stdout


def inspected(kind: str, names: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("docker", kind, "inspect", *names)) if names else []
    return found


def size_of(path: Path) -> int:
    """Bytes on disk; a file with more than one name is counted, as removing it here may free nothing."""
    total = 0
    for where, _folders, files in os.walk(path):
        total += sum(os.lstat(Path(where, name)).st_blocks * 512 for name in files)
    return total


class Host:
    def __init__(self, wanted: dict[str, Any]) -> None:
        self.nodes, self.images = set(wanted["nodes"]), set(wanted["images"])
        self.data, self.store = Path(wanted["data"]), Path(wanted["store"])
        self.containers = inspected("container", run("docker", "ps", "--all", "--quiet", "--no-trunc").split())
        self.mounted = [Path(mount["Source"]) for one in self.containers for mount in one["Mounts"] if mount.get("Source")]

    def leftovers(self) -> list[dict[str, Any]]:
        return [*self._directories(), *self._volumes(), *self._images()]

    def _directories(self) -> Iterator[dict[str, Any]]:
        for path in self._folders(self.data):
            before = path.name.split(KEPT)[0]
            if KEPT in path.name:
                yield self._directory(path, f"data of {before}, kept by run {path.name.split(KEPT, 1)[1]}")
            elif path.name not in self.nodes and any((path / name).exists() for name in (".node-id", "appendonlydir")):
                yield self._directory(path, f"data of {path.name}, which is no node of this host")
        place = self.data / PLACE
        for path in self._folders(place):
            if not self._is_being_made(place, path.name.removeprefix(".").split(".")[0]):
                yield self._directory(path, "left by a restore that was interrupted")
        for path in self._folders(self.store):
            if path.name not in self.nodes and any((path / name).is_dir() for name in ("sets", "files", "held")):
                yield self._directory(path, f"backups of {path.name}, which is no node of this host")

    def _folders(self, place: Path) -> list[Path]:
        """Directories themselves, no links to them, in which nothing is that a container has mounted."""
        # A private Redis has the whole place mounted and runs on a directory in it: which one, nobody says.
        if not place.is_dir() or (place.name == PLACE and place in self.mounted):
            return []
        found = [path for path in sorted(place.iterdir()) if path.is_dir() and not path.is_symlink() and not os.path.ismount(path)]
        return [path for path in found if not any(used == path or path in used.parents for used in [*self.mounted, self.store])]

    @staticmethod
    def _is_being_made(place: Path, node: str) -> bool:
        lock = place / f".{node}.restore.lock"
        if not lock.exists():
            return False
        with lock.open() as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @staticmethod
    def _directory(path: Path, what: str) -> dict[str, Any]:
        return {"name": f"directory {path}", "what": what, "bytes": size_of(path), "days": int((time.time() - path.stat().st_mtime) / DAY)}

    def _volumes(self) -> Iterator[dict[str, Any]]:
        for one in inspected("volume", run("docker", "volume", "ls", "--quiet", "--filter", "dangling=true").split()):
            what = "volume that no container has"
            yield {"name": f"volume {one['Name']}", "what": what, "bytes": size_of(Path(one["Mountpoint"])), "days": age(one["CreatedAt"])}

    def _images(self) -> Iterator[dict[str, Any]]:
        used = {one["Image"] for one in self.containers}
        for one in inspected("image", sorted(set(run("docker", "image", "ls", "--quiet", "--no-trunc").split()))):
            if one["Id"] not in used and not self.images & set(one["RepoDigests"]):
                name = ([*one["RepoDigests"], *one["RepoTags"], one["Id"]])[0]
                yield {"name": f"image {name}", "what": "image that nothing runs", "bytes": one["Size"], "days": age(one["Created"])}

    def remove(self, name: str) -> None:
        kind, what = name.split(" ", 1)
        if kind == "directory":
            shutil.rmtree(what)
        elif kind == "volume":
            run("docker", "volume", "rm", what)
        else:
            [one] = inspected("image", [what])
            for known in [*one["RepoTags"], *one["RepoDigests"]] or [one["Id"]]:
                run("docker", "image", "rm", known)


def age(stamp: str) -> int:
    """Days since a time of Docker's, which has up to nine digits of a second."""
    return int((time.time() - datetime.fromisoformat(stamp[:19] + "+00:00").timestamp()) / DAY)


def main() -> None:
    lists = {name: {"type": "list", "elements": "str", "required": True} for name in ("nodes", "images")}
    paths = {name: {"type": "path", "required": True} for name in ("data", "store")}
    remove = {"remove": {"type": "list", "elements": "str", "default": []}}
    module = AnsibleModule(argument_spec={**lists, **paths, **remove}, supports_check_mode=True)
    wanted = module.params
    try:
        host = Host(wanted)
        there = host.leftovers()
        if unknown := [name for name in wanted["remove"] if name not in [one["name"] for one in there]]:
            module.fail_json(
                msg=f"Not among the leftovers, or in use by now: {', '.join(unknown)}. Nothing was removed. Name each exactly as listed."
            )
        if not module.check_mode:
            for name in wanted["remove"]:
                host.remove(name)
    except OSError as why:
        module.fail_json(msg=f"{why}. What stands before it in remove is gone, the rest is as it was.")
    module.exit_json(changed=bool(wanted["remove"]), leftovers=there, removed=wanted["remove"])


if __name__ == "__main__":
    main()

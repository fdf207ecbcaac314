"""Two regions of three nodes each: west is active, the nodes of east are replicas of its nodes of the same names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import PASSWORD, Cluster, Tls, wait_for
from lag_proxy import Path as Cable
from lag_proxy import Proxies

NAMES = ("db_g1", "db_g2", "db_g3")
#: What the documents call "within seconds": each process looks at the other region once a second.
WITHIN_SECONDS = 10
FAST = ["repl-diskless-sync-delay 0", "repl-ping-replica-period 1", "repl-timeout 5"]


class Region(Cluster):
    """``peers``: where its processes look for the other region's nodes, none: they know of no other region."""

    def __init__(self, root: Path, name: str, tls: Tls | None = None) -> None:
        root.mkdir()
        super().__init__(root, tls)
        self.name = name
        self.peers: dict[str, int] = {}
        for node in self.nodes.values():
            node.extra = list(FAST)

    def env(self, mode: str, local: str = "db_g1", **extra: str) -> dict[str, str]:
        peers = ",".join(f"{n}=127.0.0.1:{port}" for n, port in self.peers.items())
        return super().env(mode, local, **{"REGION": self.name, "PEER_NODES": peers, **extra})

    def region(
        self, *arguments: str, launch: tuple[str, ...] = ("-m", "holdfast"), **extra: str
    ) -> tuple[int, dict[str, Any], str]:
        done = subprocess.run(
            [sys.executable, *launch, "region", *arguments],
            env=self.env("cp", **extra),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 1, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr

    def guard(self, name: str) -> dict[str, str]:
        held = self.nodes[name].client().hgetall("holdfast:guard")
        return {k.decode(): v.decode() for k, v in held.items()}

    def states(self) -> list[str]:
        return [self.guard(n).get("state", "") for n in NAMES]

    def kill_nodes(self) -> None:
        for node in self.nodes.values():
            node.kill()


class Regions:
    """``cables``: from each node of east to its primary; ``to_west``, ``to_east``: from processes to the other
    region."""

    def __init__(self, root: Path) -> None:
        self.proxies = Proxies()
        self.west, self.east = Region(root / "west", "west"), Region(root / "east", "east")
        self.cables: dict[str, Cable] = {n: self.proxies.path(self.west.nodes[n].port) for n in NAMES}
        self.to_west: dict[str, Cable] = {n: self.proxies.path(self.west.nodes[n].port) for n in NAMES}
        self.to_east: dict[str, Cable] = {n: self.proxies.path(self.east.nodes[n].port) for n in NAMES}
        self.west.peers = {n: c.port for n, c in self.to_east.items()}
        self.east.peers = {n: c.port for n, c in self.to_west.items()}

    def start(self) -> None:
        self.west.start()
        for name, node in self.east.nodes.items():
            node.extra = [
                *FAST,
                f"replicaof 127.0.0.1 {self.cables[name].port}",
                "masteruser tester",
                f"masterauth {PASSWORD}",
                "replica-serve-stale-data no",
                "replica-read-only yes",
            ]
            node.start(wait=False)
        for name in NAMES:
            wait_for(f"{name} is a copy", lambda n=name: self.linked(n))

    def stop(self) -> None:
        self.west.stop()
        self.east.stop()
        self.proxies.stop()

    def linked(self, name: str) -> bool:
        """Connected, and it has all that its primary has."""
        try:
            here = self.east.nodes[name].client().info("replication")
            there = self.west.nodes[name].client().info("replication")
        except Exception:
            return False
        return here.get("master_link_status") == "up" and here["slave_repl_offset"] == there["master_repl_offset"]

    def in_step(self) -> None:
        for name in NAMES:
            wait_for(f"{name} is in step", lambda n=name: self.linked(n))

    def cut_regions(self, cut: bool = True) -> None:
        """Between processes and the other region's nodes, both ways."""
        for cable in (*self.to_west.values(), *self.to_east.values()):
            cable.cut = cut

    def cut_loose(self) -> None:
        """REPLICAOF NO ONE on all nodes of east; a restart must not make them replicas again."""
        for node in self.east.nodes.values():
            node.client().execute_command("REPLICAOF", "NO", "ONE")
            node.extra = list(FAST)

    def fail_over(self, epoch: int = 2, *more: str) -> None:
        self.cut_loose()
        code, told, words = self.east.region("promote", "--epoch", str(epoch), *more)
        assert code == 0, (told, words)

"""A region whose nodes are backed up and put back to one moment, all or some of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from backups import Backups, next_second
from regions import FAST, NAMES, Region


class Restorable(Region):
    """Its files tell the time. ``stores``: the backups of each node."""

    def __init__(self, root: Path, name: str = "east") -> None:
        super().__init__(root, name)
        self.stores = {n: Backups(self, root / "stores" / n, n) for n in NAMES}
        (root / "stores").mkdir()
        for node in self.nodes.values():
            node.extra = [*FAST, "aof-timestamp-enabled yes"]

    def moment_between(self) -> int:
        """Two seconds pass; what was acknowledged before is in a restore to the answer, what begins now is not."""
        moment = int(next_second()) + 1
        time.sleep(max(0.0, moment + 1.05 - time.time()))
        return moment

    def collect(self, names: tuple[str, ...] = NAMES) -> None:
        next_second()
        for name in names:
            done = self.stores[name].collect()
            assert done.code == 0, done.events

    def fence(self, epoch: int) -> None:
        code, told, words = self.region("fence", "--epoch", str(epoch), "--reason", "before a restore")
        assert code == 0, (told, words)

    def put_back(self, name: str, moment: float) -> None:
        """Stops the node, keeps its data aside, starts it on what is restored."""
        store, node = self.stores[name], self.nodes[name]
        into = self.root / f"{name}.{moment}"
        done = store.restore(moment, into)
        assert done.code == 0, done.events
        node.kill()
        store.data.rename(self.kept(name))
        into.rename(store.data)
        node.start()

    def kept(self, name: str) -> Path:
        return self.nodes[name].directory / "data.before"

    def take_back(self, name: str) -> None:
        """The inverse of ``put_back``; one node as the role `restore` does it, marked as not voting."""
        if name == "db_g2":
            assert self.stores[name].run("mark", "--directory", self.kept(name)).code == 0
        self.nodes[name].kill()
        shutil.rmtree(self.stores[name].data)
        self.kept(name).rename(self.stores[name].data)
        self.nodes[name].start()

    def adopt(self, epoch: int, *more: str) -> dict[str, object]:
        code, told, words = self.region("adopt", "--epoch", str(epoch), *more)
        assert code == 0, (told, words)
        return told

    def command(self, *words: str) -> str:
        """What a command of the service wrote, however it ended."""
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", *words], env=self.env("cp"), capture_output=True, text=True, timeout=60
        )
        return done.stdout + done.stderr

    def holding(self, text: str) -> list[str]:
        """What of all nodes' data holds ``text`` anywhere."""
        found = []
        for name, node in self.nodes.items():
            client = node.client()
            for key in client.scan_iter("*"):
                if client.type(key) == b"hash" and text.encode() in b" ".join(client.hgetall(key).values()):
                    found.append(f"{name} {key.decode()}")
        return found

"""What is measured: the service on three real nodes, an empty Flask route on its server, etcd, webdis."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))
from cluster import SRC, App, Cluster, free_port, wait_for
from load import Requests

TOKEN = "benchmark-token-0001"  # noqa: S105
VALUE = "v" * 64
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
READ = Requests("GET", "/read/KEY", None, AUTHORIZED)
WRITE = Requests("POST", "/write/KEY", VALUE, AUTHORIZED)
EMPTY = Requests("GET", "/empty", None, AUTHORIZED)
ETCD_READ = Requests("POST", "/v3/kv/range", '{"key":"KEY64"}', {"Content-Type": "application/json"})
ETCD_WRITE = Requests(
    "POST", "/v3/kv/put", '{"key":"KEY64","value":"%s"}' % ("dnZ2" * 21), {"Content-Type": "application/json"}
)
WEBDIS_READ = Requests("GET", "/GET/KEY", None, {})
WEBDIS_WRITE = Requests("GET", f"/SET/KEY/{VALUE}", None, {})


class Targets:
    """Starts what is asked for under ``root``, on 127.0.0.1; ``stop`` ends all of it by process id."""

    def __init__(self, root: Path, workers: int) -> None:
        self.root, self.workers = root, workers
        self.cluster = Cluster(root)
        token = {
            "name": "bench",
            "role": "write",
            "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "rate_limit": "1000000000 per hour",  # counted like any other, and never reached
        }
        (self.cluster.secrets / "api_tokens").write_text(json.dumps([token]))
        self._processes: list[subprocess.Popen[bytes]] = []

    def nodes(self) -> None:
        self.cluster.start()

    def service(self, mode: str) -> App:
        return self.cluster.run("serve", mode, WORKERS=str(self.workers))

    def empty_route(self) -> str:
        port = free_port()
        env = self.cluster.env("cp", WORKERS=str(self.workers), LISTEN=f"127.0.0.1:{port}")
        self._start([sys.executable, str(Path(__file__).with_name("empty_route.py"))], "empty", env=env)
        return self._answering(f"http://127.0.0.1:{port}", lambda url: _get(url + "/empty") == b"")

    def etcd(self) -> str:
        """Three members; the URL of the leader."""
        ports = [(free_port(), free_port()) for _ in range(3)]
        members = ",".join(f"e{i}=http://127.0.0.1:{peer}" for i, (_client, peer) in enumerate(ports))
        for i, (client, peer) in enumerate(ports):
            here, there = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
            command = ["etcd", "--name", f"e{i}", "--data-dir", str(self.root / f"etcd{i}"), "--log-level", "error"]
            command += ["--listen-client-urls", here, "--advertise-client-urls", here, "--listen-peer-urls", there]
            command += ["--initial-advertise-peer-urls", there, "--initial-cluster", members]
            self._start([*command, "--initial-cluster-state", "new"], f"etcd{i}")
        urls = [f"http://127.0.0.1:{client}" for client, _peer in ports]
        for url in urls:
            self._answering(url, lambda u: _status(u)["leader"] != "0")
        return next(u for u in urls if _status(u)["leader"] == _status(u)["header"]["member_id"])

    def webdis(self) -> str:
        """webdis on one Redis with appendfsync always (without ACL: webdis has no users)."""
        data = self.root / "webdis"
        data.mkdir()
        redis_port, port = free_port(), free_port()
        command = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(data)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self._start(command, "webdis-redis")
        config = {
            "redis_host": "127.0.0.1",
            "redis_port": redis_port,
            "http_host": "127.0.0.1",
            "http_port": port,
            "threads": self.workers,
            "daemonize": False,
            "verbosity": 0,
            "logfile": "/dev/null",
        }
        (data / "webdis.json").write_text(json.dumps(config))
        self._start(["webdis", str(data / "webdis.json")], "webdis-http")
        return self._answering(f"http://127.0.0.1:{port}", lambda url: _get(url + "/PING"))

    def stop(self) -> None:
        self.cluster.stop()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, command: list[str], name: str, env: dict[str, str] | None = None) -> None:
        log = (self.root / f"{name}.log").open("ab")
        env = env or {**os.environ, "PYTHONPATH": str(SRC)}
        self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=env))  # noqa: S603

    def _answering(self, url: str, check: Callable[[str], Any]) -> str:
        def answers() -> bool:
            try:
                return bool(check(url))
            except OSError:
                return False

        wait_for(f"{url} answers", answers, 30)
        return url


def _get(url: str, body: bytes | None = None) -> bytes:
    asked = urllib.request.Request(url, data=body)  # noqa: S310  http on this machine
    with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310
        return bytes(answer.read())


def _status(url: str) -> Any:
    return {"leader": "0", **json.loads(_get(url + "/v3/maintenance/status", b"{}"))}


def pss_per_worker(app: App) -> list[float]:
    """Proportional set size of each worker in MiB."""
    children = Path(f"/proc/{app.process.pid}/task/{app.process.pid}/children").read_text().split()
    return [_pss(pid) for pid in children]


def _pss(pid: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no Pss of process {pid}")

"""Real redis-server and holdfast processes for the integration tests: started on free loopback ports, ended by pid."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SRC = Path(__file__).resolve().parents[2] / "src"
PASSWORD = "a-long-enough-node-password"
SECRET_KEY = "0123456789abcdef0123456789abcdef"
TOKENS = {
    "reader": "reader-token-000001",
    "writer": "writer-token-000001",
    "boss": "boss-token-00000001",
    "slow": "slow-token-00000001",
}
ACL_LINE = Path(__file__).resolve().parents[2] / "README.md"


def service_acl() -> str:
    """The ACL rules of the user `service`, taken from the README so that what is documented is what is tested."""
    text = ACL_LINE.read_text(encoding="utf-8")
    match = re.search(r"^user service on .*?\n```", text, re.M | re.S)
    assert match, "README.md must hold the ACL of the user service"
    return " ".join(match[0].removesuffix("```").replace("\\\n", " ").split())


#: Ports handed out, and those there are: below what the kernel gives to proxies and clients, which ask for any port.
#: Nobody else can have taken one before its node or instance has it, or while that is down.
_HANDED_OUT: set[int] = set()
_KERNELS = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
_THERE = range(10_000, _KERNELS) or range(10_000, 65_536)
#: Of two processes side by side each has every other port.
_HALF = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2


def free_port() -> int:
    """A port that nobody listens on, never the same one twice, and never one that the tests beside this one get."""
    while True:
        port = random.choice(_THERE[_HALF::2])
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            if port not in _HANDED_OUT:
                _HANDED_OUT.add(port)
                return port


#: How long a test waits for what comes in a second or two when the machine has nothing else to do.
PATIENCE_SEC = 60.0


def wait_for(what: str, check: Callable[[], Any], seconds: float = PATIENCE_SEC, pause: float = 0.02) -> Any:
    """What ``check`` answers, as soon as that is true. ``seconds``: for promises of the service only."""
    end = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)


@dataclass
class Tls:
    ca: Path
    cert: Path
    key: Path


class Node:
    """One redis-server with the configuration that matters, as a node of the deployment would have it."""

    def __init__(self, name: str, directory: Path, tls: Tls | None = None) -> None:
        self.name, self.directory, self.tls = name, directory, tls
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.extra: list[str] = []  # more lines of its configuration, from its next start on
        directory.mkdir(parents=True, exist_ok=True)

    def start(self, wait: bool = True, default: str = "user default off resetpass ~* &* +@all") -> None:
        acl = self.directory / "users.acl"
        digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
        acl.write_text(
            f"{default}\n{service_acl().replace('<sha256>', digest)}\nuser tester on >{PASSWORD} ~* &* +@all\n"
        )
        (self.directory / "data").mkdir(exist_ok=True)
        config = [
            f"aclfile {acl}",
            f"dir {self.directory / 'data'}",
            "bind 127.0.0.1",
            "daemonize no",
            "save ''",
            "appendonly yes",
            "appendfsync always",
            "aof-load-truncated no",
            "maxmemory-policy noeviction",
        ]
        if self.tls:
            config += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {self.tls.cert}",
                f"tls-key-file {self.tls.key}",
                f"tls-ca-cert-file {self.tls.ca}",
                "tls-auth-clients yes",
            ]
        else:
            config += [f"port {self.port}"]
        config += self.extra
        path = self.directory / "redis.conf"
        path.write_text("\n".join(config).replace("save ''", 'save ""') + "\n")
        log = (self.directory / "redis.log").open("ab")
        # Signals as Python has them: SIGXFSZ ignored, so that a file that may not grow is an error, not a death.
        command = ["redis-server", str(path)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, restore_signals=False)
        if wait:
            self.wait()

    def wait(self) -> None:
        wait_for(f"{self.name} answers", self._pings)

    def _pings(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        options: dict[str, Any] = {}
        if self.tls:
            options = {
                "ssl": True,
                "ssl_ca_certs": str(self.tls.ca),
                "ssl_certfile": str(self.tls.cert),
                "ssl_keyfile": str(self.tls.key),
            }
        return redis.Redis(
            "127.0.0.1",
            self.port,
            username="tester",
            password=PASSWORD,
            socket_timeout=10,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **options,
        )

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def wipe(self) -> None:
        shutil.rmtree(self.directory / "data")


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.json.get("error", {}).get("code")


class App:
    """One `holdfast serve` or `holdfast replicate` process."""

    def __init__(
        self, command: str, env: dict[str, str], log: Path, launch: tuple[str, ...] = ("-m", "holdfast")
    ) -> None:
        self.port = int(env["LISTEN"].rpartition(":")[2])
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, *launch, command], env=env, stdout=log.open("ab"), stderr=subprocess.STDOUT
        )
        try:
            wait_for(f"{command} is live", self._live)
        except AssertionError:
            self.stop()
            raise

    def _live(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.request("GET", "/health/live", token=None).status == 200
        except OSError:
            return False

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        token: str | None = "boss",
        headers: dict[str, str] | None = None,
    ) -> Reply:
        send = dict(headers or {})
        if token is not None:
            send["Authorization"] = f"Bearer {TOKENS.get(token, token)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            started = time.monotonic()
            connection.request(method, path, body=body, headers=send)
            response = connection.getresponse()
            content = response.read()
            return Reply(response.status, response.headers, content, time.monotonic() - started)
        finally:
            connection.close()

    def write(self, key: str, value: str, **options: Any) -> Reply:
        return self.request("POST", f"/write/{quote(key)}", value.encode(), **options)

    def read(self, key: str, **options: Any) -> Reply:
        return self.request("GET", f"/read/{quote(key)}", **options)

    def delete(self, key: str, **options: Any) -> Reply:
        return self.request("DELETE", f"/write/{quote(key)}", **options)

    def ready(self) -> bool:
        return self.request("GET", "/health", token=None).status == 200

    def metric(self, name: str) -> float:
        text = self.request("GET", "/metrics", token=None).body.decode()
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no series {name}")

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


#: For commands that look at nodes once: an answer that a busy machine holds up is not taken for none.
COMMAND_TIMEOUT_SEC = "5"


def quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


class Cluster:
    """Three nodes, bootstrapped, and whatever processes a test asks for."""

    def __init__(self, root: Path, tls: Tls | None = None) -> None:
        self.root, self.tls = root, tls
        self.nodes = {f"db_g{i}": Node(f"db_g{i}", root / f"db_g{i}", tls) for i in (1, 2, 3)}
        self.apps: list[App] = []
        secrets = root / "secrets"
        secrets.mkdir()
        (secrets / "secret_key").write_text(SECRET_KEY + "\n")
        (secrets / "redis_password").write_text(PASSWORD + "\n")
        roles = {"reader": "read", "writer": "write", "boss": "admin", "slow": "write"}
        rates = {"boss": "unlimited", "slow": "3 per day"}
        (secrets / "api_tokens").write_text(
            json.dumps(
                [
                    {
                        "name": n,
                        "role": r,
                        "sha256": hashlib.sha256(TOKENS[n].encode()).hexdigest(),
                        **({"rate_limit": rates[n]} if n in rates else {}),
                    }
                    for n, r in roles.items()
                ]
            )
        )
        self.secrets = secrets

    def start(self) -> None:
        for node in self.nodes.values():
            node.start(wait=False)
        for node in self.nodes.values():
            node.wait()
        code, report = self.bootstrap()
        assert code == 0, report

    def stop(self) -> None:
        for app in self.apps:
            if app.process.poll() is None:
                app.process.terminate()
        for app in self.apps:
            app.stop()
        for node in self.nodes.values():
            node.kill()

    def env(self, mode: str, local: str = "db_g1", **extra: str) -> dict[str, str]:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SRC),
            "APP_MODE": mode,
            "LISTEN": f"127.0.0.1:{free_port()}",
            "REGION": "lab",
            "ZONE": local.replace("db_g", "zone"),
            "LOCAL_NODE": local,
            "NODES": ",".join(f"{n}=127.0.0.1:{node.port}" for n, node in self.nodes.items()),
            "SECRETS_DIR": str(self.secrets),
            "REDIS_TLS": "on" if self.tls else "off",
            "DRAIN_SEC": "0",
            "CIRCUIT_BREAKER_PROBE_SEC": "0.3",
        }
        if self.tls:
            env |= {
                "REDIS_TLS_CA_FILE": str(self.tls.ca),
                "REDIS_TLS_CERT_FILE": str(self.tls.cert),
                "REDIS_TLS_KEY_FILE": str(self.tls.key),
            }
        return env | extra

    def run(
        self,
        command: str,
        mode: str = "cp",
        local: str = "db_g1",
        launch: tuple[str, ...] = ("-m", "holdfast"),
        **extra: str,
    ) -> App:
        """``launch``: how Python is told to run the package; other than as usual only for broken builds."""
        number = len(self.apps)
        app = App(command, self.env(mode, local, **extra), self.root / f"app{number}-{command}-{mode}.log", launch)
        self.apps.append(app)
        return app

    def bootstrap(self, *arguments: str, **extra: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", "bootstrap", *arguments],
            env=self.env("cp", **{"NETWORK_TIMEOUT_SEC": COMMAND_TIMEOUT_SEC, **extra}),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}

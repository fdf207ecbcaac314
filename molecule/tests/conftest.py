"""What the tests of all scenarios share: the lab as `bin/lab status --json` tells it, its hosts over SSH, its edges over TLS."""

import json
import ssl
import subprocess
from pathlib import Path

import pytest
import requests
import testinfra

ROOT = Path(__file__).resolve().parents[2]
PORTS = {"cp": 5001, "ap": 5002}


class Lab:
    """The lab from outside."""

    def __init__(self, ssh_options: str = "") -> None:
        self.ssh_options = ssh_options
        done = subprocess.run([ROOT / "bin" / "lab", "status", "--json"], capture_output=True, text=True, check=True)
        self.data = json.loads(done.stdout)
        self.hosts: dict[str, dict[str, str]] = self.data["hosts"]
        self.edges: list[dict[str, str]] = self.data["edges"]
        self.ca_file: str = self.data["ca_file"]

    def host(self, name: str):
        """A testinfra host over the network: what SSH, sudo and the host itself say."""
        ssh = self.data["ssh"]
        extra = f"-o UserKnownHostsFile={ssh['known_hosts_file']} -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes {self.ssh_options}"
        return testinfra.get_host(
            f"ssh://{ssh['user']}@{self.hosts[name]['address']}?sudo=true", ssh_identity_file=ssh["key_file"], ssh_extra_args=extra
        )

    def token(self, role: str) -> str:
        return Path(self.data["token_files"][role]).read_text().strip()

    def client(self, role: str | None = "write") -> requests.Session:
        """An HTTP client that verifies the edge's certificate against the lab's CA."""
        session = requests.Session()
        session.verify = self.ca_file
        session.trust_env = False
        if role:
            session.headers["Authorization"] = f"Bearer {self.token(role)}"
        return session

    def tls_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)

    @property
    def serving(self) -> list[str]:
        zones = {edge["zone"] for edge in self.edges}
        return [name for name, host in self.hosts.items() if host["zone"] in zones]


@pytest.fixture(scope="session")
def ssh_options() -> str:
    """More options of the tests' own SSH connections, for a scenario to set."""
    return ""


@pytest.fixture(scope="session")
def lab(ssh_options) -> Lab:
    return Lab(ssh_options)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`host_name`: every host; `serving_name`: every host of a zone with an edge; `mode`: both faces."""
    if {"host_name", "serving_name", "edge"} & set(metafunc.fixturenames):
        lab = Lab()
        if "host_name" in metafunc.fixturenames:
            metafunc.parametrize("host_name", sorted(lab.hosts))
        if "serving_name" in metafunc.fixturenames:
            metafunc.parametrize("serving_name", lab.serving)
        if "edge" in metafunc.fixturenames:
            metafunc.parametrize("edge", lab.edges, ids=[edge["zone"] for edge in lab.edges])
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", list(PORTS))

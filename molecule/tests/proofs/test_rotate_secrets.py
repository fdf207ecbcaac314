"""Every secret of the lab gets a new value under load. The old one works until it is dropped and is refused then."""

import hashlib
import json
from pathlib import Path

import pytest
import requests
from rotations import killed, load, refused, runbook

USERS = {"service": "redis_service_password", "operator": "redis_operator_password", "replica": "redis_replica_password"}


class Old:
    """What is tried: the secrets as they were, and a session that the old SECRET_KEY signed."""

    def __init__(self, lab) -> None:
        self.lab = lab
        self.tokens = {role: lab.token(role) for role in ("read", "write", "admin")}
        self.secrets = {name: self.now(name) for name in [*USERS.values(), "registry_password", "secret_key"]}
        lab.client().post(f"{lab.edges[0]['cp']}/write/rotation", data="before", timeout=5).raise_for_status()
        written = lab.client().post(f"{lab.edges[0]['ap']}/write/rotation", data="before", timeout=5)
        self.session = written.headers["X-Session-Token"]

    def now(self, name: str) -> str:
        return (Path(self.lab.data["token_files"]["read"]).parents[1] / "secrets" / name).read_text().strip()

    def redis(self, host_name: str, user: str, password: str) -> str:
        """What each node of a host says to a password, asked from the node itself; the password is in no argument."""
        host, answers = self.lab.host(host_name), set()
        for node in host.check_output("docker ps --format '{{.Names}}' --filter name=^db_g").split():
            done = host.run(f"printf 'auth {user} %s\\n' '{password}' | docker exec --interactive {node} redis-cli")
            answers.add(done.stdout.split()[0])
        return answers.pop() if len(answers) == 1 else str(answers)

    def said(self) -> dict[str, set[object]]:
        """What the system says to each old secret, everywhere."""
        ops = self.lab.hosts["lab-ops1"]["address"]
        hosts = [*self.lab.serving, "lab-dr1"]
        reads = [(edge[mode], token) for edge in self.lab.edges for mode in ("cp", "ap") for token in self.tokens.values()]
        sessions = [
            requests.get(
                f"{edge['ap']}/read/rotation",
                headers={"Authorization": f"Bearer {self.lab.token('read')}", "X-Session-Token": self.session},
                verify=self.lab.ca_file,
                timeout=5,
            ).json()
            for edge in self.lab.edges
        ]
        return {
            "token": {self._status(url, token) for url, token in reads},
            "registry": {
                requests.get(
                    f"https://{ops}:5000/v2/", auth=("holdfast", self.secrets["registry_password"]), verify=self.lab.ca_file, timeout=5
                ).status_code
            },
            "session": {answer.get("read_your_writes", True) for answer in sessions},
            **{user: {self.redis(host, user, self.secrets[name]) for host in hosts} for user, name in USERS.items()},
        }

    def _status(self, url: str, token: str) -> int:
        answer = requests.get(f"{url}/read/rotation", headers={"Authorization": f"Bearer {token}"}, verify=self.lab.ca_file, timeout=5)
        return answer.status_code


@pytest.fixture(scope="module")
def old(lab) -> Old:
    return Old(lab)


BOTH = {"token": {200}, "registry": {200}, "session": {True}, "service": {"OK"}, "operator": {"OK"}, "replica": {"OK"}}


def test_nothing_is_dropped_that_was_not_replaced(old):
    assert "stage=use first" in refused("rotate_secrets", stage="drop", confirm="drop")
    assert old.said() == BOTH


def test_new_secrets_are_used_and_old_ones_accepted(lab, old):
    """The first run is killed while it rolls out, the second one goes on with the same values."""
    with load(lab):
        killed("rotate_secrets", at="Start one container of each face at a time, healthy before the next", stage="use", confirm="use")
        begun = json.loads((Path(lab.data["token_files"]["read"]).parents[1] / "secrets/rotation.json").read_text())
        assert begun["rotation"]["stage"] == "accept" and old.said() == BOTH
        runbook("rotate_secrets", stage="use", confirm="use")
    for name in [*USERS.values(), "registry_password", "secret_key"]:
        assert old.now(name) != old.secrets[name]
    assert old.now("secret_key") == begun["app_secret_key_previous"], "the values of the run that was killed"
    assert {lab.token(role) for role in old.tokens}.isdisjoint(old.tokens.values())
    assert old.said() == BOTH | {"registry": {401}}


def test_the_stage_that_is_behind_us_is_refused(old):
    assert "stage=drop" in refused("rotate_secrets", stage="use", confirm="use")


def test_old_secrets_are_refused(lab, old):
    with load(lab):
        said = runbook("rotate_secrets", stage="drop", confirm="drop")
    assert not [secret for secret in [*old.secrets.values(), *old.tokens.values(), old.now("secret_key")] if secret in said]
    assert old.said() == {"token": {401}, "registry": {401}, "session": {False}, "service": {"WRONGPASS"}} | {
        user: {"WRONGPASS"} for user in ("operator", "replica")
    }
    for user, name in USERS.items():
        assert old.redis("lab-a1", user, old.now(name)) == "OK"
    listed = json.loads(old.now("api_tokens.json"))
    assert {entry["name"]: entry["sha256"] for entry in listed} == {
        role: hashlib.sha256(lab.token(role).encode()).hexdigest() for role in old.tokens
    }

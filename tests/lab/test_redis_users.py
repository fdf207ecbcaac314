"""The nodes' users as the role writes them, in a real Redis: both passwords are accepted for a while, and then the old one is not."""

import hashlib
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import jinja2
import pytest
import redis
import yaml

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "old-" * 8, "new-" * 8
OTHER = {"redis_node_operator_password": "o" * 32, "redis_node_replica_password": "r" * 32}
OTHER |= {f"redis_node_{user}_password": "" for user in ("metrics", "backup")}
OTHER |= {f"redis_node_{user}_password_previous": "" for user in ("operator", "replica", "service")}


def users(**given: str) -> str:
    """roles/redis_node/templates/users.acl.j2 as Ansible renders it."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["hash"] = lambda text, name: hashlib.new(name, text.encode()).hexdigest()
    return environment.from_string((ROOT / "roles/redis_node/templates/users.acl.j2").read_text()).render({**OTHER, **given}) + "\n"


@pytest.fixture
def node(tmp_path):
    """(port, file of its users) of a Redis that knows the old password."""
    server = shutil.which("redis-server") or str(ROOT / ".venv/bin/redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    acl = tmp_path / "users.acl"
    acl.write_text(users(redis_node_service_password=OLD))
    options = ["--port", str(port), "--bind", "127.0.0.1", "--aclfile", str(acl), "--dir", str(tmp_path), "--save", ""]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port, acl
    finally:
        process.terminate()
        process.wait()


def accepted(port: int, user: str, *passwords: str) -> list[str]:
    found = []
    for password in passwords:
        try:
            redis.Redis(port=port, username=user, password=password, retry=None).execute_command("TIME" if user == "service" else "PING")
            found.append(password)
        except redis.AuthenticationError:
            pass
    return found


def load(port: int, acl: Path, text: str) -> None:
    acl.write_text(text)
    redis.Redis(port=port, username="operator", password=OTHER["redis_node_operator_password"]).execute_command("ACL", "LOAD")


def test_both_passwords_while_they_overlap_and_only_the_new_one_afterwards(node):
    port, acl = node
    assert accepted(port, "service", OLD, NEW) == [OLD]
    load(port, acl, users(redis_node_service_password=NEW, redis_node_service_password_previous=OLD))
    assert accepted(port, "service", OLD, NEW) == [OLD, NEW]
    load(port, acl, users(redis_node_service_password=NEW))
    assert accepted(port, "service", OLD, NEW) == [NEW]


def test_no_user_is_without_a_password_and_each_has_its_own(node):
    port, acl = node
    load(port, acl, users(redis_node_service_password=NEW, redis_node_replica_password_previous=OLD))
    assert accepted(port, "operator", OLD, NEW, "", OTHER["redis_node_operator_password"]) == [OTHER["redis_node_operator_password"]]
    assert accepted(port, "replica", OLD, NEW, OTHER["redis_node_replica_password"]) == [OLD, OTHER["redis_node_replica_password"]]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port, retry=None).execute_command("PING")


METRICS, BACKUP = "m" * 32, "b" * 32
ALLOWED = {
    "metrics": ["PING", "INFO", "DBSIZE", "LATENCY LATEST", "LATENCY HISTOGRAM", "SLOWLOG LEN", "MEMORY STATS"],
    "backup": ["PING", "TIME", "INFO", "SCAN 0", "HMGET cp:x v k", "HGET holdfast:guard state", "GET holdfast:heartbeat", "TYPE cp:x"],
}
REFUSED = {
    "metrics": ["HGET cp:x v", "SCAN 0", "KEYS *", "SLOWLOG GET", "CONFIG GET *", "ACL LIST", "HSET cp:x v 1", "CLIENT LIST", "SHUTDOWN"],
    "backup": [
        "HSET cp:x v 1",
        "DEL cp:x",
        "FLUSHALL",
        "KEYS *",
        "CONFIG GET *",
        "ACL LIST",
        "EVAL return 0",
        "BGREWRITEAOF",
        "PSYNC ? -1",
    ],
}


@pytest.mark.parametrize("user", ["metrics", "backup"])
def test_a_user_for_one_purpose_may_do_that_and_no_more(node, user):
    port, acl = node
    given = {"redis_node_service_password": OLD, "redis_node_metrics_password": METRICS, "redis_node_backup_password": BACKUP}
    load(port, acl, users(**given))
    client = redis.Redis(port=port, username=user, password=given[f"redis_node_{user}_password"], retry=None)
    for command in ALLOWED[user]:
        client.execute_command(*command.split())
    for command in REFUSED[user]:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())


def test_without_a_password_there_is_no_such_user(node):
    port, acl = node
    load(port, acl, users(redis_node_service_password=OLD))
    operator = redis.Redis(port=port, username="operator", password=OTHER["redis_node_operator_password"])
    assert set(operator.acl_users()) == {"default", "operator", "replica", "service"}


@pytest.fixture
def follower(node, tmp_path):
    """(its port, its primary's port, the file of the primary's users); it follows with the old password."""
    primary, acl = node
    load(primary, acl, users(redis_node_service_password=NEW, redis_node_replica_password=OLD))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "follower").mkdir()
    server = shutil.which("redis-server") or str(ROOT / ".venv/bin/redis-server")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path / "follower"), "--save", ""]
    link = ["--replicaof", f"127.0.0.1 {primary}", "--masteruser", "replica", "--masterauth", OLD]
    process = subprocess.Popen([server, *options, *link], stdout=subprocess.DEVNULL)
    try:
        yield port, primary, acl
    finally:
        process.terminate()
        process.wait()


def linked(port: int, primary: int, seconds: float) -> bool:
    """Whether the follower's link is up within so many seconds, as both see it: it may not know yet that it is down."""
    operator = redis.Redis(port=primary, username="operator", password=OTHER["redis_node_operator_password"])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            seen = redis.Redis(port=port, retry=None).info("replication")["master_link_status"]
            if seen == "up" and operator.info("replication")["connected_slaves"] == 1:
                return True
        except redis.ConnectionError:
            pass
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("given", [True, False], ids=["with-the-roles-command", "control"])
def test_a_running_follower_is_given_its_new_password(follower, given):
    """As roles/redis_node/tasks/users.yml does, by standard input; the control is not given it, and cannot come back."""
    port, primary, acl = follower
    assert linked(port, primary, 60)
    tasks = yaml.safe_load((ROOT / "roles/redis_node/tasks/users.yml").read_text())
    task = next(task for task in tasks if task["name"] == "Give the running nodes the replica's password")
    command = jinja2.Template(task["ansible.builtin.command"]["stdin"]).render(redis_node_replica_password=NEW)
    tool = task["ansible.builtin.command"]["cmd"].partition("}} ")[2].split()
    assert tool == ["redis-cli"]
    program = shutil.which("redis-cli") or str(ROOT / ".venv/bin/redis-cli")
    if given:
        done = subprocess.run([program, "-p", str(port)], input=command, capture_output=True, text=True, check=True)
        assert re.search(r"(?m)^OK$", done.stdout), done.stdout
    load(primary, acl, users(redis_node_service_password=NEW, redis_node_replica_password=NEW))
    operator = redis.Redis(port=primary, username="operator", password=OTHER["redis_node_operator_password"])
    operator.execute_command("CLIENT", "KILL", "TYPE", "replica")
    assert linked(port, primary, 60 if given else 4) is given

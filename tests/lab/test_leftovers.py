"""What role leftovers lists and removes: never what is in use, and only what is named as it is listed. Docker is played by a script."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = """#!/usr/bin/python3
import json, pathlib, sys
place = pathlib.Path(__file__).parent
told = json.loads((place / "told.json").read_text())
kind, verb, *names = sys.argv[1:]
keys = {"container": "Id", "volume": "Name", "image": "Id"}
if kind == "ps":
    print("\\n".join(one["Id"] for one in told["container"]))
elif verb == "ls":
    print("\\n".join(one[keys[kind]] for one in told[kind]))
elif verb == "inspect":
    print(json.dumps([one for one in told[kind] if any(name in [one[keys[kind]], *one.get("RepoDigests", [])] for name in names)]))
else:
    with (place / "removed").open("a") as out:
        out.write(f"{kind} {names[0]}\\n")
"""


class Host:
    def __init__(self, place: Path) -> None:
        self.place, self.data, self.store = place, place / "redis", place / "backup"
        for name in (
            "redis/db_g1/appendonlydir",
            "redis/db_g9/appendonlydir",
            "redis/db_g1.before-20260501T101500Z-restore_node/appendonlydir",
        ):
            (place / name).mkdir(parents=True)
        for name in ("redis/lost+found", "redis/.restore/db_g1", "backup/db_g1/sets", "backup/db_g9/sets", "backup/other"):
            (place / name).mkdir(parents=True)
        (self.data / "db_g9/appendonlydir/x").write_bytes(b"x" * 10000)
        os.utime(self.data / "db_g9", (time.time() - 3 * 86400 - 60,) * 2)
        (self.data / "link").symlink_to(self.data / "db_g9")
        self.docker = {
            "container": [{"Id": "c1", "Image": "sha256:1", "Mounts": [{"Source": str(self.data / "db_g1")}, {"Source": str(place)}]}],
            "volume": [{"Name": "lost", "Mountpoint": str(place / "nowhere"), "CreatedAt": "2026-05-01T10:00:00Z"}],
            "image": [
                {
                    "Id": f"sha256:{n}",
                    "RepoDigests": [f"app@sha256:{n}"],
                    "RepoTags": [],
                    "Size": n,
                    "Created": "2026-05-01T10:00:00.123456789Z",
                }
                for n in (1, 2, 3)
            ],
        }
        (place / "docker").write_text(DOCKER)
        (place / "docker").chmod(0o755)

    def play(self, *remove: str, check: bool = False) -> tuple[int, str]:
        (self.place / "told.json").write_text(json.dumps(self.docker))
        (self.place / "hosts.yml").write_text("all: {hosts: {here: {ansible_connection: local}, there: {ansible_connection: local}}}\n")
        tasks = "[{ansible.builtin.import_role: {name: leftovers}}]"
        (self.place / "play.yml").write_text(f"[{{hosts: here, gather_facts: false, any_errors_fatal: true, tasks: {tasks}}}]\n")
        given = {
            "leftovers_nodes": ["db_g1"],
            "leftovers_images": ["app@sha256:2"],
            "leftovers_data_directory": str(self.data),
            "leftovers_store_directory": str(self.store),
            "ansible_python_interpreter": sys.executable,
            "remove": remove,
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        env |= {"PATH": f"{self.place}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STRATEGY": "linear"}
        command = [str(ROOT / ".venv/bin/ansible-playbook"), str(self.place / "play.yml"), "-i", str(self.place / "hosts.yml")]
        command += ["-e", json.dumps(given), *(["--check"] if check else [])]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def names(self) -> list[str]:
        code, said = self.play()
        assert code == 0, said
        return [line.strip().strip('",').split(": ")[0] for line in said.splitlines() if line.strip().startswith('"here ')]

    @property
    def removed(self) -> list[str]:
        return (self.place / "removed").read_text().splitlines() if (self.place / "removed").exists() else []


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def listed(host):
    return [
        f"here directory {host.data}/db_g1.before-20260501T101500Z-restore_node",
        f"here directory {host.data}/db_g9",
        f"here directory {host.data}/.restore/db_g1",
        f"here directory {host.store}/db_g9",
        "here volume lost",
        "here image app@sha256:3",
    ]


def test_what_no_node_has_is_listed_with_size_and_age_and_nothing_is_removed(host, listed):
    assert host.names() == listed
    said = host.play()[1]
    assert f"{host.data}/db_g9: data of db_g9, which is no node of this host, " in said and "KB, 3 days old" in said
    assert "data of db_g1, kept by run 20260501T101500Z-restore_node, " in said
    assert all((host.data / name).is_dir() for name in ("db_g1", "db_g9", "lost+found")) and host.removed == []


def test_only_what_is_named_goes(host, listed):
    wanted = [listed[1], listed[4], listed[5]]
    assert host.play(*wanted, check=True)[0] == 0
    assert host.names() == listed
    code, said = host.play(*wanted)
    assert code == 0, said
    assert not (host.data / "db_g9").exists() and host.removed == ["volume lost", "image app@sha256:3"]
    assert (host.data / "db_g1").is_dir() and (host.store / "db_g9").is_dir()
    assert host.names()[:3] == [listed[0], *listed[2:4]]


@pytest.mark.parametrize(
    "wrong",
    ["directory {data}/db_g1", "here directory {data}/db_g1", "here directory {data}", "here volume x", "db_g9", "there volume lost"],
)
def test_what_is_not_listed_is_refused_and_with_it_all_the_rest(host, listed, wrong):
    code, said = host.play(listed[1], wrong.format(data=host.data))
    assert code != 0 and "Nothing was removed." in said, said
    assert (host.data / "db_g9").is_dir() and (host.data / "db_g1").is_dir() and host.removed == []


def test_what_is_in_use_is_not_listed(host, listed):
    """Each by a change of its own; the control is the list of before."""
    host.docker["container"].append({"Id": "c2", "Image": "sha256:3", "Mounts": [{"Source": f"{host.data}/db_g9/appendonlydir"}]})
    (host.data / ".restore/.db_g1.restore.lock").touch()
    with (host.data / ".restore/.db_g1.restore.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert host.names() == [listed[0], listed[3], listed[4]]
    assert host.names() == [listed[0], listed[2], listed[3], listed[4]]


def test_what_a_private_redis_may_run_on_is_not_listed(host, listed):
    """It has the place of all that is being made mounted, and its arguments name the directory. A mount of all data is no such use."""
    host.docker["container"].append({"Id": "c2", "Image": "sha256:2", "Mounts": [{"Source": f"{host.data}"}]})
    assert listed[2] in host.names()
    host.docker["container"].append({"Id": "c3", "Image": "sha256:2", "Mounts": [{"Source": f"{host.data}/.restore"}]})
    assert host.names() == [name for name in listed if name != listed[2]]

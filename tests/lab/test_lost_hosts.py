"""Runs in which hosts are missing: what the shipped plays make of it. Their own tasks, with stand-ins for what looks at hosts."""

import json
import os
import shutil
import socket
import subprocess
import threading

import pytest
import yaml
from runs import ROOT

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}


def run(place, play, hosts, *arguments):
    """(exit code, what was said) of ``play`` with the project's roles, or those of ``place``."""
    (place / "hosts.json").write_text(json.dumps({"all": {"vars": LOCAL, "children": {play["hosts"]: {"hosts": hosts}}}}))
    (place / "play.yml").write_text(json.dumps([play | {"become": False, "gather_facts": False}]))
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    roles = f"{place}/roles:{ROOT}/roles"
    env |= {"ANSIBLE_ROLES_PATH": roles, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
    command = [ROOT / ".venv/bin/ansible-playbook", "-i", place / "hosts.json", place / "play.yml", *arguments]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


class Zones:
    """The play with which playbooks/zones.yml begins. East is active at first; west serves, if anybody says so."""

    def __init__(self, place):
        self.place = place
        role = place / "roles/redis_node"
        (role / "tasks").mkdir(parents=True)
        facts = {"__redis_node_serving": "{{ serving }}", "__redis_node_recorded": "{{ {'results': recorded} }}"}
        (role / "tasks/observe.yml").write_text(json.dumps([{"name": "Stand in", "ansible.builtin.set_fact": facts}]))
        self.play = yaml.safe_load((ROOT / "playbooks/zones.yml").read_text())[0]
        shown = "ACTIVE {{ inventory_hostname }} {{ region_active | default('as at first') }}"
        self.play["tasks"].append({"name": "Show it", "ansible.builtin.debug": {"msg": shown}})
        self.play["vars"] = {"region_active_at_first": "east"}

    def run(self, *arguments, west=True):
        def host(rc, serving):
            return {"recorded": [{"rc": rc, "item": {"name": "db_g1"}}], "serving": serving}

        serves = [{"epoch": 4, "region": "west"}] if west else []
        return run(self.place, self.play, {"old": host(0, serves), "new": host(1, [])}, *arguments)


def test_a_new_node_is_told_by_the_others_which_region_serves(tmp_path):
    code, said = Zones(tmp_path).run()
    assert code == 0 and "ACTIVE new west" in said, said


def test_a_new_node_alone_is_not_guessed_at(tmp_path):
    zones = Zones(tmp_path)
    code, said = zones.run("--limit", "new")
    assert code != 0 and "db_g1 has never run on new" in said and "-e region_active=east" in said, said
    code, said = zones.run("--limit", "new", "-e", "region_active=west")
    assert code == 0 and "ACTIVE new west" in said, said
    assert zones.run("--limit", "old")[0] == 0


def test_a_node_that_has_run_and_the_very_first_run_need_nobody(tmp_path):
    zones = Zones(tmp_path)
    assert zones.run("--limit", "old", west=False)[0] == 0
    code, said = zones.run(west=False)
    assert code == 0 and "ACTIVE new as at first" in said, said


@pytest.fixture
def ssh():
    """The port of somebody who greets as SSH servers do."""
    server = socket.create_server(("127.0.0.1", 0))

    def greet():
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return
            with link:
                link.sendall(b"SSH-2.0-x\r\n")

    threading.Thread(target=greet, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


class NameServers:
    """The play of dr_failover.yml that moves the names, with the names' role replaced by one that says who was moved."""

    def __init__(self, place, port):
        self.place, self.port = place, port
        role = place / "roles/dns_failover"
        (role / "tasks").mkdir(parents=True)
        for name, task in {
            "observe": {"ansible.builtin.set_fact": {"__dns_failover_observed": "{{ observed }}"}},
            "point": {"ansible.builtin.debug": {"msg": "MOVED by {{ inventory_hostname }}"}},
        }.items():
            (role / f"tasks/{name}.yml").write_text(json.dumps([{"name": "Stand in"} | task]))
        plays = yaml.safe_load((ROOT / "runbooks/dr_failover.yml").read_text())
        [self.play] = [play for play in plays if play["hosts"] == "name_servers"]
        self.play["vars"] = {}
        shutil.copytree(ROOT / "roles/region", place / "roles/region")

    def run(self, **servers):
        """For each host: whether it can be reached, and the server that it asks; None: that does not answer."""
        hosts = {}
        for name, (reached, server) in servers.items():
            observed = {"answers": server is not None, "server": server or "192.0.2.1"}
            hosts[name] = {"ansible_host": "127.0.0.1", "ansible_port": self.port if reached else 1, "observed": observed}
        code, said = run(self.place, self.play, hosts)
        return code, [name for name in servers if f"MOVED by {name}" in said], said


REACHED, AWAY = True, False


@pytest.mark.parametrize(
    ("servers", "moved"),
    [
        ({"one": (REACHED, "192.0.2.1"), "two": (REACHED, "192.0.2.2")}, ["one", "two"]),
        ({"one": (REACHED, "192.0.2.1"), "two": (AWAY, None)}, ["one"]),
        ({"one": (REACHED, "192.0.2.1"), "two": (AWAY, "192.0.2.2")}, []),  # it goes on answering the region that is lost
        ({"one": (REACHED, "192.0.2.53"), "two": (AWAY, "192.0.2.53")}, ["one"]),  # a primary elsewhere, which the first one moves
        ({"one": (AWAY, "192.0.2.53"), "two": (AWAY, "192.0.2.53")}, []),
    ],
    ids=["both", "one is down", "one cannot be reached and answers", "one primary for both", "nobody moves the primary"],
)
def test_a_name_server_that_answers_and_is_not_moved_stops_a_failover(tmp_path, ssh, servers, moved):
    code, found, said = NameServers(tmp_path, ssh).run(**servers)
    assert found == moved and (code == 0) == bool(moved), said
    assert moved or "cannot be reached, so nobody can say" in said, said

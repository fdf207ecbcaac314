"""The role's own tasks against a primary name server elsewhere, a real BIND: they serve, move, refuse, and keep the key to themselves."""

import json
import os
import shutil
import subprocess

import pytest
from named import EAST, MOVER, OTHER, WEST, Named
from runs import ROOT

INVENTORY = {
    "dns_failover_provider": "rfc2136",
    "dns_failover_domain": "kv.example",
    "dns_failover_regions": {
        "east": [{"zone": "a", "address": "192.0.2.11", "address6": "2001:db8::11"}, {"zone": "b", "address": "192.0.2.12"}],
        "west": [{"zone": "c", "address": "198.51.100.11"}],
    },
    "dns_failover_initial_region": "east",
    "dns_failover_bind_address": "127.0.0.1",
    "dns_failover_name_servers": [{"name": "ns1.example", "address": "127.0.0.1"}],
    "dns_failover_ca_file": "/dev/null",
    "dns_failover_update_server": "127.0.0.1",
    "dns_failover_update_zone": "example",
    "dns_failover_update_key_name": "mover",
    "dns_failover_update_key_secret": MOVER,
    "ansible_connection": "local",
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
}


class Play:
    """The role's own tasks, from two hosts, against that server."""

    def __init__(self, server: Named) -> None:
        self.server, self.place = server, server.place
        role = self.place / "roles/dns_failover"
        shutil.copytree(ROOT / "roles/dns_failover", role)
        for module in ("ask", "update"):  # at 53 the server of this machine may listen
            path = role / f"library/dns_failover_{module}.py"
            text = path.read_text()
            assert '"default": 53}' in text
            path.write_text(text.replace('"default": 53}', f'"default": {server.port}}}'))
        (role / "tasks/rfc2136_install.yml").write_text("[]\n")

    def run(self, verb: str, *arguments: str, **variables) -> tuple[int, str]:
        play = {"hosts": "all", "gather_facts": False, "any_errors_fatal": True}
        play["tasks"] = [{"ansible.builtin.import_role": {"name": "dns_failover", "tasks_from": verb}}]
        (self.place / "hosts.json").write_text(json.dumps({"all": {"vars": INVENTORY | variables, "hosts": {"one": {}, "two": {}}}}))
        (self.place / "play.yml").write_text(json.dumps([play]))
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        env |= {"ANSIBLE_ROLES_PATH": str(self.place / "roles"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
        command = [ROOT / ".venv/bin/ansible-playbook", "-i", self.place / "hosts.json", self.place / "play.yml", *arguments]
        done = subprocess.run(command, cwd=self.place, env=env, capture_output=True, text=True, timeout=120)
        return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def blank(tmp_path):
    with Named(tmp_path) as server:
        yield server


def test_the_role_serves_moves_refuses_and_keeps_the_secret_to_itself(blank):
    play = Play(blank)
    code, said = play.run("main", "-vvv", "--diff")
    assert code == 0 and MOVER not in said and blank.shows() == EAST, said
    code, said = play.run("main", dns_failover_left_out=["a"])
    assert code == 0 and blank.shows()["cp"] == ["192.0.2.12"], said
    assert play.run("main")[0] == 0
    west = {"dns_failover_region": "west", "dns_failover_epoch": 2}
    code, said = play.run("point", **west)
    assert code == 0 and blank.shows() == WEST, said
    for verb in ("verify", "observe"):
        assert play.run(verb)[0] == 0
    code, said = play.run("point", **west | {"dns_failover_region": "east"})
    assert code != 0 and "-e dns_failover_epoch=3: it goes on where it was" in said and blank.shows() == WEST, said
    code, said = play.run("point", "-vvv", **west | {"dns_failover_epoch": 3}, dns_failover_update_key_secret=OTHER)
    assert code != 0 and "is not the secret that" in said and OTHER not in said and blank.shows() == WEST, said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dns_failover_update_server", ""),
        ("dns_failover_update_zone", "xample"),
        ("dns_failover_update_key_name", ""),
        ("dns_failover_update_key_secret", "not base64, and much too long for a password"),
        ("dns_failover_update_key_secret", "c2hvcnQ="),
        ("dns_failover_left_out", ["z"]),
        ("dns_failover_left_out", ["c"]),
    ],
)
def test_preflight_names_what_is_wrong(tmp_path, name, value):
    server = Named(tmp_path)
    code, said = Play(server).run("preflight", **{name: value})
    assert code != 0 and name in said and (not value or "secret" not in name or value not in said), said


def test_preflight_takes_what_is_right(tmp_path):
    code, said = Play(Named(tmp_path)).run("preflight")
    assert code == 0, said

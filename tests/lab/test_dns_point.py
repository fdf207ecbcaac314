"""A move of the names that is refused, by the role's own tasks: the printed cure works. With stand-ins for gdnsd and DNS."""

import json
import os
import re
import shutil
import subprocess

import pytest
from runs import ROOT

ASK = """
import os
from pathlib import Path
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(argument_spec={"domain": {}, "servers": {"type": "list"}})
answers = []
for server in module.params["servers"]:
    zone = Path(os.environ["FAKED"]) / server / "gdnsd/zones/kv.example"
    region, epoch = zone.read_text().split('epoch 3 TXT "')[1].split('"')[0].split()
    address = ["192.0.2.1" if region == "east" else "192.0.2.2"]
    answers.append({"server": server, "answers": True, "region": region, "epoch": int(epoch), "cp": address, "ap": address, "problem": ""})
module.exit_json(changed=False, answers=answers)
"""
INVENTORY = {
    "dns_failover_domain": "kv.example",
    "dns_failover_regions": {region: [{"zone": region, "address": f"192.0.2.{n}"}] for n, region in enumerate(("east", "west"), 1)},
    "dns_failover_initial_region": "east",
    "dns_failover_bind_address": "{{ inventory_hostname }}",
    "dns_failover_name_servers": [{"name": f"{name}.kv.example", "address": name} for name in ("one", "two")],
    "dns_failover_ca_file": "/dev/null",
    "ansible_connection": "local",
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
}
PLAY = """
- hosts: all
  gather_facts: false
  any_errors_fatal: true
  environment: {FAKED: "{{ inventory_dir }}", PATH: "{{ inventory_dir }}/bin:{{ lookup('env', 'PATH') }}"}
  vars: {dns_failover_region: west, dns_failover_epoch: "{{ 2 | int }}"}
  tasks:
    - ansible.builtin.import_role: {name: dns_failover, tasks_from: point}
"""


class Servers:
    """Two name servers that hold and answer east under epoch 1."""

    def __init__(self, place):
        self.place = place
        role = place / "roles/dns_failover"
        shutil.copytree(ROOT / "roles/dns_failover", role)
        (role / "library/dns_failover_ask.py").write_text(ASK)
        module = role / "library/dns_failover_serve.py"
        text = module.read_text().replace('Path("/etc/gdnsd")', 'Path(os.environ["FAKED"]) / os.environ["ME"] / "gdnsd"')
        module.write_text(text.replace('Path("/etc/holdfast/dns_failover")', 'Path(os.environ["FAKED"]) / os.environ["ME"] / "held"'))
        (place / "bin").mkdir()
        for name, script in {"gdnsd": "true", "gdnsdctl": f"! [ -e {place}/$ME/stuck ]", "systemctl": "echo active"}.items():
            (place / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (place / "bin" / name).chmod(0o755)
        hosts = {"all": {"vars": INVENTORY, "hosts": {"one": {}, "two": {}}}}
        (place / "hosts.json").write_text(json.dumps(hosts))
        (place / "play.yml").write_text(PLAY.replace("{FAKED", '{ME: "{{ inventory_hostname }}", FAKED'))
        for name in ("one", "two"):
            (place / name / "gdnsd/zones").mkdir(parents=True)
            (place / name / "held").mkdir()
            self.hold(name, "east", 1)

    def hold(self, name, region, epoch):
        (self.place / name / "held/state.json").write_text(json.dumps({"region": region, "epoch": epoch}))
        (self.place / name / "gdnsd/zones/kv.example").write_text(f'epoch 3 TXT "{region} {epoch}"\n')

    def held(self, name):
        return tuple(json.loads((self.place / name / "held/state.json").read_text()).values())

    def move(self, *arguments, strategy="linear"):
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        env |= {"ANSIBLE_ROLES_PATH": str(self.place / "roles"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
        env |= {"ANSIBLE_STRATEGY": strategy, "ANSIBLE_STRATEGY_PLUGINS": str(ROOT / "plugins/strategy")}
        command = [ROOT / ".venv/bin/ansible-playbook", "-i", self.place / "hosts.json", self.place / "play.yml", *arguments]
        done = subprocess.run(command, cwd=self.place, env=env, capture_output=True, text=True, timeout=120)
        return done.returncode, " ".join(done.stdout.split())


@pytest.fixture
def servers(tmp_path):
    return Servers(tmp_path)


def test_an_epoch_that_somebody_passed_names_the_argument_that_goes_on(servers):
    servers.hold("one", "east", 1000)
    code, said = servers.move()
    assert code != 0 and "Epoch 2 is below 1000, which this server holds for region east: somebody moved the names since." in said, said
    assert "one region east, epoch 1000" in said and servers.held("one") == ("east", 1000), said
    servers.hold("two", "east", 1000)  # what playbooks/names.yml does
    assert servers.move()[0] != 0, "and then the same runbook again is refused as before"
    [argument] = set(re.findall(r"start the same runbook again with -e (\S+=\d+):", said))
    assert servers.move("-e", argument)[0] == 0
    assert servers.held("one") == servers.held("two") == ("west", 1001)


def test_the_argument_is_above_what_any_server_answers(servers):
    servers.hold("one", "east", 7)
    servers.hold("two", "east", 9)
    _, said = servers.move()
    assert set(re.findall(r"-e dns_failover_epoch=(\d+)", said)) == {"10"}, said


@pytest.mark.parametrize("strategy", ["linear", "mitogen_linear"])
def test_a_server_that_cannot_take_the_files_is_mended_and_the_same_runbook_goes_on(servers, strategy):
    """Over both ways to run a module, each of which finds in its own way what modules share."""
    (servers.place / "one/stuck").touch()
    code, said = servers.move(strategy=strategy)
    assert code != 0 and "The files from before are back" in said, said
    assert "Mend this server, run playbooks/names.yml" in said and "dns_failover_epoch=" not in said, said
    (servers.place / "one/stuck").unlink()
    assert servers.move(strategy=strategy)[0] == 0
    assert servers.held("one") == servers.held("two") == ("west", 2)

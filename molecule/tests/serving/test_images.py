"""What the images hold is written down, and an image that holds something known to be unsafe is not pushed."""

import json
import re
import subprocess

import pytest
import yaml
from clients import ROOT, play

IMAGES = {"app": "app_cp_1", "redis_node": "db_g1", "edge": "edge"}
LOCKED = ROOT / ".lab" / "images.lock.yml"
OLD = "sed -i '/^Package: libssl3t64/,/^Version:/s/^Version:.*/Version: 3.5.0-1/' /var/lib/dpkg/status"
NO_SOURCE = "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d"
CHECK = """
- hosts: operations
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.import_role: {name: images, tasks_from: check}
"""


def bill(name: str) -> dict:
    return json.loads((ROOT / ".lab" / "sbom" / f"{name}.cdx.json").read_text())


@pytest.mark.parametrize("name", IMAGES)
def test_bill_of_materials_is_what_the_container_holds(lab, name):
    written = bill(name)
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    held = lab.host("lab-a1").check_output("docker exec %s dpkg-query --show --showformat=%s", IMAGES[name], r"${Package} ${Version}\n")
    debian = {f"{c['name']} {c['version']}" for c in written["components"] if c["purl"].startswith("pkg:deb/")}
    assert debian == set(held.split("\n"))
    python = {c["name"].lower() for c in written["components"] if c["purl"].startswith("pkg:pypi/")}
    assert {"flask", "redis", "holdfast"} <= python if name == "app" else not python


@pytest.fixture
def derived(lab):
    """Makes an image on the operations host from the service's, with one command run in it; removed at the end."""
    host, made = lab.host("lab-ops1"), []
    service = yaml.safe_load(LOCKED.read_text())["app"]

    def make(name: str, command: str) -> str:
        file = f"FROM {service}\nUSER 0\nRUN {command}\n"
        host.check_output("printf %s | docker build --quiet --tag %s -", file, name)
        made.append(name)
        return name

    yield make
    for name in made:
        host.run("docker rmi %s", name)


@pytest.fixture
def check(tmp_path):
    """Runs the role's check on an image of the operations host."""

    def run(reference: str, **variables) -> subprocess.CompletedProcess:
        playbook = tmp_path / "check.yml"
        playbook.write_text(CHECK)
        given = {"images_checked": {"name": "derived", "reference": reference}, "images_sbom_directory": str(tmp_path), **variables}
        return play(playbook, variables=given, ANSIBLE_ROLES_PATH=str(ROOT / "roles"))

    return run


def test_pending_security_update_and_version_below_the_list_stop_it(derived, check):
    done = check(derived("old", OLD), images_fixed_versions=[{"name": "bash", "version": "99"}, {"name": "not-there", "version": "1"}])
    said = re.sub(r"\s+", " ", done.stdout)
    assert done.returncode == 2, done.stdout
    assert re.search(r"libssl3t64 3\.5\.0-1 \(3\.5\.\S+ is wanted\)", said), said
    assert re.search(r"bash \S+ \(99 is wanted\)", said), said
    assert "not-there" not in said.split("holds", 1)[1]


def test_image_that_cannot_ask_debian_stops_it(derived, check):
    done = check(derived("no-source", NO_SOURCE))
    assert done.returncode == 2
    assert "no source of Debian's security updates" in done.stdout


def test_scanner_of_the_host_is_used(lab, check):
    """A stand-in for trivy: what counts here is that it is found, told to fail, and listened to."""
    host, image = lab.host("lab-ops1"), yaml.safe_load(LOCKED.read_text())["app"]
    host.check_output("printf '#!/bin/sh\\necho \"$@\" > /tmp/scanned; exit 1\\n' > /usr/local/bin/trivy; chmod 0755 /usr/local/bin/trivy")
    try:
        assert check(image).returncode == 2
        assert host.check_output("cat /tmp/scanned").endswith(f"--exit-code 1 --ignore-unfixed --severity HIGH,CRITICAL {image}")
    finally:
        host.check_output("rm /usr/local/bin/trivy")
    assert check(image).returncode == 0

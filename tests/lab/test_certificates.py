"""What preflight says of certificates, before anything changes: a given one for the edge, and the private CA.

All cases are hosts of one playbook run, each with files of its own, so that the whole takes no longer than one case.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule/tests"))

from authority import Authority, Given, Key, pem  # noqa: E402

NAME, PASSPHRASE = "kv.example.net", "a passphrase for one test"
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - block:
        - ansible.builtin.include_role: {name: "{{ role }}", tasks_from: "{{ tasks_from }}"}
        - ansible.builtin.copy: {content: passed, dest: "{{ said_file }}"}
      rescue:
        - ansible.builtin.copy: {content: "{{ results | map(attribute='msg') | join(' ') }}", dest: "{{ said_file }}"}
          vars: {results: "{{ ansible_failed_result.results | default([ansible_failed_result]) }}"}
"""


def given(days: float = 90, made_with: Key | None = None, name: str = NAME, **changes: Callable[[Given], object]):
    """A given certificate; each of `certificate`, `key`, `trust` becomes what the function returns, no file with None; `names` as well."""

    def make(place: Path) -> dict[str, object]:
        held = Given(place, name, days, key=made_with)
        for part, change in changes.items():
            if part == "names":
                held.variables["edge_server_names"] = change(held)
            elif (text := change(held)) is None:
                held.files[part].unlink()
            else:
                held.write(part, str(text))
        return {"role": "edge", "tasks_from": "preflight_certificate", **held.variables}

    return make


def vaulted(held: Given) -> str:
    password = held.files["key"].parent.parent / "password"
    command = [ROOT / ".venv/bin/ansible-vault", "encrypt", "--vault-password-file", password, held.files["key"]]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return held.files["key"].read_text()


def with_an_intermediate_that_ends(place: Path) -> dict[str, object]:
    variables = given()(place)
    root = Authority("Test root")
    ending = Authority("Test intermediate", under=root, days=5)
    certificate, key = ending.issue([NAME])
    for part, text in {"certificate": pem(certificate) + pem(ending.certificate), "key": pem(key), "trust": pem(root.certificate)}.items():
        (place / f"{part}.pem").write_text(text)
    return variables


def ca(days: float = 3650, certificate: str = "", key: Callable[[Authority], str] = lambda authority: pem(authority.key, PASSPHRASE)):
    """The private CA's files; an empty text for no such file."""

    def make(place: Path) -> dict[str, object]:
        authority = Authority("Holdfast CA", days=days)
        for name, text in {"ca.pem": certificate or pem(authority.certificate), "ca.key": key(authority)}.items():
            if text:
                (place / name).write_text(text)
        files = {"pki_ca_file": str(place / "ca.pem"), "pki_ca_key_file": str(place / "ca.key")}
        return {"role": "pki", "tasks_from": "preflight", "pki_ca_passphrase": PASSPHRASE, "pki_subject_alternative_names": [], **files}

    return make


def no_ca_yet(place: Path) -> dict[str, object]:
    variables = ca()(place)
    for path in place.glob("ca.*"):
        path.unlink()
    return variables


CASES = {
    "good": (given(), "^passed$"),
    "wildcard-and-rsa": (given(made_with=rsa.generate_private_key(65537, 2048), name="*.example.net", names=lambda _: [NAME]), "^passed$"),
    "key-in-a-vault": (given(key=vaulted), "^passed$"),
    "key-of-another": (given(key=lambda _: pem(Authority("x").key)), r"^edge_key_file .* is the key of another certificate\. Name the key"),
    "key-with-a-passphrase": (given(key=lambda held: pem(held.key, PASSPHRASE)), "cannot be read as a key without a passphrase"),
    "key-is-no-file": (given(key=lambda _: None), "edge_key_file names .*, which is no file"),
    "without-the-intermediate": (
        given(certificate=lambda held: pem(held.certificate)),
        r"unable to get local issuer certificate\. Append the intermediates",
    ),
    "foreign-root": (given(trust=lambda _: pem(Authority("Test root").certificate)), "does not lead to a root of edge_trust_file"),
    "no-certificate": (given(certificate=lambda _: "nothing of the kind\n"), "holds no certificate"),
    "no-names": (given(names=lambda _: []), "^edge_certificate_file needs edge_key_file"),
    "name-lacking": (
        given(names=lambda _: [NAME, "other.example.net"]),
        "lacks the name other.example.net of edge_server_names; it has DNS:kv.example.net",
    ),
    "hosts-own-name": (given(names=lambda _: [NAME, "hosts-own-name"]), "^edge_server_names holds hosts-own-name"),
    "ended": (given(days=-1), r"has ended \(valid from .* Renew it"),
    "ends-within-a-week": (given(days=6.9), "ends within 7 days .* Renew it"),
    "intermediate-ends": (with_an_intermediate_that_ends, "certificate has expired"),
    "weak-key": (given(made_with=rsa.generate_private_key(65537, 1024)), "RSA of 2048 bits or more"),  # noqa: S505
    "ca-good": (ca(), "^passed$"),
    "ca-not-there-yet": (no_ca_yet, "^passed$"),
    "ca-ended": (ca(days=-1), "^pki_ca_file .* has ended on .* Make a new CA"),
    "ca-key-of-another": (ca(key=lambda _: pem(Authority("Holdfast CA").key, PASSPHRASE)), "is the key of another CA than pki_ca_file"),
    "ca-other-passphrase": (ca(key=lambda held: pem(held.key, "another")), "cannot be opened with pki_ca_passphrase"),
    "ca-without-its-key": (ca(key=lambda _: ""), "one is missing. Bring the CA's directory back"),
    "ca-is-no-certificate": (ca(certificate="nothing of the kind\n"), "holds no certificate"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, str]:
    """Case -> what its preflight said: `passed`, or why not."""
    place = tmp_path_factory.mktemp("certificates")
    (place / "password").write_text("a password for one test\n")
    hosts, files = {}, {}
    for name, (make, _said) in CASES.items():
        (place / name).mkdir()
        files[name] = place / name / "said"
        hosts[name] = {**make(place / name), "said_file": str(files[name])}
    connection = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    (place / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": connection}}))
    (place / "play.yml").write_text(PLAY)
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_STRATEGY": "linear", "ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    env |= {"ANSIBLE_VAULT_PASSWORD_FILE": str(place / "password")}
    command = [ROOT / ".venv/bin/ansible-playbook", place / "play.yml", "-i", place / "hosts.yml"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert PASSPHRASE not in done.stdout and "PRIVATE KEY" not in done.stdout
    return {name: " ".join(path.read_text().split()) for name, path in files.items()}


@pytest.mark.parametrize("case", CASES)
def test_it_says(said, case):
    assert re.search(CASES[case][1], said[case]), said[case]

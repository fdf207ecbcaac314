"""The stages of a CA's rotation on the control machine: who signs, who is trusted, and a run that was killed in the midst of one."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "a passphrase for one test"
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: pki, tasks_from: "{{ verb }}"}
"""


def run(place: Path, verb: str, stage: str = "") -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"ANSIBLE_STRATEGY": "linear", "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"}
    files = {"pki_ca_file": f"{place}/ca.pem", "pki_ca_key_file": f"{place}/ca.key", "pki_ca_passphrase": PASSPHRASE}
    given = files | {"verb": verb, "stage": stage, "pki_subject_alternative_names": []}
    (place / "play.yml").write_text(PLAY)
    command = [ROOT / ".venv/bin/ansible-playbook", place / "play.yml", "-i", "localhost,", "-e", json.dumps(given)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def good(place: Path, verb: str, stage: str = "") -> None:
    done = run(place, verb, stage)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def trusted(place: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((place / "ca.pem").read_bytes())


def signs(place: Path, ca: x509.Certificate) -> bool:
    key = load_pem_private_key((place / "ca.key").read_bytes(), PASSPHRASE.encode()).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == ca.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


@pytest.fixture
def place(tmp_path) -> Path:
    good(tmp_path, "ca")
    return tmp_path


def test_stages(place):
    (old,) = trusted(place)
    assert "stage=accept" in run(place, "ca_stage", "use").stdout and trusted(place) == [old]
    good(place, "ca_stage", "accept")
    first, new = trusted(place)
    assert first == old and signs(place, old) and new.public_key() != old.public_key()
    good(place, "ca_stage", "accept")
    assert trusted(place) == [old, new], "the same new CA after an interruption"
    good(place, "ca")
    assert trusted(place) == [old, new], "playbooks leave it alone meanwhile"
    good(place, "ca_stage", "use")
    assert trusted(place) == [new, old] and signs(place, new)
    good(place, "ca_stage", "use")
    good(place, "ca")
    assert trusted(place) == [new, old] and signs(place, new)
    assert "stage=drop" in run(place, "ca_stage", "accept").stdout
    good(place, "ca_stage", "drop")
    assert trusted(place) == [new] and signs(place, new)
    good(place, "ca_stage", "drop")
    good(place, "ca_over")
    assert trusted(place) == [new] and not (place / "rotation").exists()


def test_a_kill_between_key_and_certificate(place):
    """The key is the new CA's already, the certificates are not: the stage is finished by running it again."""
    good(place, "ca_stage", "accept")
    old, new = trusted(place)
    rotation = place / "rotation"
    (rotation / "old.key").write_bytes((place / "ca.key").read_bytes())
    (rotation / "old.pem").write_bytes(old.public_bytes(Encoding.PEM))
    (place / "ca.key").write_bytes((rotation / "new.key").read_bytes())
    assert not signs(place, trusted(place)[0])
    good(place, "ca_stage", "use")
    assert trusted(place) == [new, old] and signs(place, new)

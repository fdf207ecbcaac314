"""playbooks/secrets.yml: one command, every secret, encrypted, none replaced."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mine(tmp_path):
    """A copy of the production example, with a home and a vault password of its own."""
    shutil.copytree(ROOT / "inventories/production", tmp_path / "inventories/mine")
    (tmp_path / "password").write_text("a vault password for one test\n")
    return tmp_path


def run(mine: Path, tool: str, *arguments: str, password: str = "password") -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"HOME": str(mine), "ANSIBLE_NOCOLOR": "1"} | ({"ANSIBLE_VAULT_PASSWORD_FILE": str(mine / password)} if password else {})
    return subprocess.run([ROOT / ".venv/bin" / tool, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def make(mine: Path, **options: str) -> subprocess.CompletedProcess[str]:
    return run(mine, "ansible-playbook", "playbooks/secrets.yml", "-i", f"{mine}/inventories/mine", "-vvv", "--diff", **options)


def vault(mine: Path) -> dict[str, object]:
    shown = run(mine, "ansible-vault", "view", f"{mine}/inventories/mine/group_vars/all/vault.yml")
    assert shown.returncode == 0, shown.stderr
    return yaml.safe_load(shown.stdout)


def wanted() -> set[str]:
    """Every secret that the example refers to; not the keys of servers elsewhere, which it shows in comments and nobody here can make."""
    files = [path.read_text() for path in (ROOT / "inventories/production").rglob("*.yml") if path.name != "vault.yml"]
    return set(re.findall(r"\bvault_\w+", re.sub(r"(?m)^\s*#.*$", "", "\n".join(files))))


def test_one_command_makes_every_secret_encrypted_strong_and_unseen(mine):
    done = make(mine)
    assert done.returncode == 0, done.stdout[-3000:]
    place = mine / "inventories/mine/group_vars/all/vault.yml"
    assert place.read_text().startswith("$ANSIBLE_VAULT;") and place.stat().st_mode & 0o077 == 0
    held = vault(mine)
    assert set(held) == wanted()
    previous = {name for name in held if name.endswith("_previous")}
    assert len(previous) == 4 and {held[name] for name in previous} == {""}
    secrets = [value for name, value in held.items() if name not in previous | {"vault_app_api_tokens"}]
    assert len(set(secrets)) == len(secrets) and all(len(str(value)) >= 32 for value in secrets)
    tokens = {path.name: path for path in (mine / "holdfast-production/tokens").iterdir()}
    assert all(path.stat().st_mode & 0o077 == 0 and len(path.read_text()) >= 32 for path in tokens.values())
    entries = {t["name"]: t for t in held["vault_app_api_tokens"]}
    assert {n: t["sha256"] for n, t in entries.items()} == {n: hashlib.sha256(path.read_bytes()).hexdigest() for n, path in tokens.items()}
    assert {n: (t["role"], t.get("rate_limit")) for n, t in entries.items()} == {
        **{role: (role, None) for role in ("read", "write", "admin")},
        "runbooks": ("write", "unlimited"),
    }
    shown = done.stdout + done.stderr
    assert not [value for value in [*secrets, *(path.read_text() for path in tokens.values())] if str(value) in shown]


def test_a_second_run_replaces_nothing_and_adds_what_is_missing(mine):
    assert make(mine).returncode == 0
    first = vault(mine)
    again = make(mine)
    assert again.returncode == 0 and re.search(r"changed=0 ", again.stdout), again.stdout[-2000:]
    less = {name: value for name, value in first.items() if name != "vault_registry_password"} | {"vault_mine": "my own"}
    place = mine / "inventories/mine/group_vars/all/vault.yml"
    place.write_text(yaml.safe_dump(less))
    assert run(mine, "ansible-vault", "encrypt", str(place)).returncode == 0
    assert make(mine).returncode == 0
    second = vault(mine)
    assert {name: second[name] for name in less} == less
    assert len(second["vault_registry_password"]) >= 32 and second["vault_registry_password"] != first["vault_registry_password"]


@pytest.mark.parametrize("weak", ["short", "please-change-me-now"])
def test_a_placeholder_is_refused(mine, weak):
    place = mine / "inventories/mine/group_vars/all/vault.yml"
    place.write_text(f"vault_registry_password: {weak}\n")
    assert run(mine, "ansible-vault", "encrypt", str(place)).returncode == 0
    before = place.read_bytes()
    done = make(mine)
    assert done.returncode == 2 and "vault_registry_password in" in done.stdout and place.read_bytes() == before


def test_without_a_vault_password_the_cure_is_named(mine):
    done = make(mine, password="")
    assert done.returncode == 2 and "ANSIBLE_VAULT_PASSWORD_FILE" in done.stdout
    assert not (mine / "inventories/mine/group_vars/all/vault.yml").exists()


def test_a_vault_that_cannot_be_opened_is_left_alone(mine):
    assert make(mine).returncode == 0
    place = mine / "inventories/mine/group_vars/all/vault.yml"
    before = place.read_bytes()
    (mine / "other").write_text("another password\n")
    done = make(mine, password="other")
    assert done.returncode != 0 and "vault" in (done.stdout + done.stderr).lower() and place.read_bytes() == before


def test_nothing_is_asked_of_a_host_with_a_vault_that_cannot_be_opened(mine):
    """preflight.yml changes nothing, and this machine plays the host. The control is the right password, with which it goes on."""
    assert make(mine).returncode == 0
    (mine / "other").write_text("another password\n")
    inventory, host = f"{mine}/inventories/mine", "a1.east.example.net"
    look = ("ansible-playbook", "playbooks/preflight.yml", "-i", inventory, "--limit", host, "-c", "local")
    refused = run(mine, *look, password="other")
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0 and "ok: [" not in said, said[-2000:]
    assert "Decryption failed" in said and "vault" in said, said[-2000:]
    opened = run(mine, *look)
    assert "TASK [Read the host's facts]" in opened.stdout and "Decryption failed" not in opened.stdout + opened.stderr

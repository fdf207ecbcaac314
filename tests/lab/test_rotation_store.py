"""Where secrets are kept while they are rotated: both kinds of store, all stages, and a kill after each write."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "roles/rotation/library"))

import rotation_store as rotation  # noqa: E402

VARIABLES = [name for names in rotation.KINDS.values() for name in names]
NAMES = {name: f"vault_{name}" for name in [*VARIABLES, *(f"{name}_previous" for name in rotation.OVERLAPPING), "app_api_tokens"]}


def entry(name: str, token: str) -> dict[str, str]:
    return {"name": name, "role": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), "rate_limit": "unlimited"}


@pytest.fixture(params=["vault", "directory"])
def place(request, tmp_path):
    """(a way to open the store anew, the directory of tokens), with old values in it and something of somebody else's."""
    old = {name: f"old-{name}" for name in VARIABLES} | {f"{name}_previous": "" for name in rotation.OVERLAPPING}
    old |= {"app_api_tokens": [entry("read", "old-token"), entry("write", "unknown")]}
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tokens / "read").write_text("old-token")
    if request.param == "directory":
        names = {name: name + (".json" if name == "app_api_tokens" else "") for name in NAMES}
        (tmp_path / "store").mkdir()
        for name, file in names.items():
            (tmp_path / "store" / file).write_text(json.dumps(old[name]) if file.endswith(".json") else old[name])
        return lambda: rotation.Directory(tmp_path / "store", names), tokens
    vault, program = tmp_path / "vault.yml", shutil.which("ansible-vault") or str(ROOT / ".venv/bin/ansible-vault")
    (tmp_path / "password").write_text("a password for one test\n")
    vault.write_text(yaml.safe_dump({NAMES[name]: value for name, value in old.items()} | {"vault_mine": "my own"}))
    access = [program, "encrypt", "--vault-password-file", tmp_path / "password", vault]
    subprocess.run(access, check=True, capture_output=True)
    return lambda: rotation.Vault(vault, NAMES, str(tmp_path / "password"), program), tokens


def go(place, state: str, wanted: str = "", kinds: list[str] | None = None) -> dict:
    opened, tokens = place
    return rotation.act(opened(), state, wanted, kinds or [], tokens, checking=False)


def test_stages_of_everything(place):
    tokens = place[1]
    first = go(place, "accept")["given"]
    assert [entry["name"] for entry in first["app_api_tokens"]] == ["read", "read.old", "write", "write.old"]
    for name in rotation.OVERLAPPING:
        assert first[name] == f"old-{name}" and len(first[f"{name}_previous"]) == 48
    assert first["registry_password"] == "old-registry_password" and (tokens / "read").read_text() == "old-token"
    go(place, "reached")
    second = go(place, "use")["given"]
    for name in rotation.OVERLAPPING:
        assert (second[name], second[f"{name}_previous"]) == (first[f"{name}_previous"], f"old-{name}")
    assert len(second["registry_password"]) == 48
    assert (
        second["app_api_tokens"][0] == entry("read", (tokens / "read").read_text()) and second["app_api_tokens"] == first["app_api_tokens"]
    )
    assert all((tokens / name).stat().st_mode & 0o077 == 0 for name in ("read", "write"))
    go(place, "reached")
    dropped = go(place, "drop")
    third = dropped["given"]
    assert [entry["name"] for entry in third["app_api_tokens"]] == ["read", "write"]
    assert {third[f"{name}_previous"] for name in rotation.OVERLAPPING} == {""} and third["app_secret_key"] == second["app_secret_key"]
    assert dropped["retired"]["registry_password"] == "old-registry_password" and dropped["retired"]["tokens"] == {"read": "old-token"}
    last = go(place, "over")
    assert last["given"] == third and last["stage"] == "" and last["retired"] == {"tokens": {}}
    assert go(place, "read", "use")["given"] == third


def test_each_stage_again_changes_nothing(place):
    """As after a kill: the values of the first attempt stay."""
    for state in ("accept", "use", "drop"):
        once = go(place, state)
        again = go(place, state)
        assert again["given"] == once["given"] and not again["changed"] and again["retired"] == once["retired"]
        go(place, "reached")


def test_only_some(place):
    after = go(place, "accept", kinds=["secret_key", "registry"])
    assert after["given"]["redis_node_service_password_previous"] == "" and len(after["given"]["app_api_tokens"]) == 2
    assert set(after["retired"]) == {"app_secret_key", "registry_password", "tokens"}
    assert "only" in go(place, "read", "use", kinds=["redis"])["wrong"]
    assert go(place, "read", "use", kinds=["registry", "secret_key"])["wrong"] == ""


def test_what_comes_next(place):
    seen = {}
    for state in ("", "accept", "reached", "use", "reached", "drop"):
        if state:
            go(place, state)
        said = [go(place, "read", wanted) for wanted in rotation.STAGES]
        seen[f"{state}{len(seen)}"] = [" ".join(answer["steps"]) or f"-> {answer['wrong'].rpartition('=')[2]}" for answer in said]
    assert list(seen.values()) == [
        ["accept", "accept use", "-> use first."],
        ["accept", "accept use", "-> use first."],
        ["-> use.", "use", "-> use first."],
        ["-> use.", "use", "-> use first."],
        ["-> drop.", "-> drop.", "drop"],
        ["-> drop.", "-> drop.", "drop"],
    ]


def test_a_rotation_by_hand_is_not_overwritten(place):
    opened, _tokens = place
    held = opened().read() | {"app_secret_key_previous": "mine"}
    store = opened()
    store.read()
    store.write(held)
    assert "app_secret_key_previous is set" in go(place, "read", "use")["wrong"]


def test_what_others_keep_in_the_vault_stays(place):
    store = place[0]()
    if isinstance(store, rotation.Directory):
        pytest.skip("a directory holds nothing of others")
    go(place, "accept")
    store.read()
    assert store.all["vault_mine"] == "my own" and store.path.read_text().startswith("$ANSIBLE_VAULT;")
    assert store.path.stat().st_mode & 0o077 == 0


KILLS = [("directory", count) for count in range(14)] + [("vault", count) for count in range(3)]


@pytest.mark.parametrize(("place", "survives"), KILLS, indirect=["place"])
def test_a_kill_between_two_writes(place, survives, monkeypatch):
    """After so many replaced files the process is gone: the next run finds the stage before or the one after, whole."""
    before, done = go(place, "accept")["given"], []
    real = os.replace

    def dying(self, target):
        if len(done) >= survives:
            raise KeyboardInterrupt
        done.append(target)
        real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        try:
            go(place, "use")
        except KeyboardInterrupt:
            found = go_read(place)
            assert found["given"] == before or found["stage"] == "use"
    after = go(place, "use")
    assert after["stage"] == "use" and after["given"]["app_secret_key"] == before["app_secret_key_previous"]
    assert (place[1] / "read").read_text() == after["tokens"]["read"]
    assert after["retired"]["tokens"] == {"read": "old-token"}, "what is to be refused later is still known"


def go_read(place) -> dict:
    return go(place, "read", "use")

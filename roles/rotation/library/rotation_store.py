#!/usr/bin/python
"""Where the secrets of an inventory are kept, and how far a rotation of them has come; runs on the control machine."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
import string
import subprocess
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: rotation_store
short_description: Moves secrets from one stage of their rotation to the next
description:
  - The store is an encrypted vault file, or a directory with a file for each secret. What a stage needs is in it before any host is
    touched, so a run that was interrupted goes on with the same values.
options:
  path: {type: path, required: true, description: The vault file, or the directory.}
  names: {type: dict, required: true, description: "What each variable is called in the store: a vault's variable, or a file's name."}
  state:
    type: str
    choices: [read, accept, use, drop, reached, over]
    required: true
    description: Look; go to a stage; record that all hosts have reached it; forget what is old.
  wanted: {type: str, default: "", description: "For C(read): the stage that the operator asks for."}
  kinds: {type: list, elements: str, default: [], description: "Of a new rotation: redis, secret_key, tokens, registry."}
  tokens_directory: {type: path, required: true, description: "Where the clients' new tokens are written for handing out."}
  password_file: {type: path, default: "", description: "Of the vault; not needed for a directory."}
  ansible_vault: {type: path, default: ansible-vault, description: The program.}
author: Holdfast
"""
EXAMPLES = "- rotation_store: {path: vault.yml, state: read, names: {registry_password: vault_registry_password}, tokens_directory: tokens}"
RETURN = """
stage: {type: str, returned: always, description: "accept, use or drop; empty when no rotation is under way."}
reached: {type: bool, returned: always, description: Whether all hosts have reached it.}
steps: {type: list, returned: read, description: The stages to go through for the wanted one.}
wrong: {type: str, returned: read, description: "Why the wanted stage cannot come now, and the cure; empty if it can."}
given: {type: dict, returned: always, description: The variables of all hosts at this stage.}
retired: {type: dict, returned: always, description: The old values by variable and the old tokens; to be tried later.}
tokens: {type: dict, returned: always, description: The new tokens by client.}
"""

STAGES = ["accept", "use", "drop"]
KINDS = {
    "redis": ["redis_node_service_password", "redis_node_operator_password", "redis_node_replica_password"],
    "secret_key": ["app_secret_key"],
    "registry": ["registry_password"],
}
#: What hosts accept beside the one in use.
OVERLAPPING = KINDS["redis"] + KINDS["secret_key"]
TOKENS = "app_api_tokens"
OLD = ".old"
ROTATION = "rotation"
Store = dict[str, Any]


def random_text(length: int = 48) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def steps(rotation: Store, wanted: str) -> tuple[list[str], str]:
    """The stages that lead from where the rotation stands to the wanted one; or why there is no such way."""
    stage, reached = rotation.get("stage", ""), rotation.get("reached", False)
    at = STAGES.index(stage) if stage else -1
    first, last = at + (1 if reached or not stage else 0), STAGES.index(wanted)
    if wanted == "drop" and first < last:
        return [], "There is nothing to drop: the new values are not in use everywhere. Run it with -e stage=use first."
    if first > last:
        following = STAGES[min(first, 2)]
        return [], f"The stage {wanted} is behind us: this rotation has reached {stage}. Next comes -e stage={following}."
    return STAGES[first : last + 1], ""


def accept(held: Store, kinds: list[str], tokens_directory: Path) -> Store:
    """Everything is accepted in its old and its new form; nothing new is used."""
    variables = [name for kind in kinds if kind != "tokens" for name in KINDS[kind]]
    rotation: Store = {
        "stage": "accept",
        "reached": False,
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kinds": kinds,
        "new": {name: random_text() for name in variables},
        "retired": {name: held[name] for name in variables},
        "tokens": {},
        "retired_tokens": {},
    }
    after = held | {f"{name}_previous": rotation["new"][name] for name in variables if name in OVERLAPPING}
    if "tokens" in kinds:
        listed = []
        for entry in held[TOKENS]:
            name, token, file = entry["name"], random_text(43), tokens_directory / entry["name"]
            rotation["tokens"][name] = token
            if file.is_file() and sha256(file.read_text().strip()) == entry["sha256"]:
                rotation["retired_tokens"][name] = file.read_text().strip()
            listed += [entry | {"sha256": sha256(token)}, entry | {"name": name + OLD}]
        after[TOKENS] = listed
    return after | {ROTATION: rotation}


def use(held: Store) -> Store:
    """The new values are used, the old ones still accepted."""
    rotation = held[ROTATION]
    after = held | rotation["new"] | {f"{name}_previous": old for name, old in rotation["retired"].items() if name in OVERLAPPING}
    return after | {ROTATION: rotation | {"stage": "use", "reached": False}}


def drop(held: Store) -> Store:
    """The old values are not accepted any more. They stay in the store until it was seen that they are refused."""
    rotation = held[ROTATION]
    after = held | {f"{name}_previous": "" for name in rotation["new"] if name in OVERLAPPING}
    if "tokens" in rotation["kinds"]:
        after[TOKENS] = [entry for entry in held[TOKENS] if not entry["name"].endswith(OLD)]
    return after | {ROTATION: rotation | {"stage": "drop", "reached": False}}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, text: str) -> None:
    """Replaces the file in one step: a run that is killed leaves the old one or the new one."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class Vault:
    """One encrypted YAML file. What is in it beside our variables is kept."""

    def __init__(self, path: Path, names: dict[str, str], password_file: str, program: str) -> None:
        self.path, self.names = path, names | {ROTATION: "vault_rotation"}
        self.command = [program, "{}", *(["--vault-password-file", password_file] if password_file else [])]
        self.all: Store = {}

    def _run(self, verb: str, *arguments: str, text: str | None = None) -> str:
        command = [verb if part == "{}" else part for part in self.command] + list(arguments)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"ansible-vault {verb} failed: {done.stderr.strip()[-300:]}")
        return done.stdout

    def read(self) -> Store:
        self.all = yaml.safe_load(self._run("view", str(self.path))) or {}
        return {variable: self.all[name] for variable, name in self.names.items() if name in self.all}

    def write(self, held: Store) -> None:
        ours = {self.names[variable]: value for variable, value in held.items()}
        rest = {name: value for name, value in self.all.items() if name not in self.names.values()}
        new = self.path.with_name(self.path.name + ".new")
        new.unlink(missing_ok=True)
        self._run("encrypt", "--output", str(new), text=yaml.safe_dump(rest | ours, sort_keys=False))
        new.chmod(0o600)
        new.replace(self.path)


class Directory:
    """A file for each secret; lists as JSON. What is under way counts before the files, which are written after it."""

    def __init__(self, path: Path, names: dict[str, str]) -> None:
        self.path, self.names, self.journal = path, names, path / "rotation.json"

    def read(self) -> Store:
        held: Store = {}
        for variable, name in self.names.items():
            text = (self.path / name).read_text() if (self.path / name).is_file() else ""
            held[variable] = json.loads(text) if name.endswith(".json") else text.strip()
        return held | (json.loads(self.journal.read_text()) if self.journal.is_file() else {})

    def write(self, held: Store) -> None:
        if ROTATION in held:
            write(self.journal, json.dumps(held))
        for variable, name in self.names.items():
            write(self.path / name, json.dumps(held[variable], indent=1) if name.endswith(".json") else held[variable])
        if ROTATION not in held:
            self.journal.unlink(missing_ok=True)


def act(store: Vault | Directory, state: str, wanted: str, kinds: list[str], tokens_directory: Path, checking: bool) -> dict[str, Any]:
    held = store.read()
    before, rotation = held, held.get(ROTATION, {})
    result: dict[str, Any] = {}
    if state == "read":
        result["steps"], result["wrong"] = steps(rotation, wanted)
        if not result["wrong"] and rotation and kinds and sorted(kinds) != sorted(rotation["kinds"]):
            result["wrong"] = f"A rotation of {', '.join(rotation['kinds'])} is under way. Finish it first, without -e only."
        by_hand = [f"{name}_previous" for name in OVERLAPPING if held.get(f"{name}_previous") and not rotation]
        if by_hand:
            result["wrong"] = f"Somebody rotates by hand: {', '.join(by_hand)} is set. Finish that, or empty it, and run this again."
    elif state == "accept":
        held = held if rotation else accept(held, kinds or [*KINDS, "tokens"], tokens_directory)
    elif state == "use":
        held = use(held)
        for name, token in {} if checking else held[ROTATION]["tokens"].items():
            tokens_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(tokens_directory / name, token)
    elif state == "drop":
        held = drop(held)
    elif state == "reached":
        held = held | {ROTATION: rotation | {"reached": True}}
    else:
        held = {name: value for name, value in held.items() if name != ROTATION}
    if held != before and not checking:
        store.write(held)
    rotation = held.get(ROTATION, {})
    return result | {
        "changed": held != before,
        "stage": rotation.get("stage", ""),
        "reached": rotation.get("reached", False),
        "kinds": rotation.get("kinds", kinds or [*KINDS, "tokens"]),
        "given": {name: value for name, value in held.items() if name != ROTATION},
        "retired": rotation.get("retired", {}) | {"tokens": rotation.get("retired_tokens", {})},
        "tokens": rotation.get("tokens", {}),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "names": {"type": "dict", "required": True},
            "state": {"choices": ["read", *STAGES, "reached", "over"], "required": True},
            "wanted": {"default": ""},
            "kinds": {"type": "list", "elements": "str", "default": []},
            "tokens_directory": {"type": "path", "required": True, "no_log": False},
            "password_file": {"type": "path", "default": "", "no_log": False},
            "ansible_vault": {"type": "path", "default": "ansible-vault"},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = Path(given["path"])
    store: Vault | Directory
    if path.is_dir():
        store = Directory(path, given["names"])
    else:
        store = Vault(path, given["names"], given["password_file"], given["ansible_vault"])
    try:
        result = act(store, given["state"], given["wanted"], given["kinds"], Path(given["tokens_directory"]), module.check_mode)
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"The store of secrets {path} cannot be used: {error!r}. Nothing was changed.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()

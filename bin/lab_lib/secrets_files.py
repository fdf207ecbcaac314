"""The lab's secrets: made once, kept in `.lab` with mode 0600, never in the repository."""

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path

from . import paths

PASSWORDS = (
    "secret_key",
    "redis_service_password",
    "redis_operator_password",
    "redis_replica_password",
    "registry_password",
    "pki_ca_passphrase",
    "redis_backup_password",
    "backup_repository_password",
    "backup_server_secret",
)
ROLES = ("read", "write", "admin")


def make() -> str:
    """Make what is missing; never replaces one. Returns a note for the step's line."""
    for folder in (paths.SECRETS, paths.TOKENS, paths.PKI):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = sum(_keep(paths.SECRETS / name) for name in PASSWORDS)
    made += sum(_keep(paths.TOKENS / role) for role in ROLES)
    hashed = [
        {
            "name": role,
            "role": role,
            "sha256": hashlib.sha256((paths.TOKENS / role).read_bytes()).hexdigest(),
            "rate_limit": "unlimited",
        }
        for role in ROLES
    ]
    _keep_extra_ca()
    # While runbooks/rotate_secrets.yml is at work the list holds the old tokens as well.
    if not (paths.SECRETS / "rotation.json").exists():
        _write(paths.SECRETS / "api_tokens.json", json.dumps(hashed, indent=1))
    return f"{made} made" if made else "there"


def _keep_extra_ca() -> None:
    """The private CAs an administrator added to this machine, handed on to hosts and image builds."""
    pems = [place.read_text().strip() for place in sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt"))]
    place = paths.STATE / "extra_ca.pem"
    place.unlink(missing_ok=True)
    if pems:
        _write(place, "\n".join(pems) + "\n")


def _keep(place: Path) -> bool:
    if place.exists():
        return False
    _write(place, secrets.token_hex(32))
    return True


def _write(place: Path, text: str) -> None:
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def remove() -> str:
    """Remove the lab's state but its logs."""
    for place in paths.STATE.iterdir():
        if place != paths.LOGS:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    return "removed"

"""Where things are. Everything the lab creates on this machine lives in `.lab` and `.venv` of this checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
STATE = ROOT / ".lab"
LOGS = STATE / "log"
SECRETS = STATE / "secrets"
TOKENS = STATE / "tokens"
PKI = STATE / "pki"
SSH_KEY = STATE / "ssh" / "id_ed25519"
KNOWN_HOSTS = STATE / "ssh" / "known_hosts"
CA_FILE = PKI / "ca.pem"
INVENTORY = ROOT / "inventories" / "lab"
HOST_IMAGE = ROOT / "bin" / "lab_lib" / "host"

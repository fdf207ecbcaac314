#!/usr/bin/env python3
"""An inventory script: what bin/lab decided when it made this lab, and where it keeps what it made.

Plain values and no templates: Ansible compiles a template anew for each task on each host, and these are needed by all.
"""

import json
from pathlib import Path

STATE = Path(__file__).resolve().parents[2] / ".lab"
PREFIX = STATE / "address_prefix"

print(
    json.dumps(
        {
            "all": {
                "vars": {
                    "lab_state_dir": str(STATE),
                    "lab_address_prefix": PREFIX.read_text().strip() if PREFIX.exists() else "172.30.77",
                }
            },
            "lab": {
                "vars": {
                    "ansible_user": "admin",
                    "ansible_ssh_private_key_file": str(STATE / "ssh/id_ed25519"),
                    "ansible_ssh_common_args": f"-o UserKnownHostsFile={STATE}/ssh/known_hosts -o IdentitiesOnly=yes",
                }
            },
            "_meta": {"hostvars": {}},
        }
    )
)

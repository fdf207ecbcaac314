#!/usr/bin/python
"""Asks many hosts at once whether their SSH server answers."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: region_reach
short_description: Which hosts answer SSH
description: Changes nothing. All are asked at once, so hosts without power cost the timeout once.
options:
  hosts: {type: dict, required: true, description: "Name of each host, and its address and port."}
  seconds: {type: float, default: 2, description: How long a host may take to send the first bytes of SSH.}
author: Holdfast
"""
EXAMPLES = "- region_reach: {hosts: {a1: [192.0.2.11, 22]}}"
RETURN = """
answering: {type: list, returned: always, description: Names of those that answer.}
"""


def answers(address: str, port: int, seconds: float) -> bool:
    try:
        with socket.create_connection((address, port), timeout=seconds) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def main() -> None:
    options = {"hosts": {"type": "dict", "required": True}, "seconds": {"type": "float", "default": 2.0}}
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    hosts, seconds = module.params["hosts"], module.params["seconds"]
    with ThreadPoolExecutor(max_workers=max(1, min(64, len(hosts)))) as pool:
        said = pool.map(lambda where: answers(where[0], int(where[1]), seconds), hosts.values())
        module.exit_json(changed=False, answering=[name for name, yes in zip(hosts, said, strict=True) if yes])


if __name__ == "__main__":
    main()

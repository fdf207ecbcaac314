#!/usr/bin/python
"""Asks name servers what they answer for the public names, over UDP; a server that does not answer is a result, not an error."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: dns_failover_ask
short_description: What name servers answer for cp, ap and epoch of a domain
description: Changes nothing. Fails only on wrong arguments.
options:
  domain: {type: str, required: true, description: Name of the zone.}
  servers: {type: list, elements: str, required: true, description: Addresses of the name servers.}
  port: {type: int, default: 53, description: Their UDP port.}
  timeout_seconds: {type: float, default: 1, description: How long to wait for one answer; each question is asked three times at most.}
author: Holdfast
"""
EXAMPLES = """
- dns_failover_ask:
    domain: kv.example.net
    servers: [192.0.2.20]
"""
RETURN = """
answers:
  type: list
  returned: always
  description: "For each server: server, answers (whether every question was answered), region, epoch, cp, ap (addresses), problem."
"""

TYPES = {"A": 1, "TXT": 16, "AAAA": 28}
CODES = {1: "format error", 2: "server failure", 3: "no such name", 5: "refused: it does not have this zone"}


class NoAnswer(Exception):
    """The text says why."""


def question(number: int, name: str, kind: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    return struct.pack(">6H", number, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", TYPES[kind], 1)


def skip_name(packet: bytes, at: int) -> int:
    while packet[at]:
        if packet[at] >= 0xC0:
            return at + 2
        at += packet[at] + 1
    return at + 1


def parse(packet: bytes, kind: str) -> list[str]:
    """The answers of that type. Raises NoAnswer, IndexError, struct.error, ValueError."""
    _, flags, questions, answers = struct.unpack(">4H", packet[:8])
    if flags & 0x000F:
        raise NoAnswer(CODES.get(flags & 0x000F, f"error {flags & 0x000F}"))
    at = 12
    for _ in range(questions):
        at = skip_name(packet, at) + 4
    found = []
    for _ in range(answers):
        at = skip_name(packet, at)
        this, _, _, length = struct.unpack(">2HIH", packet[at : at + 10])
        data = packet[at + 10 : at + 10 + length]
        at += 10 + length
        if this == TYPES[kind]:
            found.append(data[1 : 1 + data[0]].decode() if kind == "TXT" else str(ipaddress.ip_address(data)))
    return found


def ask(server: str, port: int, name: str, kind: str, seconds: float) -> list[str]:
    """Raises NoAnswer."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    problem = f"no answer within {seconds:g} s, three times"
    for _ in range(3):
        number = int.from_bytes(os.urandom(2), "big")
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as link:
                link.connect((server, port))
                link.send(question(number, name, kind))
                end = time.monotonic() + seconds
                while (left := end - time.monotonic()) > 0:
                    link.settimeout(left)
                    packet = link.recv(4096)
                    if packet[:2] == number.to_bytes(2, "big"):
                        return sorted(parse(packet, kind))
        except TimeoutError:
            continue
        except OSError as error:
            problem = error.strerror or str(error)
            time.sleep(0.2)
        except (IndexError, struct.error, ValueError):
            problem = "its answer cannot be read"
    raise NoAnswer(problem)


def look(server: str, port: int, domain: str, seconds: float) -> dict[str, Any]:
    result: dict[str, Any] = {"server": server, "answers": False, "region": "", "epoch": -1, "cp": [], "ap": [], "problem": ""}
    try:
        held = ask(server, port, f"epoch.{domain}", "TXT", seconds)
        region, epoch = held[0].split(" ") if len(held) == 1 else ("", "")
        result |= {"region": region, "epoch": int(epoch)}
        for face in ("cp", "ap"):
            result[face] = ask(server, port, f"{face}.{domain}", "A", seconds) + ask(server, port, f"{face}.{domain}", "AAAA", seconds)
    except NoAnswer as problem:
        return result | {"problem": str(problem)}
    except ValueError:
        return result | {"problem": f"epoch.{domain} holds no region and epoch"}
    return result | {"answers": True}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "domain": {"type": "str", "required": True},
            "servers": {"type": "list", "elements": "str", "required": True},
            "port": {"type": "int", "default": 53},
            "timeout_seconds": {"type": "float", "default": 1},
        },
        supports_check_mode=True,
    )
    p = module.params
    module.exit_json(changed=False, answers=[look(server, p["port"], p["domain"], p["timeout_seconds"]) for server in p["servers"]])


if __name__ == "__main__":
    main()

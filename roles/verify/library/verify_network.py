#!/usr/bin/python
"""Looks at another host from this one: which TCP ports are open, what its edge's TLS accepts, whether it wants a token."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import ipaddress
import json
import resource
import select
import socket
import ssl
import time
import warnings
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: verify_network
short_description: What the checklist asks of a host, seen from another host
description: Changes nothing. Tries every TCP port once, and those that should be open again before it calls them closed.
options:
  address: {type: str, required: true, description: The host to look at.}
  openings: {type: list, elements: dict, required: true, description: "Its firewall's openings: name, ports, from."}
  admin_networks: {type: list, elements: str, required: true, description: From where it takes SSH.}
  ssh_port: {type: int, required: true, description: Its SSH port.}
  edge_ports: {type: list, elements: int, required: true, description: Ports of its edge; empty where it has none.}
  registry_port: {type: int, required: true, description: Port of its image registry; 0 where it has none.}
  server_name: {type: str, required: true, description: Name in the edge's certificate.}
  ca_file: {type: str, required: true, description: "The CA's certificate, on the host that looks."}
author: Holdfast
"""
EXAMPLES = """
- verify_network:
    address: 192.0.2.1
    openings: []
    admin_networks: [192.0.2.0/24]
    ssh_port: 22
    edge_ports: []
    registry_port: 0
    server_name: a1.example.net
    ca_file: /etc/ssl/ca.pem
"""
RETURN = """
items: {type: list, returned: always, description: "Dictionaries with section, item, passed and evidence."}
"""

ANSWER_SEC = 0.6
AT_ONCE = 6000


def is_open(address: str, port: int, seconds: float) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), timeout=seconds).close()
        return True
    return False


def scan(address: str, ports: list[int]) -> set[int]:
    """Those of ``ports`` that answer within ANSWER_SEC."""
    found = set()
    for start in range(0, len(ports), AT_ONCE):
        poller, waiting = select.epoll(), {}
        for port in ports[start : start + AT_ONCE]:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            if sock.connect_ex((address, port)) in (0, errno.EINPROGRESS):
                waiting[sock.fileno()] = (sock, port)
                poller.register(sock.fileno(), select.EPOLLOUT)
            else:
                sock.close()
        end = time.monotonic() + ANSWER_SEC
        while waiting and (left := end - time.monotonic()) > 0:
            for number, _event in poller.poll(left):
                sock, port = waiting.pop(number)
                poller.unregister(number)
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.add(port)
                sock.close()
        for sock, _port in waiting.values():
            sock.close()
        poller.close()
    return found


def own_address(towards: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))
        return str(probe.getsockname()[0])


def lets_in(sources: list[str], address: str) -> bool:
    """Whether an opening's ``from`` holds ``address``; the names `any` and `containers` are the firewall's own."""
    return any(
        source == "any" or (source != "containers" and ipaddress.ip_address(address) in ipaddress.ip_network(source, strict=False))
        for source in sources
    )


def exposure(given: dict[str, Any]) -> tuple[bool, str]:
    own, address = own_address(given["address"]), given["address"]
    declared = {int(port) for opening in given["openings"] if lets_in(opening["from"], own) for port in opening["ports"]}
    if lets_in(given["admin_networks"], own):
        declared.add(given["ssh_port"])
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit if limit < 0 else min(limit, AT_ONCE + 256), limit))
    found = scan(address, list(range(1, 65536)))
    closed = [port for port in sorted(declared - found) if not is_open(address, port, 3.0)]
    surplus = sorted(found - declared)
    said = f"from {own}: open {sorted(declared) or 'nothing'}, as declared; all 65535 ports tried"
    if surplus or closed:
        said = f"from {own}: open but not declared {surplus or 'none'}; declared but closed {closed or 'none'}"
    return not surplus and not closed, said


def handshake(address: str, port: int, context: ssl.SSLContext, name: str) -> str:
    with socket.create_connection((address, port), timeout=5) as plain, context.wrap_socket(plain, server_hostname=name) as secured:
        return str(secured.version())


def old_client(**settings: Any) -> ssl.SSLContext:
    """A client that offers what a server of ours must refuse."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version = settings.get("lowest", ssl.TLSVersion.TLSv1_2)
        context.maximum_version = settings.get("highest", ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(settings.get("ciphers", "ALL:@SECLEVEL=0"))
    return context


def tls(given: dict[str, Any], ports: list[int]) -> tuple[bool, str]:
    good = ssl.create_default_context(cafile=given["ca_file"])
    bad = {
        "TLS 1.0": old_client(lowest=ssl.TLSVersion.TLSv1, highest=ssl.TLSVersion.TLSv1),
        "TLS 1.1": old_client(lowest=ssl.TLSVersion.TLSv1_1, highest=ssl.TLSVersion.TLSv1_1),
        "CBC ciphers": old_client(ciphers="AES128-SHA:AES256-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),
    }
    accepted = []
    for port in ports:
        version = handshake(given["address"], port, good, given["server_name"])
        for name, context in bad.items():
            with contextlib.suppress(OSError):
                handshake(given["address"], port, context, given["server_name"])
                accepted.append(f"{port} takes {name}")
    return not accepted, "; ".join(accepted) or f"{version}, verified; refuses {', '.join(bad)}"


def edge_tls(given: dict[str, Any]) -> tuple[bool, str]:
    return tls(given, given["edge_ports"])


def registry_tls(given: dict[str, Any]) -> tuple[bool, str]:
    return tls(given, [given["registry_port"]])


def registry_password(given: dict[str, Any]) -> tuple[bool, str]:
    made_up = {"Authorization": "Basic " + base64.b64encode(b"holdfast:0123456789abcdef").decode()}
    statuses = {
        kind: ask(given, given["registry_port"], "/v2/_catalog", headers)
        for kind, headers in {"without a password": {}, "with a made-up password": made_up}.items()
    }
    return set(statuses.values()) == {401}, ", ".join(f"{what}: {status}" for what, status in statuses.items())


def answer(given: dict[str, Any], port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=given["ca_file"])
    connection = http.client.HTTPSConnection(given["server_name"], port, timeout=5, context=context)
    connection.sock = context.wrap_socket(
        socket.create_connection((given["address"], port), timeout=5), server_hostname=given["server_name"]
    )
    try:
        connection.request("GET", path, headers=headers)
        said = connection.getresponse()
        return said.status, said.read()
    finally:
        connection.close()


def ask(given: dict[str, Any], port: int, path: str, headers: dict[str, str]) -> int:
    return answer(given, port, path, headers)[0]


def edge_tokens(given: dict[str, Any]) -> tuple[bool, str]:
    statuses = {
        f"{port} {kind}": ask(given, port, "/read/verify", headers)
        for port in given["edge_ports"]
        for kind, headers in {
            "without a token": {},
            "with a made-up token": {"Authorization": "Bearer 0123456789abcdef0123456789abcdef"},
        }.items()
    }
    return set(statuses.values()) == {401}, ", ".join(f"{what}: {status}" for what, status in statuses.items())


def edge_health(given: dict[str, Any]) -> tuple[bool, str]:
    """Ready; or, in the region that does not serve, closed because it stands by."""
    said = {port: answer(given, port, "/health", {}) for port in given["edge_ports"]}
    states = {port: "ready" if status == 200 else str(json.loads(body).get("reason", status)) for port, (status, body) in said.items()}
    return set(states.values()) in ({"ready"}, {"standby"}), ", ".join(f"{port} {state}" for port, state in states.items())


def main() -> None:
    kinds = {"address": "str", "ssh_port": "int", "registry_port": "int", "server_name": "str", "ca_file": "str"}
    lists = {"openings": "dict", "admin_networks": "str", "edge_ports": "int"}
    module = AnsibleModule(
        argument_spec={
            **{name: {"type": kind, "required": True} for name, kind in kinds.items()},
            **{name: {"type": "list", "elements": kind, "required": True} for name, kind in lists.items()},
        },
        supports_check_mode=True,
    )
    checks = [("Security", "Open ports are the declared ones", exposure)]
    if module.params["edge_ports"]:
        checks += [
            ("Security", "The edge speaks TLS 1.2 or newer, strong ciphers only", edge_tls),
            ("Security", "The edge refuses who has no token", edge_tokens),
            ("High availability", "The zone's edge is ready on both faces", edge_health),
        ]
    if module.params["registry_port"]:
        checks += [
            ("Security", "The registry speaks TLS 1.2 or newer, strong ciphers only", registry_tls),
            ("Security", "The registry refuses who has no password", registry_password),
        ]
    items = []
    for section, item, check in checks:
        try:
            passed, evidence = check(module.params)
        except (OSError, ValueError, http.client.HTTPException) as problem:
            passed, evidence = False, f"could not be checked: {problem}"
        items.append({"section": section, "item": item, "passed": passed, "evidence": evidence})
    module.exit_json(changed=False, items=items)


if __name__ == "__main__":
    main()

"""Where nodes are: ``name=host:port`` lists of the settings. Problems are SettingsErrors of one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import SettingsError

_NODE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(name: str, text: str) -> Address:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise SettingsError(f"{name} holds {text!r}: write host:port")
    return Address(host, int(port))


def parse_nodes(text: str, setting: str = "NODES") -> dict[str, Address]:
    """``db_g1=host:port,db_g2=...`` into name -> address, in the given order."""
    nodes: dict[str, Address] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, address = item.partition("=")
        if not equals or not _NODE.fullmatch(name):
            raise SettingsError(f"{setting} holds {item!r}: write name=host:port,name=host:port,...")
        if name in nodes:
            raise SettingsError(f"{setting} names {name} twice: each node is listed once")
        nodes[name] = parse_address(setting, address)
    if not nodes:
        raise SettingsError(f"{setting} is empty: list every node of the region as name=host:port,...")
    by_address: dict[Address, str] = {}
    for name, where in nodes.items():
        if where in by_address:
            raise SettingsError(
                f"{setting} gives {by_address[where]} and {name} the same address {where}: "
                "two names of one server would be a false majority"
            )
        by_address[where] = name
    return nodes


def parse_peers(text: str, nodes: Mapping[str, Address]) -> dict[str, Address]:
    """PEER_NODES: the other region's nodes, which bear the same names; none if it is empty."""
    peers = parse_nodes(text, "PEER_NODES") if text else {}
    if peers and set(peers) != set(nodes):
        raise SettingsError(
            f"PEER_NODES names {', '.join(peers)} and NODES {', '.join(nodes)}: a node and its copy bear the same name"
        )
    for name, where in peers.items():
        if where in nodes.values():
            raise SettingsError(
                f"PEER_NODES gives {name} the address {where}, which is in NODES: list the other region's"
            )
    return peers

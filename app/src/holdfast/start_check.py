"""What `serve` and `replicate` look at once, before they start: does a node answer, is each a server of its own?

Two names of one server would be a false majority. The guards already keep such a pair from voting twice; a deployment
that is wired so must not start at all. Servers are told apart by Redis's run id, which no address, proxy or name can
change. A node that is away now is not compared: its guard decides when it comes.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping

from .errors import SettingsError
from .link import Answer, Done, Failed, NodeLink, Outcome, plain_command
from .logs import LOG, event
from .settings import Settings

#: How long to wait for the first node: the nodes may be starting with us.
WAIT_SEC = 10.0
PAUSE_SEC = 0.3


def check_nodes(settings: Settings, wait_sec: float = WAIT_SEC) -> None:
    """Raises SettingsError if two names are one server, or if no node at all answered within ``wait_sec``."""
    problems: dict[str, str] = {}
    links = {
        name: NodeLink(name, address, settings.redis, settings.network_timeout_sec, _note(problems, name))
        for name, address in settings.nodes.items()
    }
    for link in links.values():
        link.start()
    try:
        until = time.monotonic() + wait_sec
        while True:
            told = _ask(links, settings.network_timeout_sec)
            servers = {name: run_id for name, one in told.items() if (run_id := _run_id(one))}
            if servers or time.monotonic() >= until:
                break
            time.sleep(PAUSE_SEC)
    finally:
        for link in links.values():
            link.stop()
    _refuse_one_server_twice(settings, servers)
    away = {name: problems.get(name) or _reason(told[name]) for name in links if name not in servers}
    if not servers:
        listed = "; ".join(f"{name} at {settings.nodes[name]}: {why}" for name, why in away.items())
        raise SettingsError(
            f"NODES: no node answered within {wait_sec:g} s ({listed}): start the nodes, or correct NODES, "
            "REDIS_TLS or the secret redis_password"
        )
    for name, why in away.items():
        event(LOG, logging.WARNING, "NODE_AWAY_AT_START", node=name, problem=why[:300])


def _refuse_one_server_twice(settings: Settings, servers: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for name, run_id in servers.items():
        other = first.setdefault(run_id, name)
        if other != name:
            raise SettingsError(
                f"NODES gives {other} at {settings.nodes[other]} and {name} at {settings.nodes[name]}, which are the "
                "same server: two names of one server would be a false majority; correct NODES"
            )


def _ask(links: Mapping[str, NodeLink], timeout_sec: float) -> dict[str, Outcome]:
    """``INFO server`` of every node, all at once."""
    box: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
    until = time.monotonic() + timeout_sec
    for name, link in links.items():
        link.submit(plain_command(("INFO", "server"), until, _deliver(box, name)))
    told: dict[str, Outcome] = dict.fromkeys(links, Failed("timeout", False))
    for _ in links:
        try:
            name, outcome = box.get(timeout=max(0.001, until + 0.1 - time.monotonic()))
        except queue.Empty:
            break
        told[name] = outcome
    return told


def _deliver(box: queue.SimpleQueue[tuple[str, Outcome]], name: str) -> Done:
    return lambda outcome: box.put((name, outcome))


def _note(problems: dict[str, str], name: str) -> Callable[[str | None], None]:
    def noted(failure: str | None) -> None:
        if failure is None:
            problems.pop(name, None)
        else:
            problems[name] = " ".join(failure.split())

    return noted


def _run_id(outcome: Outcome) -> str:
    if not isinstance(outcome, Answer):
        return ""
    lines = outcome.value.decode("utf-8", "replace").splitlines()
    return next((line[7:] for line in lines if line.startswith("run_id:")), "")


def _reason(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, Failed) else "its INFO holds no run_id"

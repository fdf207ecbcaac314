#!/usr/bin/python
"""Whether a node may be restarted: the nodes that are left must be a majority of confirmed voters, by what they say themselves."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: redis_node_voters
short_description: Waits until the other nodes are a majority of voters, and fails when they do not become one
description:
  - A node votes when its guard says so (member or promoted), under the region epoch and the membership epoch of the others, and was
    confirmed since its last start. One that was restarted just before is often not confirmed yet; that takes seconds and is waited for.
  - Where no majority votes anyhow (new nodes, a region that is fenced), a restart takes nothing away. Then the others must answer, no more.
  - Changes nothing. The nodes are asked from within the container of the one that is to be restarted, all at once.
options:
  node: {type: str, required: true, description: The node to be restarted.}
  others: {type: list, elements: dict, required: true, description: "The region's other nodes: name, address, port."}
  confirmed: {type: bool, required: true, description: "Whether a node that was started must be confirmed: where there is another region."}
  seconds: {type: float, default: 30, description: How long to wait.}
author: Holdfast
"""
EXAMPLES = """
- redis_node_voters:
    node: db_g1
    others: [{name: db_g2, address: 192.0.2.12, port: 6379}, {name: db_g3, address: 192.0.2.13, port: 6379}]
    confirmed: true
"""
RETURN = """
voting: {type: list, returned: success, description: Those of the others that vote; empty where no majority votes anyhow.}
"""

VOTING = ("member", "promoted")
LOOK = """
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'confirmed')
for i = 1, 6 do if not g[i] then g[i] = '' end end
g[7] = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
return table.concat(g, ' ')
"""


class Said(NamedTuple):
    """A node's guard, as it says it, and the run of its process; empty texts where there is no guard."""

    state: str
    region: str
    node: str
    region_epoch: str
    membership_epoch: str
    confirmed: str
    run_id: str


class Verdict(NamedTuple):
    """``why`` the node must not be restarted now, empty if it may be; the others that ``voting`` counted."""

    why: str
    voting: list[str]


def read(answer: str) -> Said | None:
    fields = answer.strip("\n").split(" ")
    return Said(*fields) if len(fields) == len(Said._fields) and fields[-1] else None


def judge(node: str, said: Mapping[str, Said | None], confirmed: bool) -> Verdict:
    """``said``: what every node of the region says, ``node`` too; None: it does not answer."""
    needed = len(said) // 2 + 1
    votes = {name: one for name, one in said.items() if one and one.state in VOTING and one.node == name}
    top, count = max(Counter((one.region, one.region_epoch) for one in votes.values()).items(), key=lambda i: i[1], default=(("", ""), 0))
    over = any(one.region == top[0] and _number(one.region_epoch) > _number(top[1]) for one in said.values() if one)
    if count < needed or over:  # no majority votes with this node either
        silent = [name for name, one in said.items() if one is None and name != node]
        enough = len(said) - 1 - len(silent) >= needed
        return Verdict("" if enough else "; ".join(f"{name} does not answer" for name in silent), [])
    able = {n: one for n, one in votes.items() if n != node and (one.region, one.region_epoch) == top}
    able = {n: one for n, one in able.items() if not confirmed or one.confirmed in (one.run_id, "")}
    # While the membership epoch is being raised, nobody votes until it is the same on a majority.
    epochs = Counter(one.membership_epoch for one in able.values())
    voting = [n for n, one in able.items() if one.membership_epoch == max(epochs, key=lambda epoch: epochs[epoch])]
    if len(voting) >= needed:
        return Verdict("", voting)
    return Verdict("; ".join(_why_not(n, one, top, n in able) for n, one in said.items() if n not in (node, *voting)), voting)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _why_not(name: str, said: Said | None, top: tuple[str, str], able: bool) -> str:
    if said is None:
        return f"{name} does not answer"
    if not said.state:
        return f"{name} has no guard"
    if said.node != name or said.region != top[0]:
        return f"{name} says that it is {said.node} of region {said.region}"
    if said.state not in VOTING:
        return f"{name} does not vote: it is {said.state}"
    if said.region_epoch != top[1]:
        return f"{name} is at region epoch {said.region_epoch}, the others at {top[1]}"
    if able:
        return f"{name} is at membership epoch {said.membership_epoch}, the others are not"
    return f"{name} was started and nobody has confirmed it yet"


def ask(through: str, where: list[str]) -> Said | None:
    """None: it does not answer, for whatever reason."""
    command = ["docker", "exec", through, "timeout", "3", "redis-cli", "-e", "--raw", *where, "eval", LOOK, "1", "holdfast:guard"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    return read(done.stdout) if done.returncode == 0 else None


def look(node: str, others: list[dict[str, str]]) -> dict[str, Said | None]:
    where = {node: []} | {other["name"]: ["-h", other["address"], "-p", str(other["port"])] for other in others}
    with ThreadPoolExecutor(max_workers=min(16, len(where))) as pool:
        return dict(zip(where, pool.map(lambda options: ask(node, options), where.values()), strict=True))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "node": {"type": "str", "required": True},
            "others": {"type": "list", "elements": "dict", "required": True},
            "confirmed": {"type": "bool", "required": True},
            "seconds": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    p = module.params
    end = time.monotonic() + p["seconds"]
    while (verdict := judge(p["node"], look(p["node"], p["others"]), p["confirmed"])).why and time.monotonic() < end:
        time.sleep(1)
    if verdict.why:
        module.fail_json(
            msg=f"{p['node']} was not restarted: without it the region has no majority that votes. {verdict.why}. Bring them up first: "
            "`docker exec app_cp_1 holdfast region status` shows what each says, `holdfast repair --all` heals those that are recovering, "
            "and an instance of the service that runs confirms those that were started."
        )
    module.exit_json(changed=False, voting=verdict.voting)


if __name__ == "__main__":
    main()

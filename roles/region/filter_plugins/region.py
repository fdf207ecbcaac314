"""What `holdfast region status` means for a runbook: who serves, how far behind the standby is, under which epoch to go on."""

from __future__ import annotations

from typing import Any

VOTING = ("member", "promoted")
Nodes = dict[str, dict[str, Any]]


def _of(nodes: Nodes, region: str) -> list[dict[str, Any]]:
    """The primaries whose guard is the region's own, and no copy."""
    return [node for node in nodes.values() if node.get("role") == "primary" and node.get("region") == region]


def _serves(nodes: Nodes, region: str) -> bool:
    return sum(node.get("state") in VOTING for node in _of(nodes, region)) > len(nodes) // 2


def _epoch(nodes: Nodes, region: str) -> int:
    return max((int(node.get("region_epoch") or 0) for node in _of(nodes, region)), default=0)


def _begun(status: dict[str, Any], other: str) -> int:
    """The epoch of a change of region that was begun and not ended; 0 if none was."""
    epoch = int(status["epoch"])
    changing = [node for node in _of(status["peers"], other) if node.get("state") == "fenced"]
    changing += [node for node in _of(status["nodes"], status["region"]) if node.get("state") == "recovering"]
    return epoch if any(node.get("region_epoch") == epoch for node in changing) else 0


def _active(region: str, nodes: Nodes, other: str, peers: Nodes) -> list[str]:
    ours, theirs = _epoch(nodes, region), _epoch(peers, other)
    if not _serves(nodes, region):
        return []
    if _serves(peers, other) and theirs >= ours:
        return [
            f"both regions claim to be active: {region} at epoch {ours}, {other} at {theirs}. Find out which one clients use, "
            "fence the other one (`holdfast region fence`), then run this again"
        ]
    return [f"{region} serves already, at epoch {ours}: there is nothing to take over"]


def _missing(region: str, nodes: Nodes) -> list[str]:
    away = [name for name, node in nodes.items() if not node.get("reachable")]
    bare = [name for name, node in nodes.items() if node.get("role") == "replica" and node.get("lag_seconds") is None]
    said = [
        f"{name} of {region} does not answer, and an acknowledged write may be there only. Start it; "
        f'if it is gone for good: -e \'{{"without": ["{name}"]}}\''
        for name in away
    ]
    return said + [f"{name} of {region} holds no copy: no heartbeat ever came through to it. There is nothing to promote" for name in bare]


def _behind(name: str, node: dict[str, Any], peer: dict[str, Any]) -> str:
    if not node.get("reachable"):
        return f"{name}: does not answer"
    lag, theirs, ours = node.get("lag_seconds"), peer.get("offset"), node.get("primary_offset")
    seconds = "" if lag is None else f", {lag:.1f} s behind"
    size = "bytes behind unknown" if theirs is None or ours is None else f"{max(0, theirs - ours)} bytes behind"
    return f"{name}: {node.get('role')}, link {node.get('link')}, {node.get('keys')} keys{seconds}, {size}"


def region_plan(
    status: dict[str, Any],
    other: str,
    rpo_seconds: float,
    accept_data_loss: float = 0,
    without: list[str] | None = None,
    planned: bool = False,
) -> dict[str, Any]:
    """``status`` as a node of the region to be promoted gives it; ``other``: the region that serves now.

    Returns {"epoch", "lag_seconds" (None: unknown), "behind" (a line for each node), "refusals" (cause and cure, a line each)}.
    ``without``: nodes that are gone for good. ``planned``: both regions are well, and nothing may be lost.
    """
    region, peers = status["region"], status["peers"]
    nodes = {name: node for name, node in status["nodes"].items() if name not in (without or [])}
    refusals = _active(region, nodes, other, peers) + _missing(region, nodes)
    followers = {name: node for name, node in nodes.items() if node.get("role") == "replica"}
    lags = [node.get("lag_seconds") for node in followers.values()]
    lag = max(lags) if lags and None not in lags else None
    if lag is not None and lag > max(rpo_seconds, accept_data_loss):
        refusals.append(
            f"{region} may lack up to {lag:.0f} s of acknowledged writes, and the target is {rpo_seconds:.0f} s. "
            f"To go on all the same: -e accept_data_loss={int(lag) + 60}, with the reason in -e reason"
        )
    cut = [name for name, node in followers.items() if planned and node.get("link") != "up"]
    refusals += [f"{name} of {region} does not follow {other}: nothing may be lost, so wait until it has caught up" for name in cut]
    return {
        "epoch": _begun(status, other) or int(status["epoch"]) + 1,
        "lag_seconds": lag,
        "behind": [_behind(name, node, peers.get(name, {})) for name, node in nodes.items()],
        "refusals": refusals,
    }


def region_serves(status: dict[str, Any], other: str) -> list[str]:
    """Why the region that gave ``status`` is not the one and only that serves; empty if it is."""
    region, nodes, peers = status["region"], status["nodes"], status["peers"]
    if not _serves(nodes, region):
        return [f"{region} does not serve: no majority of its nodes are primaries that vote. If {other} serves, you mean -e to={region}"]
    if _serves(peers, other) and _epoch(peers, other) >= _epoch(nodes, region):
        return _active(region, nodes, other, peers)
    return []


def region_arrived(status: dict[str, Any], epoch: int) -> bool:
    """Whether every copy of the region that gave ``status`` shows its fence at ``epoch``."""
    return all(
        peer.get("role") == "replica" and peer.get("state") == "fenced" and peer.get("region_epoch") == int(epoch)
        for peer in status["peers"].values()
    )


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"region_plan": region_plan, "region_serves": region_serves, "region_arrived": region_arrived}

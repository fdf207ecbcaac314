"""What `holdfast region status` means for a runbook: who serves, how far behind the standby is, under which epoch to go on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

VOTING = ("member", "promoted")
# Above what the copies show, for a region that cannot be asked: it may have been fenced and served again since.
UNSEEN = 10
Nodes = dict[str, dict[str, Any]]


def _of(nodes: Nodes, region: str) -> list[dict[str, Any]]:
    """The primaries whose guard is the region's own, and no copy."""
    return [node for node in nodes.values() if node.get("role") == "primary" and node.get("region") == region]


def _copies(nodes: Nodes, other: str) -> list[dict[str, Any]]:
    """Those that hold the other region's data: followers, and followers that were cut loose."""
    return [node for node in nodes.values() if node.get("region") == other]


def _lag(node: dict[str, Any], source: dict[str, Any]) -> float | None:
    """How old the newest write is that came through, in seconds. ``source``: the node of that name in the other region.

    0 for a copy that shows the fence, after which nothing was written, while its source shows that it stands.
    """
    if node.get("state") == "fenced" and _fenced_at(source, node.get("region"), node.get("region_epoch")):
        return 0.0
    if node.get("lag_seconds") is not None or not node.get("heartbeat"):
        return node.get("lag_seconds")
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(node["heartbeat"])).total_seconds())


def _fenced_at(node: dict[str, Any], region: Any, epoch: Any) -> bool:
    """A primary that shows its own fence. A copy may show one that was taken back since."""
    return bool(_of({"": node}, region)) and node.get("state") == "fenced" and node.get("region_epoch") == epoch


def _serves(nodes: Nodes, region: str) -> bool:
    return sum(node.get("state") in VOTING for node in _of(nodes, region)) > len(nodes) // 2


def _epoch(nodes: Nodes, region: str) -> int:
    return max((int(node.get("region_epoch") or 0) for node in _of(nodes, region)), default=0)


def _begun(epoch: int, fenced: bool, old: list[dict[str, Any]], new: list[dict[str, Any]], copies: list[dict[str, Any]]) -> int:
    """The epoch of a change of region that was begun and not ended; 0 if none was.

    ``fenced``: the old region, which serves until then, shows its fence at ``epoch``. ``old``: its primaries; ``copies``: those of them;
    ``new``: the other region's primaries. A node of the old one that is *recovering* is being healed, and so are copies that show that.
    """
    marked = any(node.get("region_epoch") == epoch and node.get("state") == "recovering" for node in new) or _is_unsettled(new, epoch)
    # Voters mean that it ended, or was taken back; but a promotion may have been cut off among its nodes.
    ended = [node for node in old + copies if node.get("state") in VOTING] + [node for node in new if node.get("state") == "member"]
    return epoch if (fenced or marked) and not any(node.get("region_epoch") == epoch for node in ended) else 0


def _next(status: dict[str, Any], other: str) -> int:
    """The epoch for a new change: clearly higher where no majority of the other region says how far it has got meanwhile."""
    seen = len(_of(status["peers"], other)) > len(status["peers"]) // 2
    return int(status["epoch"]) + (1 if seen else UNSEEN)


def _is_unsettled(ours: list[dict[str, Any]], epoch: int) -> bool:
    """Promoted, and none is a member: the promotion may have left a node out, or not have settled without one that was given up.

    The command can be repeated until then. Not after a restore of the region: runbooks/restore_region.yml goes on with that.
    """
    latest = [node for node in ours if node.get("region_epoch") == epoch and node.get("history") != epoch]
    states = {node.get("state") for node in latest}
    return "promoted" in states and "member" not in states


def _active(region: str, nodes: Nodes, other: str, peers: Nodes) -> list[str]:
    ours, theirs = _epoch(nodes, region), _epoch(peers, other)
    if not _serves(nodes, region):
        return []
    if _serves(peers, other) and theirs >= ours:
        return [
            f"both regions claim to be active: {region} at epoch {ours}, {other} at {theirs}. Find out which one clients use, "
            "fence the other one (`holdfast region fence`), then run this again"
        ]
    if _is_unsettled(_of(nodes, region), ours):
        return []
    return [f"{region} serves already, at epoch {ours}: there is nothing to take over"]


def _missing(region: str, nodes: Nodes, peers: Nodes, begun: int) -> list[str]:
    away = [name for name, node in nodes.items() if not node.get("reachable")]
    bare = [name for name, node in nodes.items() if node.get("role") == "replica" and _lag(node, peers.get(name, {})) is None]
    own = [name for name, node in nodes.items() if _of({name: node}, region) and node.get("region_epoch") != begun]
    said = [
        f"{name} of {region} does not answer, and an acknowledged write may be there only. Start it; "
        f'if it is gone for good: -e \'{{"without": ["{name}"]}}\''
        for name in away
    ]
    said += [f"{name} of {region} holds no copy: no heartbeat ever came through to it. There is nothing to promote" for name in bare]
    said += [f"{name} of {region}: {node['problem']}. Cure that first" for name, node in nodes.items() if node.get("problem")]
    if own:
        said.append(
            f"{', '.join(own)} of {region} holds what {region} had when it served, and no copy of what serves now. "
            f"Let it follow first: runbooks/dr_follow.yml -e to={region}"
        )
    return said


def _behind(name: str, node: dict[str, Any], peer: dict[str, Any]) -> str:
    if not node.get("reachable"):
        return f"{name}: does not answer"
    lag, theirs, ours = _lag(node, peer), peer.get("offset"), node.get("primary_offset")
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
    epoch = int(status["epoch"])
    # One that is not seen may have been let go on.
    fenced = bool(peers) and all(_fenced_at(peer, other, epoch) for peer in peers.values())
    begun = _begun(epoch, fenced, _of(peers, other), _of(status["nodes"], region), _copies(status["nodes"], other))
    active = _active(region, nodes, other, peers)
    refusals = active or _missing(region, nodes, peers, begun)
    followers = {name: node for name, node in nodes.items() if node.get("role") == "replica"}
    lags = [_lag(node, peers.get(name, {})) for name, node in nodes.items() if node.get("region") == other]
    lag = max(lags) if lags and None not in lags else None
    if lag is not None and lag > max(rpo_seconds, accept_data_loss):
        shown = any(node.get("state") == "fenced" for node in _copies(nodes, other))
        cut = max((node.get("link_down_seconds") or 0 for node in followers.values()), default=0)
        refusals.append(
            f"{region} may lack up to {lag:.0f} s of acknowledged writes, and the target is {rpo_seconds:.0f} s: "
            f"it was {max(0, lag - cut):.0f} s behind when its link broke, {cut:.0f} s ago, which count only if {other} went on serving. "
            + (f"The copies show a fence: if {other} was not let serve again since, nothing is lacking. " if shown else "")
            + f"To go on all the same: -e accept_data_loss={int(lag) + 60}, with the reason in -e reason"
        )
    if epoch == 0 and not refusals:
        refusals.append("no node's guard could be read, so the region epoch is not known. Look at `holdfast region status`")
    cut_off = [name for name, node in followers.items() if planned and node.get("link") != "up"]
    refusals += [f"{name} of {region} does not follow {other}: nothing may be lost, so wait until it has caught up" for name in cut_off]
    return {
        "epoch": begun or _next(status, other),
        "lag_seconds": lag,
        "behind": [_behind(name, node, peers.get(name, {})) for name, node in nodes.items()],
        "refusals": refusals,
    }


def region_serves(status: dict[str, Any], other: str) -> list[str]:
    """Why the region that gave ``status`` is not the one and only that serves; empty if it is, or if it was fenced for this move."""
    region, nodes, peers = status["region"], status["nodes"], status["peers"]
    if _serves(peers, other) and _epoch(peers, other) > _epoch(nodes, region):
        return [f"{other} serves already. If {region} shall follow it: runbooks/dr_follow.yml -e to={region}"]
    epoch = int(status["epoch"])
    fenced = any(_fenced_at(node, region, epoch) for node in nodes.values())
    if _begun(epoch, fenced, _of(nodes, region), _of(peers, other), _copies(peers, region)) and _epoch(nodes, region) == epoch:
        return []  # this very move was begun, and is gone on with
    if not _serves(nodes, region):
        return [f"{region} does not serve: no majority of its nodes are primaries that vote. If {other} serves, you mean -e to={region}"]
    if _serves(peers, other) and _epoch(peers, other) >= _epoch(nodes, region):
        return _active(region, nodes, other, peers)
    return []


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"region_plan": region_plan, "region_serves": region_serves}

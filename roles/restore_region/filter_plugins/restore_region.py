"""What a restore of a whole region needs to know: which run it goes on with, under which epochs, and what it would undo."""

from __future__ import annotations

import re
from typing import Any

VOTING = ("member", "promoted")
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


def restore_region_unfinished(records: list[dict[str, Any]], status: dict[str, Any]) -> dict[str, Any]:
    """The run that was begun and not ended; empty if there is none. ``records``: of all hosts of the region that gave ``status``.

    One host that says that it ended is enough: another may have been away. A run is over as well once its region votes above the
    epoch under which that run would have it serve, or the other region at its fence or above, or these nodes follow that one: what it
    did is of no use then.
    """
    ended = {record["run"] for record in records if record.get("ended")}
    left = [record for record in records if record["run"] not in ended and not _over(record, status)]
    return max(left, key=_adopt, default={})


def _adopt(record: dict[str, Any]) -> int:
    return int(record.get("adopt") or int(record["fence"]) + 1)


def _over(record: dict[str, Any], status: dict[str, Any]) -> bool:
    def votes(node: dict[str, Any]) -> bool:
        return node.get("state") in VOTING

    own, all_nodes = list(status["nodes"].values()), [*status["nodes"].values(), *status["peers"].values()]
    others = [n for n in all_nodes if n.get("region") not in (None, status["region"]) and int(n["region_epoch"]) >= int(record["fence"])]
    above = any(votes(node) and int(node["region_epoch"]) > _adopt(record) for node in all_nodes)
    return above or any(votes(node) or (node in own and node["role"] == "replica") for node in others)


def _own(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in status["nodes"].values() if node.get("role") == "primary" and node.get("region") == status["region"]]


def restore_region_serves(status: dict[str, Any]) -> bool:
    """Whether a majority of the nodes of the region that gave ``status`` vote, and are its own."""
    return sum(node.get("state") in VOTING for node in _own(status)) > len(status["nodes"]) // 2


def _is_adopted(node: dict[str, Any], adopt: int) -> bool:
    """A fence that was taken back may have had that epoch as well: only ``history`` says that the data is the restored one."""
    return node["state"] in VOTING and int(node["region_epoch"]) == node.get("history") == adopt


def _is_settled(status: dict[str, Any], adopt: int) -> bool:
    """Promoted nodes alone say that `holdfast region adopt` was begun: it may have left one out, and then no restored key is read."""
    members = [node for node in _own(status) if node.get("state") == "member" and int(node["region_epoch"]) == adopt]
    return restore_region_serves(status) and bool(members)


def restore_region_plan(
    records: list[dict[str, Any]],
    status: dict[str, Any],
    run: str,
    to: str,
    undo: str,
    without: list[str],
    abandon: str = "",
    accept_unseen: str = "",
) -> dict[str, Any]:
    """``records``: of all hosts of the region; ``to`` is given, or for the inverse ``undo``, or the run to ``abandon``.

    Returns "run", "to", "undo", "without", "abandon", "fence" and "adopt" (the two region epochs), "fenced_at" (of the run that is undone),
    "begun"; "adopted": nodes vote under "adopt", so nothing is put back any more; "serves": they are a majority, and one is a member, so
    that nothing is left to be adopted; "voting": nodes vote although the run began and they were not adopted; "followers" and "others":
    the other region's nodes that follow now, and those that do not; "lines" for the operator; "refusals".
    """
    begun, wanted = restore_region_unfinished(records, status), {"to": to, "undo": undo, "without": sorted(without)}
    # A node more may be given up on the way; one that was given up was not fenced, and may be at work again by now.
    same = (begun.get("to"), begun.get("undo")) == (to, undo) and set(begun.get("without", [])) <= set(without)
    adopted = bool(begun) and any(_is_adopted(node, _adopt(begun)) for node in _own(status))
    serves = adopted and _is_settled(status, _adopt(begun))
    if serves and not same and not abandon:
        begun, adopted = {}, False  # it did all that it had to: only that it ended is not written
    voting = bool(begun) and not adopted and any(node["state"] in VOTING for node in _own(status))
    refusals = _refused_arguments(to, undo, abandon)
    if abandon and (abandon != begun.get("run") or adopted):
        refusals.append(f"abandon is '{abandon}'; {_may_abandon(begun, adopted)}")
    if begun and not abandon and not same:
        refusals.append(
            f"run {begun['run']} has begun to restore this region and did not end. Run this again with {_arguments(begun)} to end it; "
            f"it can be taken back then with -e undo={begun['run']}; if no node was put back yet, -e abandon={begun['run']} gives it up"
        )
    if undo and not begun:
        refusals += _refused_undo(records, undo)
    away = [name for name, node in status["nodes"].items() if not node.get("reachable") and name not in without and not begun]
    if away:
        refusals.append(
            f'{", ".join(away)} does not answer. Start it; if it is gone for good: -e \'{{"without": ["{away[0]}"]}}\', '
            "and it must be emptied before it returns"
        )
    low = [name for name, node in status["nodes"].items() if node.get("reachable") and name not in without and _is_low(node, status)]
    if low and not begun:
        refusals.append(
            f"{', '.join(low)} holds data of an older region epoch, which a restore could bring back. Heal it (it must be emptied: "
            f'runbooks/restore_node.yml with -e to=nothing), or do without it: -e \'{{"without": ["{low[0]}"]}}\''
        )
    if not abandon and not adopted:
        refusals += _refused_unseen(status, accept_unseen)
    if len(without) * 2 >= len(status["nodes"]):
        refusals.append(f"without {', '.join(without)} no majority of the region's nodes is left")
    if int(status["epoch"]) == 0 and not begun:
        refusals.append("no node's guard could be read, so the region epoch is not known. Look at `holdfast region status`")
    fence, adopt = _epochs(begun, status, voting and not abandon, adopted)
    fences = [int(record["fence"]) for record in records if undo and record["run"] == undo]
    follow = [name for name, peer in status["peers"].items() if peer.get("role") == "replica" and name not in without]
    return {
        "run": begun.get("run", run),
        **wanted,
        "abandon": abandon,
        "fence": fence,
        "adopt": adopt,
        "fenced_at": max(fences, default=0),
        "begun": bool(begun),
        "adopted": adopted,
        "serves": serves,
        "voting": voting,
        "followers": [] if abandon else follow,
        "others": [] if abandon else sorted(set(status["peers"]) - set(follow)),
        "lines": _lines(status["region"], wanted, begun.get("run", run), adopt, adopted, abandon),
        "refusals": refusals,
    }


def _refused_unseen(status: dict[str, Any], accept_unseen: str) -> list[str]:
    """`holdfast region adopt` asks the same, when the data was exchanged: better to know it before."""
    region, peers = status["region"], list(status["peers"].values())
    if accept_unseen not in ("", region):
        return [f"accept_unseen is '{accept_unseen}', and the region that is restored is {region}"]
    seen = [
        peer
        for peer in peers
        if peer.get("reachable")
        and (peer["role"] == "replica" or peer["state"] is None or (peer["state"] == "fenced" and peer["region"] != region))
    ]
    if accept_unseen or not peers or len(seen) > len(peers) // 2:
        return []
    return [
        f"{len(seen)} of {len(peers)} nodes of the other region show that they stand by, so it might be promoted while {region} is fenced. "
        f"Bring them up; or, if you know that nobody promotes it: -e accept_unseen={region}"
    ]


def _is_low(node: dict[str, Any], status: dict[str, Any]) -> bool:
    held = [int(other["region_epoch"]) for other in _own(status) if other["state"] in VOTING]
    return bool(held) and node.get("region_epoch") is not None and int(node["region_epoch"]) < max(held)


def _epochs(begun: dict[str, Any], status: dict[str, Any], voting: bool, adopted: bool) -> tuple[int, int]:
    """Above every epoch seen, until the first node shows that it was adopted: then they stay as they are."""
    seen = int(status["epoch"])
    if not begun:
        return seen + 1, seen + 2
    fence, adopt = int(begun["fence"]), _adopt(begun)
    nodes = (*status["nodes"].values(), *status["peers"].values())
    if adopted or any(n.get("history") == n.get("region_epoch") == adopt and n["region"] == status["region"] for n in nodes):
        return fence, adopt
    if voting:  # it was unfenced, so this fence is used up
        fence = seen + 1
    return fence, max(adopt, seen + 1, fence + 1)


def _refused_arguments(to: str, undo: str, abandon: str) -> list[str]:
    if sum(map(bool, (to, undo, abandon))) != 1:
        return [
            "give -e to=<moment as 2026-05-01T10:14:59Z>, or -e undo=<run> to take a restore back, and not both; or -e abandon=<run> to "
            "give one up that put nothing back yet"
        ]
    if to and not MOMENT.fullmatch(to):
        return [f"to is '{to}'. Write one moment for all nodes, as 2026-05-01T10:14:59Z (UTC)"]
    return []


def _may_abandon(begun: dict[str, Any], adopted: bool) -> str:
    if adopted:
        return f"run {begun['run']} was carried out: end it with {_arguments(begun)}, then -e undo={begun['run']} takes it back"
    return f"the run that has begun and did not end: {begun.get('run', 'none')}"


def _arguments(record: dict[str, Any]) -> str:
    argument = f"-e undo={record['undo']}" if record["undo"] else f"-e to={record['to']}"
    given = ", ".join(f'"{name}"' for name in record.get("without", []))
    return f"{argument} -e '{{\"without\": [{given}]}}'" if given else argument


def _refused_undo(records: list[dict[str, Any]], undo: str) -> list[str]:
    ended = [record for record in records if record.get("ended")]
    given_up = {record["run"] for record in ended if record.get("abandoned")}
    known = sorted({record["run"] for record in ended} - given_up)
    if undo not in {record["run"] for record in records} - given_up:
        return [f"undo is '{undo}', and no such restore is recorded. Recorded: {', '.join(known) or 'none'}"]
    back = next((record["run"] for record in ended if record["undo"] == undo), "")
    if back:
        return [f"run {back} has taken {undo} back already. What was there before {back} comes back with -e undo={back}"]
    return []


def _lines(region: str, wanted: dict[str, Any], run: str, adopt: int, adopted: bool, abandon: str) -> list[str]:
    to, undo = wanted["to"], wanted["undo"]
    if abandon:
        return [f"run {abandon} is given up: no data is exchanged, and {region} serves again as it was before that run fenced it"]
    if adopted:
        return [f"all nodes of {region} were put back by run {run}: nothing is exchanged any more, and the run is ended"]
    what = f"the state of {to}" if to else f"what they had before run {undo}"
    return [
        f"{region} refuses; all its nodes get {what}; then it serves again, under region epoch {adopt}",
        f"LOST for clients: everything that was written since {to or f'run {undo}'}",
        f"kept: what the nodes have now, as <node>.before-{run}; undo={run} puts it back",
    ]


def restore_region_preview(compared: list[dict[str, Any]]) -> list[str]:
    """A line for each node and face of what `holdfast backup compare` told: numbers only, no key."""
    lines = []
    for told in compared:
        for face in ("cp", "ap"):
            found = told[face]
            newest = f"; newest write undone: {found['newest_write_undone']}" if found["newest_write_undone"] else ""
            lines.append(
                f"{told['node']} {face.upper()}: {found['changed']} keys get an older value, {found['gone']} disappear, "
                f"{found['back']} come back, {found['same']} stay{newest}"
            )
    return lines


def restore_region_examples(compared: list[dict[str, Any]]) -> list[str]:
    """Some of the keys, for the operator's terminal: they are users', so they stand in no record."""
    examples = {f"{e['face']}:{e['key']} ({e['what']})" for told in compared for e in told["examples"]}
    return [f"for example: {', '.join(sorted(examples)[:20])}"] if examples else []


def restore_region_followed(status: dict[str, Any], epoch: int, followers: list[str]) -> bool:
    """Whether each of these nodes of the other region is in step with a node of the history that began with ``epoch``."""
    peers = [status["peers"].get(name, {}) for name in followers]
    return all(p.get("role") == "replica" and p.get("link") == "up" and p.get("region_epoch") == int(epoch) for p in peers)


def restore_region_fenced(statuses: list[dict[str, Any]], epoch: int) -> list[str]:
    """The region's nodes that are fenced at ``epoch``, as one host at least has seen."""
    seen = {
        name
        for status in statuses
        for name, node in status["nodes"].items()
        if node.get("role") == "primary" and node.get("state") == "fenced" and node.get("region_epoch") == int(epoch)
    }
    return sorted(seen)


def restore_region_lifted(statuses: list[dict[str, Any]], epoch: int) -> list[str]:
    """The region's nodes from which the fence at ``epoch`` was taken already: it cannot be written anew, and need not be."""
    return sorted({name for status in statuses for name, node in status["nodes"].items() if _is_lifted(node, status["region"], epoch)})


def _is_lifted(node: dict[str, Any], region: str, epoch: int) -> bool:
    own = node.get("role") == "primary" and node.get("region") == region
    return own and node["state"] != "fenced" and int(node["region_epoch"]) >= int(epoch)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "restore_region_unfinished": restore_region_unfinished,
            "restore_region_serves": restore_region_serves,
            "restore_region_plan": restore_region_plan,
            "restore_region_preview": restore_region_preview,
            "restore_region_examples": restore_region_examples,
            "restore_region_fenced": restore_region_fenced,
            "restore_region_lifted": restore_region_lifted,
            "restore_region_followed": restore_region_followed,
        }

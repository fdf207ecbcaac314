"""What a restore of a whole region needs to know: which run it goes on with, under which epochs, and what it would undo."""

from __future__ import annotations

import re
from typing import Any

VOTING = ("member", "promoted")
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


def restore_region_unfinished(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The run that was begun and not ended, on whatever host it is recorded; empty if there is none."""
    return next((record for record in records if not record.get("ended")), {})


def restore_region_serves(status: dict[str, Any]) -> bool:
    """Whether a majority of the nodes of the region that gave ``status`` vote, and are its own."""
    nodes = status["nodes"]
    own = [node for node in nodes.values() if node.get("role") == "primary" and node.get("region") == status["region"]]
    return sum(node.get("state") in VOTING for node in own) > len(nodes) // 2


def restore_region_plan(
    records: list[dict[str, Any]], status: dict[str, Any], run: str, to: str, undo: str, without: list[str]
) -> dict[str, Any]:
    """``records``: of all hosts of the region; ``to`` or, for the inverse, ``undo`` is given.

    Returns {"run", "to", "undo", "fence" and "adopt" (the two region epochs), "fenced_at" (of the run that is undone), "refusals"}.
    """
    begun, refusals = restore_region_unfinished(records), []
    if bool(to) == bool(undo):
        refusals.append("give -e to=<moment as 2026-05-01T10:14:59Z>, or -e undo=<run> to take a restore back, and not both")
    elif to and not MOMENT.fullmatch(to):
        refusals.append(f"to is '{to}'. Write one moment for all nodes, as 2026-05-01T10:14:59Z (UTC)")
    wanted = {"to": to, "undo": undo}
    if begun and any(begun[name] != wanted[name] for name in wanted):
        argument = f"undo={begun['undo']}" if begun["undo"] else f"to={begun['to']}"
        refusals.append(
            f"run {begun['run']} has begun to restore this region and did not end. Run this again with -e {argument} to end it; "
            f"it can be taken back then with -e undo={begun['run']}"
        )
    undone = next((record for record in records if undo and record["run"] == undo), None)
    if undo and undone is None:
        known = ", ".join(sorted({record["run"] for record in records if record.get("ended")})) or "none"
        refusals.append(f"undo is '{undo}', and no such restore is recorded. Recorded: {known}")
    away = [name for name, node in status["nodes"].items() if not node.get("reachable") and name not in without and not begun]
    if away:
        refusals.append(
            f'{", ".join(away)} does not answer. Start it; if it is gone for good: -e \'{{"without": ["{away[0]}"]}}\', '
            "and it must be emptied before it returns"
        )
    if len(without) * 2 >= len(status["nodes"]):
        refusals.append(f"without {', '.join(without)} no majority of the region's nodes is left")
    if int(status["epoch"]) == 0 and not begun:
        refusals.append("no node's guard could be read, so the region epoch is not known. Look at `holdfast region status`")
    what = f"the state of {to}" if to else f"what they had before run {undo}"
    fence = int(begun["fence"]) if begun else int(status["epoch"]) + 1
    return {
        "run": begun["run"] if begun else run,
        **wanted,
        "fence": fence,
        "adopt": fence + 1,
        "fenced_at": int(undone["fence"]) if undone else 0,
        "begun": bool(begun),
        "lines": [
            f"{status['region']} refuses; all its nodes get {what}; then it serves again, under region epoch {fence + 1}",
            f"LOST for clients: everything that was written since {to or f'run {undo}'}",
            f"kept: what the nodes have now, as <node>.before-{begun.get('run', run)}; undo={begun.get('run', run)} puts it back",
        ],
        "refusals": refusals,
    }


def restore_region_preview(compared: list[dict[str, Any]]) -> list[str]:
    """A line for each node and face of what `holdfast backup compare` told, and examples of keys."""
    lines = []
    for told in compared:
        for face in ("cp", "ap"):
            found = told[face]
            newest = f"; newest write undone: {found['newest_write_undone']}" if found["newest_write_undone"] else ""
            lines.append(
                f"{told['node']} {face.upper()}: {found['changed']} keys get an older value, {found['gone']} disappear, "
                f"{found['back']} come back, {found['same']} stay{newest}"
            )
    examples = {f"{e['face']}:{e['key']} ({e['what']})" for told in compared for e in told["examples"]}
    return [*lines, *([f"for example: {', '.join(sorted(examples)[:20])}"] if examples else [])]


def restore_region_followed(status: dict[str, Any], epoch: int) -> bool:
    """Whether every node of the other region is in step with a node of the history that began with ``epoch``."""
    peers = status["peers"].values()
    return all(p.get("role") == "replica" and p.get("link") == "up" and p.get("region_epoch") == int(epoch) for p in peers)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "restore_region_unfinished": restore_region_unfinished,
            "restore_region_serves": restore_region_serves,
            "restore_region_plan": restore_region_plan,
            "restore_region_preview": restore_region_preview,
            "restore_region_followed": restore_region_followed,
        }

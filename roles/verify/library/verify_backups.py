"""An Ansible module that asks a host's metrics how old its backups and the proofs of them are. Changes nothing."""

import re
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: verify_backups
short_description: Items of the checklist about backups
options:
  directory: {type: path, required: true, description: Where jobs leave metrics for the node exporter to read.}
  nodes: {type: list, elements: str, required: true, description: Names of the host's nodes that are to be backed up.}
  proves: {type: bool, required: true, description: Whether restores are proven on this host.}
"""

SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.M)
BACKUP, RESTORE = "holdfast_backup_last_success_timestamp_seconds", "holdfast_backup_verified_restore_last_success_timestamp_seconds"
#: Three times the longest time between two backups; and a week, with a day for a drill that is late.
BACKUP_SECONDS, RESTORE_SECONDS = 900, 8 * 86400


def samples(directory: Path) -> dict[str, dict[str, float]]:
    """Metric -> labels as they are written -> value, of all files about backups."""
    found: dict[str, dict[str, float]] = {}
    for place in sorted(directory.glob("holdfast_backup_*.prom")):
        for name, labels, value in SAMPLE.findall(place.read_text()):
            found.setdefault(name, {})[labels] = float(value)
    return found


def backups(held: dict[str, dict[str, float]], nodes: list[str], now: float) -> dict[str, Any]:
    ages = {node: now - held.get(BACKUP, {}).get(f'node="{node}"', 0.0) for node in nodes}
    late = [node for node, age in ages.items() if age > BACKUP_SECONDS]
    told = ", ".join(f"{node} {ages[node] / 60:.0f} min ago" if ages[node] < now else f"{node} never" for node in late or nodes)
    return {"section": "Data persistence", "item": "Backups are made and recent", "passed": not late, "evidence": told}


def restores(held: dict[str, dict[str, float]], now: float) -> dict[str, Any]:
    proven = held.get(RESTORE, {})
    late = [labels for labels, when in proven.items() if now - when > RESTORE_SECONDS]
    told = (
        "; ".join(f"{labels}: {(now - proven[labels]) / 86400:.1f} days ago" for labels in late or proven) or "no restore was ever proven"
    )
    return {
        "section": "Data persistence",
        "item": "A restore was proven within a week",
        "passed": bool(proven) and not late,
        "evidence": told,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "nodes": {"type": "list", "elements": "str", "required": True},
            "proves": {"type": "bool", "required": True},
        },
        supports_check_mode=True,
    )
    held, now = samples(Path(module.params["directory"])), time.time()
    items = [backups(held, module.params["nodes"], now)] if module.params["nodes"] else []
    module.exit_json(changed=False, items=[*items, *([restores(held, now)] if module.params["proves"] else [])])


if __name__ == "__main__":
    main()

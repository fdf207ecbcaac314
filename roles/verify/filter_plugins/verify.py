"""Filters of the checklist: many hosts' items become one verdict each, and the verdicts a table."""

import json
import re
from datetime import datetime
from pathlib import Path

SECTIONS = ("Security", "Configuration", "Monitoring", "Data persistence", "High availability")
INCIDENT = re.compile(r"^\| (.+?) \| `(\w+\.yml)`", re.MULTILINE)


def verdicts(looks: list[dict], *more: dict) -> list[dict]:
    """`looks`: {host, items}, items with section, item, passed, evidence. An item passes when it passes for every host that has it."""
    merged: dict[tuple[str, str], list[tuple[str, dict]]] = {}
    for look in [*looks, *more]:
        for entry in look["items"]:
            merged.setdefault((entry["section"], entry["item"]), []).append((look["host"], entry))
    rows = []
    for (section, item), entries in merged.items():
        failed = [(host, entry) for host, entry in entries if not entry["passed"]]
        rows.append(
            {
                "section": section,
                "item": item,
                "verdict": "FAIL" if failed else "PASS",
                "evidence": _evidence(failed or entries),
            }
        )
    return sorted(rows, key=lambda row: SECTIONS.index(row["section"]))


def _evidence(entries: list[tuple[str, dict]]) -> dict[str, str]:
    """Host -> what it says; a host may have an item several times."""
    said: dict[str, str] = {}
    for host, entry in entries:
        said[host] = f"{said[host]}; {entry['evidence']}" if host in said else entry["evidence"]
    return said


def verdict_table(rows: list[dict], width: int = 100) -> list[str]:
    """The rows as lines of text: section, verdict, item, then the evidence, once for hosts that say the same."""
    lines = []
    for number, row in enumerate(rows):
        if number == 0 or rows[number - 1]["section"] != row["section"]:
            lines += ["", row["section"]]
        lines.append(f"  {row['verdict']}  {row['item']}")
        said: dict[str, list[str]] = {}
        for host, evidence in row["evidence"].items():
            said.setdefault(evidence, []).append(host)
        shown = list(said.items())[: None if row["verdict"] == "FAIL" else 2]
        lines += [f"        {', '.join(hosts)}: {evidence}"[: width * 3] for evidence, hosts in shown]
        if len(shown) < len(said):
            lines.append(f"        and {len(said) - len(shown)} more")
    failed = sum(row["verdict"] == "FAIL" for row in rows)
    return [*lines, "", f"{len(rows) - failed} passed, {failed} failed"]


def host_look(variables: dict) -> dict:
    """What the role recorded on a host, as a look; a host that was not reached fails one item."""
    unreached = {"section": "High availability", "item": "Every host answers", "passed": False, "evidence": "not reached"}
    return {"host": variables["inventory_hostname"], "items": variables.get("__verify_items", [unreached])}


def image_item(result: dict) -> dict:
    """An item from what images/files/inspect.sh printed about one image."""
    name, lines = result["item"]["key"], result.get("stdout_lines") or []
    pending = [line.split("\t")[1] for line in lines if line.startswith("pending\t")]
    packages = sum(line.startswith("deb\t") for line in lines)
    evidence = f"{name}: {packages} packages, " + (f"updates pending for {', '.join(pending)}" if pending else "no security update pending")
    if result["rc"] != 0:
        evidence = f"{name}: could not be checked: {result['stderr'][-200:]}"
    return {
        "section": "Security",
        "item": "Images have no pending security update",
        "passed": result["rc"] == 0 and not pending,
        "evidence": evidence,
    }


def drill_item(evidence: str, now: float, days: int = 90) -> dict:
    """An item from the records in the directory of evidence: the newest fail-over that was a drill and passed must be young enough."""
    records = [json.loads(path.read_text()) for path in Path(evidence).glob("*-dr_failover/record.json")]
    passed = [
        record for record in records if record.get("drill") and record.get("verdict") == "passed" and record.get("rto_seconds") is not None
    ]
    newest = max(passed, key=lambda record: record["started"], default=None)
    age = (now - datetime.fromisoformat(newest["started"]).timestamp()) / 86400 if newest else None
    said = (
        f"{newest['started']}: RTO {newest['rto_seconds']} s, RPO {newest['rpo_seconds']} s, {newest['lost_acked_writes']} writes lost"
        if newest
        else "no drill has passed: ansible-playbook runbooks/dr_failover.yml with drill=true"
    )
    return {
        "section": "High availability",
        "item": f"A failover was proven within {days} days",
        "passed": age is not None and age <= days,
        "evidence": said,
    }


def runbooks_item(directory: str, taken: dict) -> dict:
    """An item from the incidents in the directory's README.md, a row of a table each, and from what --syntax-check of all runbooks said."""
    readme = Path(directory) / "README.md"
    incidents = INCIDENT.findall(readme.read_text()) if readme.is_file() else []
    there = {path.name for path in Path(directory).glob("*.yml")}
    wrong = [] if incidents else [f"{readme} names no incident"]
    wrong += [f"{runbook} is not there, for: {incident}" for incident, runbook in incidents if runbook not in there]
    wrong += [f"{runbook} is for no incident of {readme}" for runbook in sorted(there - {runbook for _, runbook in incidents})]
    if taken.get("rc") != 0:
        why = (taken.get("stderr") or taken.get("msg") or "").rpartition("[ERROR]: ")[2]
        wrong.append(f"Ansible does not take them: {' '.join(why.split())}")
    return {
        "section": "High availability",
        "item": "Runbooks for common incidents are there",
        "passed": not wrong,
        "evidence": "; ".join(wrong or [f"{runbook}: {incident}" for incident, runbook in incidents]),
    }


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict:
        return {
            "verdicts": verdicts,
            "verdict_table": verdict_table,
            "host_look": host_look,
            "image_item": image_item,
            "drill_item": drill_item,
            "runbooks_item": runbooks_item,
        }

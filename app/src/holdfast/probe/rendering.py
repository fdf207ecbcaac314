"""The report for people: the numbers a drill is judged by, then what they rest on. Pure."""

from __future__ import annotations

from typing import Any


def render(result: dict[str, Any]) -> str:
    """Text of a ``Report.result``."""
    lines = [
        f"run {result['run']}: {result['start']} to {result['end']} ({result['seconds']} s), ended: {result['ended']}",
        f"fault: {result['fault_at'] or 'not given (no RTO and RPO; --fault-at)'}; "
        + ("verified" if result["verified"] else "NOT VERIFIED: run `holdfast probe verify` to learn what survived"),
    ]
    if result["damaged_lines"]:
        lines.append(f"{result['damaged_lines']} damaged line(s) left out")
    for mode, of in result["modes"].items():
        lines += ["", f"{mode.upper()}", *_recovery(of["recovery"])]
        lines.append(f"  longest gap in accepted writes: {_gap(of['longest_gap_in_accepted_writes'])}")
        if len(of["targets"]) > 1:
            for name, target in of["targets"].items():
                lines.append(f"    {name}: {_gap(target['longest_gap_in_accepted_writes'])}")
        lines += [_operation(op, numbers) for op, numbers in of["operations"].items()]
        lines += _reads(mode, of)
    lines += ["", *_probe(result["probe"])]
    return "\n".join(lines) + "\n"


def _recovery(of: dict[str, Any]) -> list[str]:
    lines = [
        f"  acknowledged writes {of['acknowledged']}, outcome unknown {of['outcome_unknown']}, "
        f"unrecorded {of['unrecorded']}"
    ]
    if "present" in of:
        lines.append(
            f"  present {of['present']}, superseded {of['superseded']}, LOST {of['lost']}, "
            f"never read {of['never_read']}"
        )
    if "rto_seconds" in of:
        bound = "" if of["complete"] else " (at least: some writes were never read back)"
        lines.append(
            f"  RTO {of['rto_seconds']} s{'' if of['recovered'] else ' (at least: NOT RECOVERED)'}; gap "
            f"{_gap(of['rto_gap'])}"
        )
        lines.append(
            f"  RPO {of['rpo_seconds']} s{bound}: {of['lost_acked_writes']} acknowledged write(s) lost; "
            f"acknowledged after the fault and lost: {of['lost_acked_after_fault']}"
        )
    return lines


def _gap(gap: dict[str, Any] | None) -> str:
    if gap is None:
        return "none"
    own = f", the probe itself stalled for {gap['own_stalls_seconds']} s of it" if gap["own_stalls_seconds"] else ""
    return f"{gap['seconds']} s from {gap['start']}{' to the end' if gap['open'] else ''}{own}"


def _operation(name: str, of: dict[str, Any]) -> str:
    share = "-" if of["availability"] is None else f"{of['availability'] * 100:.3f} %"
    latency = of["latency_ms"]
    shown = " ".join(f"{k}={latency[k]}" for k in ("p50", "p90", "p99", "max"))
    others = {k: v for k, v in of["outcomes"].items() if k not in ("ok", "unsent")}
    text = (
        f"  {name}: accepted {of['accepted']} of {of['offered']} ({share}), unsent {of['unsent']}, "
        f"seconds below 100 %: {of['seconds_below_full']}; ms {shown}"
    )
    if others:
        text += "; " + ", ".join(f"{k} {v}" for k, v in others.items())
    if of["failed_while_the_probe_stalled"]:
        text += f"; {of['failed_while_the_probe_stalled']} failed while the probe stalled"
    return text


def _reads(mode: str, of: dict[str, Any]) -> list[str]:
    reads = of["reads"]
    lines = [
        f"  reads checked {reads['checked']}: stale {reads['stale']} (of lost writes "
        f"{reads['stale_of_lost_writes']}), foreign {reads['foreign']}; violations {of['violations']}"
    ]
    if mode == "ap":
        lines.append(
            f"    stale and said so {reads['stale_admitted']}, staler than said "
            f"{reads['staleness_understated']}; "
            f"session reads {reads['session_reads']}, declined {reads['session_declined']}, "
            f"violated {reads['session_violations']}"
        )
    lines += [
        f"    {e['what']}: {e.get('op')} of {e.get('key')} in {e.get('zone')} at {e.get('start')}, acknowledged "
        f"{e.get('acked')}, seen {e.get('seen')}"
        for e in of["examples"]
    ]
    return lines


def _probe(of: dict[str, Any]) -> list[str]:
    unsent = ", ".join(f"{k} {v}" for k, v in of["unsent"].items()) or "none"
    used = "" if of["cpu_share"] is None else f"; CPU {of['cpu_share'] * 100:.1f} % of a core, {of['max_rss_kib']} KiB"
    return [
        f"probe: {of['stalls']} own stall(s), {of['stalled_seconds']} s ({of['stalled_share'] * 100:.2f} % of the "
        f"time), longest {of['longest_stall_seconds']} s; unsent: {unsent}{used}"
    ]

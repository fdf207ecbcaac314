"""The report's definitions, each with the case that would show a wrong one."""

from __future__ import annotations

import pytest
from probe_lines import LAYOUT, Lines

from holdfast.probe.rendering import render
from holdfast.probe.report import NoRun, Report


def healthy(count: int = 20, *modes: str) -> Lines:
    lines = Lines(*modes)
    for mode in modes or ("cp",):
        for seq in range(1, count + 1):
            lines.write(seq, float(seq), mode=mode)
    return lines


def test_a_healthy_run() -> None:
    lines = healthy()
    lines.records[0]["cpu_seconds"] = 0.2  # starting is no part of the run
    lines.read(5, 5, 6.0)
    lines.verified(present=list(range(1, 21)))
    lines.records.append({"type": "end", "m1": 1021.0, "reason": "duration", "cpu_seconds": 1.25, "max_rss_kib": 5})
    result = lines.report(fault=5.5)
    cp = result["modes"]["cp"]
    assert cp["operations"]["write"]["availability"] == 1.0
    assert cp["recovery"] == {
        "acknowledged": 20,
        "outcome_unknown": 0,
        "unrecorded": 0,
        "present": 20,
        "lost": 0,
        "superseded": 0,
        "never_read": 0,
        "complete": True,
        "lost_acked_writes": 0,
        "lost_acked_after_fault": 0,
        "rpo_seconds": 0.0,
        "rto_seconds": 1.0,
        "rto_gap": cp["recovery"]["rto_gap"],
        "recovered": True,
    }
    assert cp["violations"] == 0
    assert result["probe"]["cpu_share"] == 0.05
    assert result["ended"] == "duration"
    assert "RTO 1.0 s" in render(result)


def test_availability_leaves_unsent_out_and_reports_it() -> None:
    lines = healthy(4)
    lines.write(5, 5.0, "no_quorum")
    for seq in (6, 7, 8):
        lines.write(seq, 5.1, "unsent")
    write = lines.report()["modes"]["cp"]["operations"]["write"]
    assert (write["offered"], write["accepted"], write["unsent"]) == (5, 4, 3)
    assert write["availability"] == 0.8, "not 4/8 (unsent counted as failed) and not 7/8 (counted as accepted)"
    assert write["per_second"][-1] == [5, 1, 0, 3]
    assert write["seconds_below_full"] == 1
    assert lines.report()["probe"]["unsent"] == {"late": 3}


def test_an_answered_not_found_is_an_accepted_read_but_not_an_accepted_write() -> None:
    lines = healthy(1)
    lines.read(1, 0, 2.0)
    lines.write(2, 2.0, "not_found")
    operations = lines.report()["modes"]["cp"]["operations"]
    assert operations["read"]["availability"] == 1.0
    assert operations["write"]["availability"] == 0.5


def test_a_lost_write_is_counted_and_dated() -> None:
    lines = healthy()
    lines.verified(present=[n for n in range(1, 21) if n not in (6, 8, 14)], lost=[6, 8, 14])
    recovery = lines.report(fault=10.0)["modes"]["cp"]["recovery"]
    assert recovery["lost_acked_writes"] == 2
    assert recovery["lost_acked_after_fault"] == 1
    assert recovery["rpo_seconds"] == pytest.approx(10 - 6.01, abs=1e-3), "the oldest lost one counts"
    assert recovery["lost"] == 3


def test_without_verification_there_is_neither_rto_nor_rpo() -> None:
    result = healthy().report(fault=10.0)
    assert "rpo_seconds" not in result["modes"]["cp"]["recovery"]
    assert "rto_seconds" not in result["modes"]["cp"]["recovery"]
    assert "NOT VERIFIED" in render(result)


def test_never_read_writes_make_the_rpo_a_lower_bound() -> None:
    lines = healthy()
    lines.verified(present=list(range(1, 20)))
    recovery = lines.report(fault=10.0)["modes"]["cp"]["recovery"]
    assert recovery["never_read"] == 1, "a write without a final record was never read"
    assert not recovery["complete"]
    assert "at least" in render(lines.report(fault=10.0))


def test_rto_counts_surviving_writes_only() -> None:
    """The old side goes on acknowledging for four seconds what will be lost; then nothing; then the new side."""
    lines = Lines()
    for seq, at in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 9, 18, 19, 20], start=1):
        lines.write(seq, float(at))
    lines.verified(present=[1, 2, 3, 4, 5, 10, 11, 12], lost=[6, 7, 8, 9])
    cp = lines.report(fault=5.5)["modes"]["cp"]
    assert cp["recovery"]["rto_seconds"] == pytest.approx(18.01 - 5.5)
    assert cp["recovery"]["rto_gap"]["start"].startswith("2026-03-01T10:00:05.5")
    assert cp["longest_gap_in_accepted_writes"]["seconds"] == pytest.approx(9.0)
    assert cp["recovery"]["lost_acked_after_fault"] == 4
    assert cp["recovery"]["rpo_seconds"] == 0.0


def test_rto_is_the_longest_gap_not_the_first() -> None:
    lines = Lines()
    for seq, at in enumerate([1, 2, 4, 14, 15], start=1):
        lines.write(seq, float(at))
    lines.verified(present=[1, 2, 3, 4, 5])
    assert lines.report(fault=2.5)["modes"]["cp"]["recovery"]["rto_seconds"] == pytest.approx(10.0)


def test_superseded_writes_do_not_end_an_outage() -> None:
    lines = Lines()
    for seq, at in enumerate([1, 2, 3, 6, 9], start=1):
        lines.write(seq, float(at))
    lines.verified(present=[1, 2, 3, 5], superseded=[4])
    assert lines.report(fault=3.5)["modes"]["cp"]["recovery"]["rto_seconds"] == pytest.approx(9.01 - 3.5)


def test_an_outage_that_never_ended() -> None:
    lines = healthy(5)
    for seq in range(6, 40):
        lines.write(seq, float(seq), "no_quorum")
    lines.verified(present=[1, 2, 3, 4, 5])
    recovery = lines.report(fault=5.5)["modes"]["cp"]["recovery"]
    assert not recovery["recovered"]
    assert recovery["rto_gap"]["open"]
    assert recovery["rto_seconds"] == pytest.approx(39 - 5.5)
    assert "NOT RECOVERED" in render(lines.report(fault=5.5))


def test_a_second_outage_at_the_end_is_not_recovered_either() -> None:
    lines = healthy(5)
    lines.write(6, 30.0)
    for seq in range(7, 20):
        lines.write(seq, 24.0 + seq, "no_quorum")
    lines.verified(present=[1, 2, 3, 4, 5, 6])
    recovery = lines.report(fault=5.5)["modes"]["cp"]["recovery"]
    assert not recovery["rto_gap"]["open"]
    assert not recovery["recovered"]


@pytest.mark.parametrize("outcome", ["no_answer", "outcome_unknown", "http_502", "internal"])
def test_unknown_outcomes_are_neither_accepted_nor_lost(outcome: str) -> None:
    lines = healthy(5)
    lines.write(6, 6.0, outcome)
    lines.verified(present=[1, 2, 3, 4, 5])
    recovery = lines.report(fault=5.5)["modes"]["cp"]["recovery"]
    assert (recovery["outcome_unknown"], recovery["acknowledged"], recovery["lost"]) == (1, 5, 0)
    assert recovery["complete"]


@pytest.mark.parametrize("outcome", ["refused_connection", "no_quorum", "unavailable", "rate_limited"])
def test_refusals_are_definite(outcome: str) -> None:
    lines = healthy(5)
    lines.write(6, 6.0, outcome)
    assert lines.report()["modes"]["cp"]["recovery"]["outcome_unknown"] == 0


def test_holes_in_the_sequence_are_reported() -> None:
    lines = Lines()
    lines.write(1, 1.0)
    lines.write(4, 4.0)
    lines.records.append(None)
    result = lines.report()
    assert result["modes"]["cp"]["recovery"]["unrecorded"] == 2
    assert result["damaged_lines"] == 1
    assert result["ended"] == "killed"


def test_a_cp_read_older_than_an_acknowledged_write_is_a_violation() -> None:
    lines = healthy(10)
    lines.read(5, 0, 11.0)
    lines.read(4, 4, 11.1)
    result = lines.report()["modes"]["cp"]
    assert (result["violations"], result["reads"]["stale"]) == (1, 1)
    assert result["examples"][0]["acked"] == 5


def register_run() -> tuple[Lines, int, int]:
    """Two acknowledged writes of one register, 64 apart."""
    first, second = 4, 4 + 4 * LAYOUT.registers
    lines = Lines()
    for seq in range(1, second + 1):
        lines.write(seq, seq / 10, version=f"{seq:08d}")
    return lines, first, second


def test_a_cp_register_read() -> None:
    lines, first, second = register_run()
    lines.read(second, second, 10.0, version="00000068", acked_version="00000068")
    assert lines.report()["modes"]["cp"]["violations"] == 0
    lines.read(second, first, 10.1, version="00000004", acked_version="00000068")
    lines.read(first, second, 10.2, version="00000003", acked_version="00000004")
    lines.read(second, -1, 10.3)
    result = lines.report()["modes"]["cp"]
    assert result["violations"] == 3
    assert [e["what"] for e in result["examples"]] == [
        "stale: older",
        "stale: version",
        "a value that this run never wrote to the key",
    ]


@pytest.mark.parametrize(
    ("version", "floor", "violations"),
    [("9", "5", 0), (None, None, 0), ("4", "5", 1)],
)
def test_an_unknown_write_that_appears_late_is_legal_unless_its_version_is_older(
    version: str | None, floor: str | None, violations: int
) -> None:
    lines = Lines()
    lines.write(4, 1.0, "no_answer")
    lines.write(68, 2.0)
    more = {} if version is None else {"version": version, "acked_version": floor}
    lines.read(68, 4, 3.0, **more)
    result = lines.report()["modes"]["cp"]
    assert result["violations"] == violations
    assert result["reads"]["late_unknown_writes_seen"] == 1 - violations


def test_stale_reads_of_lost_writes_are_told_apart() -> None:
    lines = healthy(10)
    lines.read(5, 0, 11.0)
    lines.read(6, 0, 11.1)
    lines.verified(present=[1, 2, 3, 4, 6, 7, 8, 9, 10], lost=[5])
    reads = lines.report()["modes"]["cp"]["reads"]
    assert (reads["stale"], reads["stale_of_lost_writes"]) == (2, 1)


@pytest.mark.parametrize(
    ("fields", "admitted", "understated"),
    [
        ({"stale": True, "staleness_ms": 9000}, 1, 0),
        ({"staleness_ms": None}, 1, 0),
        ({"stale": False, "staleness_ms": 1500}, 1, 0),
        ({"stale": False, "staleness_ms": 100}, 0, 1),
    ],
)
def test_ap_staleness_is_judged_against_what_the_answer_says(
    fields: dict[str, object], admitted: int, understated: int
) -> None:
    lines = healthy(5, "ap")
    lines.read(5, 0, 7.0, mode="ap", **fields)
    result = lines.report()["modes"]["ap"]
    assert (result["reads"]["stale_admitted"], result["reads"]["staleness_understated"]) == (admitted, understated)
    assert result["violations"] == understated


def test_ap_last_writer_wins_is_not_stale() -> None:
    lines = Lines("ap")
    lines.write(4, 1.0, mode="ap")
    lines.write(68, 2.0, mode="ap")
    lines.read(68, 4, 3.0, mode="ap", version="9", acked_version="8", staleness_ms=0, stale=False)
    assert lines.report()["modes"]["ap"]["reads"]["superseded"] == 1
    assert lines.report()["modes"]["ap"]["violations"] == 0


@pytest.mark.parametrize(
    ("promised", "seen", "declined", "violated"),
    [(True, 5, 0, 0), (True, 0, 0, 1), (None, 0, 0, 1), (False, 0, 1, 0)],
)
def test_session_reads(promised: bool | None, seen: int, declined: int, violated: int) -> None:
    lines = healthy(5, "ap")
    lines.read(5, seen, 7.0, mode="ap", op="session_read", stale=True, read_your_writes=promised)
    reads = lines.report()["modes"]["ap"]["reads"]
    assert (reads["session_reads"], reads["session_declined"], reads["session_violations"]) == (1, declined, violated)


def test_own_stalls_are_measured_and_named_in_the_gap_they_explain() -> None:
    lines = healthy(5)
    lines.stall(5.5, 9.5)
    lines.stall(6.0, 7.0)
    lines.write(6, 9.6, "unsent")
    lines.write(7, 9.0, "no_answer", seconds=1.0)
    lines.write(8, 10.0)
    lines.verified(present=[1, 2, 3, 4, 5, 8])
    result = lines.report(fault=5.2)
    assert result["probe"]["stalled_seconds"] == 4.0, "overlapping stalls count once"
    assert result["probe"]["stalls"] == 2
    gap = result["modes"]["cp"]["recovery"]["rto_gap"]
    assert gap["own_stalls_seconds"] == pytest.approx(4.0)
    assert result["modes"]["cp"]["operations"]["write"]["failed_while_the_probe_stalled"] == 1
    assert "the probe itself stalled" in render(result)


def test_a_failure_without_a_stall_is_not_excused() -> None:
    lines = healthy(5)
    lines.stall(1.0, 1.2)
    lines.write(6, 6.0, "no_answer")
    assert lines.report()["modes"]["cp"]["operations"]["write"]["failed_while_the_probe_stalled"] == 0


def test_modes_are_reported_apart() -> None:
    lines = healthy(5, "cp", "ap")
    lines.verified("ap", lost=[3])
    modes = lines.report(fault=5.0)["modes"]
    assert modes["ap"]["recovery"]["lost"] == 1
    assert modes["cp"]["recovery"]["lost"] == 0


@pytest.mark.parametrize("fault", [-1.0, 21.0])
def test_a_fault_outside_of_the_run_is_refused(fault: float) -> None:
    with pytest.raises(NoRun, match="2026-03-01T10:00:00"):
        healthy().report(fault)


def test_files_that_are_not_one_run_are_refused() -> None:
    with pytest.raises(NoRun, match="no run"):
        Report().result()
    with pytest.raises(NoRun, match="begin with a run"):
        Report().add({"type": "stall"})
    double = Lines().records * 2
    report = Report()
    report.add(double[0])
    with pytest.raises(NoRun, match="two runs"):
        report.add(double[1])


def test_a_log_made_by_hand_gives_every_number() -> None:
    """Ten writes in ten seconds, of which each second, gap, loss, stale read and latency is known."""
    lines = Lines("ap")
    for seq, at, milliseconds in [(1, 0.0, 10), (2, 1.0, 20), (3, 2.0, 30), (5, 4.5, 40), (6, 8.0, 50), (7, 8.5, 1000)]:
        lines.write(seq, at, seconds=milliseconds / 1000, mode="ap")
    lines.write(8, 5.0, "unavailable", mode="ap")
    lines.write(9, 5.5, "no_answer", seconds=3.0, mode="ap")
    lines.write(10, 9.0, "unsent", mode="ap")
    lines.read(3, 3, 6.0, mode="ap")
    lines.read(5, 0, 6.0, mode="ap", stale=True, staleness_ms=1600)
    lines.read(5, 0, 7.0, mode="ap", op="session_read", stale=True, read_your_writes=True)
    lines.verified("ap", present=[1, 2, 6, 7], lost=[3, 5])
    ap = lines.report(fault=5.0)["modes"]["ap"]
    write = ap["operations"]["write"]
    assert write["per_second"] == [
        [0, 1, 1, 0],
        [1, 1, 1, 0],
        [2, 1, 1, 0],
        [4, 1, 1, 0],
        [5, 2, 0, 0],
        [8, 2, 2, 0],
        [9, 0, 0, 1],
    ]
    assert write["availability"] == pytest.approx(6 / 8)
    assert write["latency_ms"]["p50"] == pytest.approx(30, rel=0.011), "refused and unanswered ones have none"
    assert write["latency_ms"]["p99"] == write["latency_ms"]["max"] == 1000
    assert lines.report()["modes"]["ap"]["longest_gap_in_accepted_writes"]["seconds"] == pytest.approx(8.05 - 4.54)
    assert ap["longest_gap_in_accepted_writes"]["seconds"] == pytest.approx(8.05 - 5.0), "from the fault on"
    assert (ap["recovery"]["lost_acked_writes"], ap["recovery"]["lost_acked_after_fault"]) == (2, 0)
    assert ap["recovery"]["rpo_seconds"] == pytest.approx(5.0 - 2.03), "the age of the oldest lost one"
    assert ap["recovery"]["rto_seconds"] == pytest.approx(8.05 - 5.0)
    assert (ap["reads"]["checked"], ap["reads"]["stale"], ap["reads"]["stale_of_lost_writes"]) == (3, 2, 2)
    assert (ap["reads"]["session_reads"], ap["reads"]["session_violations"]) == (1, 1)

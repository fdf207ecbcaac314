"""What `holdfast evidence report` computes and when it must not pass, each with the case that shows a wrong one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drill_files import at, ended, phase, probe, record, verified, write
from probe_lines import Lines

from holdfast.cli import main


def judged(directory: Path) -> tuple[int, dict[str, Any]]:
    code = main(["evidence", "report", str(directory)])
    assert (directory / "report.html").read_text().startswith("<!DOCTYPE html>")
    return code, json.loads((directory / "record.json").read_text())


def good(*modes: str, lost: dict[str, list[int]] | None = None, gap: tuple[float, float] = (10, 16)) -> Lines:
    return verified(ended(probe(*modes, gap=gap)), lost)


def test_a_drill_that_passes(tmp_path: Path) -> None:
    """Written at 1 to 9, refused 10 to 15, written from 16: the gap is from the fault at 10 to 16.01."""
    code, of = judged(write(tmp_path / "d", record(), good()))
    assert code == 0
    assert (of["verdict"], of["run_verdict"], of["measured"], of["reasons"]) == ("passed", "passed", True, [])
    assert of["rto_seconds"] == pytest.approx(6.01)
    assert (of["rpo_seconds"], of["lost_acked_writes"], of["lost_acked_after_fault"]) == (0, 0, 0)
    assert of["refused_seconds"] == pytest.approx(16.01 - 9.01), "from the last acknowledged before to the first after"
    assert of["measurement"]["moment_is"] == "fault"
    assert of["facts"]["fencing"] == "edges closed", "what the runbook wrote stays"


def test_lost_writes_before_and_after_the_fault(tmp_path: Path) -> None:
    lines = good(lost={"cp": [6, 8, 17]})
    code, of = judged(write(tmp_path / "d", record(), lines))
    assert code == 0, "an RPO of 4 s is within 300 s"
    assert (of["lost_acked_writes"], of["lost_acked_after_fault"]) == (2, 1)
    assert of["rpo_seconds"] == pytest.approx(10 - 6.01)
    assert of["rto_seconds"] == pytest.approx(6.01), "16 survived"


def test_a_write_that_was_lost_ends_no_outage(tmp_path: Path) -> None:
    _, of = judged(write(tmp_path / "d", record(), good(lost={"cp": [16, 17, 18]})))
    assert of["rto_seconds"] == pytest.approx(19.01 - 10)
    assert (of["rpo_seconds"], of["lost_acked_writes"], of["lost_acked_after_fault"]) == (0, 0, 3)


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ({"rto_seconds": 6}, "RTO 6 s, target 6 s"),
        ({"rpo_seconds": 3.9}, "RPO 4 s, target 3.9 s"),
        ({"lost_acked_writes": 0}, "acknowledged writes lost: 2, target 0"),
        ({"lost_acked_after_fault": 0}, "writes acknowledged after the fault and lost: 1, target 0"),
        ({"refused_seconds": 5}, "writes refused for 7 s, target 5 s"),
    ],
)
def test_a_missed_target_fails(tmp_path: Path, targets: dict[str, float], reason: str) -> None:
    lines = good(lost={"cp": [6, 8, 17]})
    code, of = judged(write(tmp_path / "d", record(targets=targets), lines))
    assert (code, of["verdict"], of["measured"]) == (3, "failed", True)
    assert of["reasons"] == [reason]
    met = {name: limit + 2 for name, limit in targets.items()}
    assert judged(write(tmp_path / "e", record(targets=met), lines))[0] == 0, "control: within it"


def test_an_aim_fails_nothing_and_is_shown(tmp_path: Path) -> None:
    code, _ = judged(write(tmp_path / "d", record(aims={"rto_seconds": 2, "rpo_seconds": 2}), good()))
    page = (tmp_path / "d/report.html").read_text()
    assert code == 0
    assert page.count("✗ missed") == 1
    assert page.count("✓ met") == 3


def test_targets_are_15_and_5_minutes_when_none_are_given(tmp_path: Path) -> None:
    of = record()
    del of["targets"]
    assert judged(write(tmp_path / "d", of, good()))[1]["targets"] == {"rto_seconds": 900, "rpo_seconds": 300}


def test_the_worst_face_counts_and_losses_add_up(tmp_path: Path) -> None:
    lines = Lines("cp", "ap")
    for number in range(1, 31):
        lines.write(number, float(number), "no_quorum" if 10 <= number < 14 else "ok", mode="cp")
        lines.write(number, float(number), "no_answer" if 10 <= number < 20 else "ok", mode="ap")
    verified(ended(lines), {"cp": [9], "ap": [7, 9]})
    _, of = judged(write(tmp_path / "d", record(), lines))
    assert of["rto_seconds"] == pytest.approx(10.01)
    assert of["rpo_seconds"] == pytest.approx(10 - 7.01)
    assert of["lost_acked_writes"] == 3
    faces = of["measurement"]["faces"]
    assert faces["cp"]["rto_seconds"] == pytest.approx(4.01)
    assert (faces["ap"]["outcome_unknown"], faces["cp"]["outcome_unknown"]) == (10, 0)


def test_the_last_client_counts_not_the_first(tmp_path: Path) -> None:
    """Two clients of one face; the second is served again 8 s after the first."""
    lines = Lines("cp")
    second = dict(lines.records[0]["targets"][0], zone="b", writer="b-cp")  # type: ignore[index]
    lines.records[0]["targets"].append(second)  # type: ignore[index]
    for number in range(1, 31):
        lines.write(number, float(number), "no_quorum" if 10 <= number < 14 else "ok")
        lines.write(number, float(number), "no_quorum" if 10 <= number < 22 else "ok")
        lines.records[-1] |= {"writer": "b-cp", "zone": "b"}  # type: ignore[operator]
    verified(ended(lines))
    finals = [r for r in lines.records if r and r["type"] == "final"]
    by_b = {r["seq"] for r in lines.records if r and r.get("writer") == "b-cp" and r.get("outcome") == "ok"}
    half = [dict(r, writer="b-cp") for r in finals if r["seq"] in by_b]
    lines.records[-1:-1] = half
    _, of = judged(write(tmp_path / "d", record(), lines))
    assert of["rto_seconds"] == pytest.approx(12.01)
    assert of["measurement"]["faces"]["cp"]["rto_client"] == "b-cp"


def test_a_gap_across_the_end_fails_whatever_the_target(tmp_path: Path) -> None:
    code, of = judged(write(tmp_path / "d", record(), good(gap=(10, 99))))
    assert (code, of["verdict"], of["measured"]) == (3, "failed", True)
    assert of["rto_seconds"] == pytest.approx(20), "a lower bound: from 10 to the begin of the last write at 30"
    assert of["reasons"] == ["CP: not every client was served again before the probe ended"]
    assert "at least 20 s" in (tmp_path / "d/report.html").read_text()


def test_a_second_outage_at_the_end_fails_too(tmp_path: Path) -> None:
    """The longest gap has ended, yet nobody is served at the end."""
    lines = Lines()
    for number in range(1, 41):
        lines.write(number, float(number), "no_quorum" if 10 <= number < 23 or number > 30 else "ok")
    code, of = judged(write(tmp_path / "d", record(), verified(ended(lines, 41.0))))
    assert (code, of["rto_seconds"]) == (3, pytest.approx(13.01))
    assert of["reasons"] == ["CP: not every client was served again before the probe ended"]


def test_a_probe_that_ended_in_the_outage_is_not_served_again(tmp_path: Path) -> None:
    """The last write that survived lies within the probe's patience of the end, and yet before the fault."""
    lines = verified(ended(probe(seconds=16, gap=(10, 99)), 17.0))
    code, of = judged(write(tmp_path / "d", record(), lines))
    assert (code, of["measured"]) == (3, True)
    assert of["reasons"] == ["CP: not every client was served again before the probe ended"]


def test_a_stale_read_fails_unless_its_write_was_lost(tmp_path: Path) -> None:
    lines = probe()
    lines.read(8, 0, 20.0)
    verified(ended(lines))
    code, of = judged(write(tmp_path / "d", record(), lines))
    assert (code, of["reasons"]) == (3, ["CP: 1 answers broke the face's promise"])
    lost = probe()
    lost.read(8, 0, 20.0)
    assert judged(write(tmp_path / "e", record(), verified(ended(lost), {"cp": [8]})))[0] == 0


def test_a_planned_switch_counts_from_the_switch(tmp_path: Path) -> None:
    for number, fault in enumerate((None, {"kind": "none", "at": at(12)})):
        of = record(runbook="dr_failback", fault=fault)
        code, of = judged(write(tmp_path / f"d{number}", of, good(gap=(13, 15))))
        assert code == 0
        assert of["rto_seconds"] == pytest.approx(3.0), "12.01 to 15.01"
        assert of["refused_seconds"] == pytest.approx(3.0)
        assert "writes refused for" in (tmp_path / f"d{number}/report.html").read_text().lower()


def test_a_switch_of_several_plays_is_one(tmp_path: Path) -> None:
    phases = [phase(5, "Switch the nodes", 12, 14), phase(5, "Switch the names", 14, 33), phase(6, "Verify", 33, 40)]
    phases.insert(0, phase(5, "Switch nothing", 3, 4, result="skipped"))
    code, of = judged(write(tmp_path / "d", record(phases=phases, fault=None), good()))
    assert code == 4
    assert of["reasons"] == ["not measured: the probe ended 3.0 s before it could have seen the outcome"]
    phases[2]["ended"] = at(29)
    _, of = judged(write(tmp_path / "e", record(phases=phases, fault=None), good(gap=(13, 16))))
    assert of["rto_seconds"] == pytest.approx(4.0), "from 12, by way of 12.01, to 16.01"


def test_nothing_refused_is_zero(tmp_path: Path) -> None:
    _, of = judged(write(tmp_path / "d", record(), good(gap=(99, 99))))
    assert of["refused_seconds"] == 0
    assert of["rto_seconds"] == pytest.approx(1.0), "the interval of the writer is the resolution"


@pytest.mark.parametrize("verdict", ["failed", "interrupted"])
def test_a_runbook_that_failed_stays_failed_and_says_where(tmp_path: Path, verdict: str) -> None:
    of = record(verdict=verdict, failed_task="Promote db_s1")
    code, of = judged(write(tmp_path / "d", of, good()))
    assert (code, of["verdict"]) == (3, verdict)
    assert of["reasons"][0].startswith("the runbook")
    again, of = judged(tmp_path / "d")
    assert (again, of["verdict"], of["run_verdict"]) == (3, verdict, verdict)


@pytest.mark.parametrize(("lines", "code"), [(good(), 0), (good(gap=(10, 99)), 3), (ended(probe()), 4)])
def test_a_runbook_that_runs_asks_how_it_stands(tmp_path: Path, capsys: Any, lines: Lines, code: int) -> None:
    """Its record says interrupted until it has ended."""
    directory = write(tmp_path / "d", record(verdict="interrupted", ended=None), lines)
    before = (directory / "record.json").read_bytes()
    assert main(["evidence", "report", "--running", str(directory)]) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == ("failed" if code else "passed")
    assert (directory / "record.json").read_bytes() == before
    assert not (directory / "report.html").exists()
    assert judged(directory)[0] == (code or 3), "control: without --running the interruption counts"


def test_the_report_can_be_made_again(tmp_path: Path) -> None:
    """A verdict that failed by measurement must pass once the measurement is complete: the runbook's own is kept."""
    directory = write(tmp_path / "d", record(), ended(probe()))
    assert judged(directory)[0] == 4
    write(directory, (directory / "record.json").read_text(), good())
    code, of = judged(directory)
    assert (code, of["verdict"], of["rto_seconds"]) == (0, "passed", pytest.approx(6.01))
    before = (directory / "record.json").read_bytes()
    judged(directory)
    assert (directory / "record.json").read_bytes() == before


def without(kind: str) -> Lines:
    lines = good()
    lines.records = [r for r in lines.records if r and r["type"] != kind]
    return lines


def stalled(start: float, end: float, jump: float | None = None, seconds: int = 30) -> Lines:
    lines = probe(seconds=seconds)
    lines.stall(start, end)
    if jump is not None:
        lines.records[-1]["clock_jump"] = jump  # type: ignore[index]
    return verified(ended(lines, seconds + 1.0))


def half_line() -> Lines:
    lines = good()
    lines.records[5] = None
    return lines


def late() -> Lines:
    lines = probe()
    for number in range(31, 41):
        lines.write(number, 30.5, "unsent")
    return verified(ended(lines))


def forgotten() -> Lines:
    lines = good()
    lines.records = [r for r in lines.records if r != {"type": "final", "writer": "a-cp", "seq": 3, "state": "present"}]
    return lines


def odd() -> Lines:
    lines = good()
    lines.records[3] = {"type": "request", "op": "write"}
    return lines


def short(count: int) -> Lines:
    return verified(ended(probe(seconds=count, gap=(99, 99)), count + 1))


UNMEASURED: dict[str, tuple[Callable[[], Lines | None], str]] = {
    "no file": (lambda: None, "there is no probe.jsonl"),
    "empty": (lambda: _emptied(), "empty"),
    "no run": (lambda: without("run"), "does not begin with a run"),
    "no end": (lambda: without("end"), "killed"),
    "not verified": (lambda: ended(probe()), "read back"),
    "one write not read back": (forgotten, "1 acknowledged writes were not read back"),
    "a damaged line": (half_line, "the lines of 1 writes are missing"),
    "a line with no fields": (odd, "damaged (line 4)"),
    "stalled at once": (lambda: stalled(11, 16.1, seconds=60), "stalled for 5.1 s"),
    "stalled often": (lambda: stalled(20, 23.2), "stalled for 3.2 s"),
    "clock jumped ahead": (lambda: stalled(3, 3.06, 1.5), "stepped by 1.5 s"),
    "clock jumped back": (lambda: stalled(20, 20.06, -60.0), "stepped by 60.0 s"),
    "left out what was due": (late, "left out 10 writes"),
    "ended before the fault": (lambda: short(8), "not inside"),
    "ended before the switch was done": (lambda: short(13), "could have seen the outcome"),
    "down before the fault": (lambda: good(gap=(1, 16)), "no write was acknowledged in the 8.0 s before the fault"),
    "no target": (lambda: _no_target(), "no target"),
}


def _emptied() -> Lines:
    lines = Lines()
    lines.records = []
    return lines


def _no_target() -> Lines:
    lines = good()
    lines.records[0]["targets"] = []  # type: ignore[index]
    lines.records = [r for r in lines.records if r and r["type"] in ("run", "end", "verify_end")]
    lines.records[1]["requests"] = 0  # type: ignore[index]
    return lines


@pytest.mark.parametrize("case", UNMEASURED)
def test_what_was_not_measured_never_passes(tmp_path: Path, case: str) -> None:
    made, reason = UNMEASURED[case]
    code, of = judged(write(tmp_path / "d", record(), made()))
    assert (code, of["verdict"], of["measured"]) == (4, "failed", False)
    assert any(reason in r and r.startswith("not measured: ") for r in of["reasons"]), of["reasons"]
    for name in ("rto_seconds", "rpo_seconds", "lost_acked_writes", "lost_acked_after_fault", "refused_seconds"):
        assert of[name] is None
    assert "not measured" in (tmp_path / "d/report.html").read_text()


@pytest.mark.parametrize("lines", [stalled(20, 22.9), stalled(11, 15.9, seconds=60), stalled(3, 3.06, 0.9)])
def test_a_short_stall_and_a_small_step_are_borne(tmp_path: Path, lines: Lines) -> None:
    assert judged(write(tmp_path / "d", record(), lines))[0] == 0


def test_the_interval_decides_how_long_before_the_fault_is_looked(tmp_path: Path) -> None:
    """Rate 1, timeout 3: 8 s. Served until 2.01 with a fault at 10 is measured, until 1.01 is not."""
    assert judged(write(tmp_path / "d", record(), good(gap=(3, 16))))[0] == 0
    assert judged(write(tmp_path / "e", record(), good(gap=(2, 16))))[0] == 4


def test_a_run_that_is_no_drill_keeps_its_verdict_without_a_probe(tmp_path: Path) -> None:
    code, of = judged(write(tmp_path / "d", record(drill=False)))
    assert (code, of["verdict"], of["measured"], of["rto_seconds"]) == (0, "passed", False, None)
    assert judged(write(tmp_path / "e", record(drill=False, verdict="failed")))[0] == 3
    assert judged(write(tmp_path / "f", record(drill=False), good()))[1]["rto_seconds"] == pytest.approx(6.01)


BROKEN: dict[str, Any] = {
    "half": '{"format": 1, "runb',
    "not an object": "[]",
    "deep": "[" * 200_000,
    "format": record(format=2),
    "no verdict": record(verdict=None),
    "no start": record(started=None),
    "start without a zone": record(started="2026-03-01T10:00:00"),
    "fault without a zone": record(fault={"kind": "power", "at": "2026-03-01T10:00:00"}),
    "target NaN": record(targets={"rto_seconds": float("nan")}),
    "target text": record(targets={"rto_seconds": "900"}),
    "target negative": record(targets={"rpo_seconds": -1}),
    "drill as text": record(drill="yes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_record_is_refused_and_left_alone(tmp_path: Path, case: str) -> None:
    directory = write(tmp_path / "d", BROKEN[case], good())
    before = (directory / "record.json").read_bytes()
    assert main(["evidence", "report", str(directory)]) == 2
    assert (directory / "record.json").read_bytes() == before
    assert not (directory / "report.html").exists()


def test_no_half_written_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path / "d", record(), good())
    before = (directory / "record.json").read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["evidence", "report", str(directory)]) == 2
    assert (directory / "record.json").read_bytes() == before
    assert sorted(p.name for p in directory.iterdir()) == ["probe.jsonl", "record.json"]

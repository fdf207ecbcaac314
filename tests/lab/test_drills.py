"""bin/drills: its arithmetic, what it refuses, and what it calls a drill that does not hold. Touches no lab."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bin"), str(ROOT / "molecule/tests")]

import regions  # noqa: E402
from lab_lib import drill_keys, drill_numbers, drills, hosts, machine, paths, report, roundtrip  # noqa: E402
from lab_lib.report import Problem  # noqa: E402


def record(runbook="dr_failover", **changed):
    """What a drill that went well leaves behind."""
    phases = [{"title": "Open", "seconds": 7.0, "ansible_seconds": 1.5}, {"title": "Switch", "seconds": 4.0, "ansible_seconds": 2.0}]
    good = {"runbook": runbook, "verdict": "passed", "reasons": [], "phases": phases, "rto_seconds": 12.0, "rpo_seconds": 0.2}
    return good | {"lost_acked_writes": 0, "lost_acked_after_fault": 0, "refused_seconds": 3.0} | changed


def drill(runbook="dr_failover", **changed):
    return drill_numbers.read(record(runbook, **changed), "x-" + runbook)


@pytest.mark.parametrize("runbook", drill_numbers.LIMITS)
def test_a_good_drill_holds(runbook):
    assert drill_numbers.broken(drill(runbook)) == []
    assert drill_numbers.held([drill(runbook)])


@pytest.mark.parametrize(
    ("runbook", "changed", "said"),
    [
        ("dr_failover", {"rto_seconds": 30.0}, "RTO"),
        ("dr_failover", {"rpo_seconds": 2.0}, "RPO"),
        ("dr_failover", {"rto_seconds": None}, "RTO, in seconds: not measured"),
        ("dr_failover", {"verdict": "failed", "reasons": ["the runbook failed in the task: Wait"]}, "failed in the task: Wait"),
        ("dr_failback", {"lost_acked_writes": 1}, "lost: 1, limit 0"),
        ("dr_failback", {"lost_acked_after_fault": 2}, "lost: 2, limit 0"),
        ("dr_failback", {"lost_acked_after_fault": None}, "lost: not measured"),
        ("dr_failback", {"refused_seconds": 10.0}, "refused"),
        ("dr_failback", {"verdict": "interrupted"}, "interrupted"),
    ],
)
def test_a_bad_drill_does_not(runbook, changed, said):
    bad = drill(runbook, **changed)
    assert any(said in why for why in drill_numbers.broken(bad)), drill_numbers.broken(bad)
    assert not drill_numbers.held([drill(), bad, drill()])


@pytest.mark.parametrize(
    ("runbook", "changed"),
    [
        ("dr_failover", {"rto_seconds": 29.9, "rpo_seconds": 1.9, "lost_acked_writes": 7, "refused_seconds": 29.9}),
        ("dr_failback", {"refused_seconds": 9.9, "rto_seconds": 99.0}),
    ],
)
def test_what_has_no_limit_breaks_none(runbook, changed):
    assert drill_numbers.broken(drill(runbook, **changed)) == []


def test_no_drill_at_all_holds_nothing():
    assert not drill_numbers.held([])
    assert "-" in drill_numbers.text([])


def test_the_middle_and_the_worst():
    many = [drill(rto_seconds=seconds) for seconds in (9.0, 30.0, 10.0, 12.0)] + [drill(rto_seconds=None), drill("dr_failback")]
    rows = {what: (mid, worst, limit) for what, mid, worst, limit in drill_numbers.table(many)}
    assert rows["dr_failover: RTO, in seconds"] == (11.0, 30.0, 30.0)
    assert rows["dr_failover: Switch, Ansible's own seconds"] == (2.0, 2.0, None)
    assert rows["dr_failback: acknowledged writes lost"] == (0.0, 0.0, 0.0)
    text = drill_numbers.text(many)
    assert any(line.split() == ["dr_failover:", "RTO,", "in", "seconds", "11.0", "30.0", "30"] for line in text.splitlines()), text


def test_a_line_names_every_number_and_ansible_s_part():
    line = drill_numbers.line(drill(lost_acked_writes=3, lost_acked_after_fault=1))
    assert line == (
        "dr_failover: RTO 12, RPO 0.2, lost 4, refused 3; Ansible's own 3.5 s; phases (of it Ansible's own): Open 7.0/1.5, Switch 4.0/2.0"
    )


def test_json_says_the_same(tmp_path, capsys):
    place = tmp_path / "drills.json"
    bad = drill("dr_failback", refused_seconds=11.0)
    drills._end([drill(), bad], argparse.Namespace(keys=5, writes_per_second=200, json=place))
    said = json.loads(place.read_text())
    assert (said["held"], said["keys"], said["writes_per_second"]) == (False, 5, 200)
    assert [bool(one["broken"]) for one in said["drills"]] == [False, True]
    assert "does not hold: x-dr_failback: writes refused for, in seconds: 11, limit 10" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [{}, {"runbook": "dr_failover"}, record(runbook="dr_follow"), {**record(), "phases": None}])
def test_a_record_of_something_else_is_refused(bad):
    with pytest.raises(ValueError, match="no record of a drill"):
        drill_numbers.read(bad, "x")


@pytest.mark.parametrize(
    "given",
    [["--count", "0"], ["--count", "ten"], ["--count", "1001"], ["--keys", "-1"], ["--keys", "1e6"], ["--keys", "٣"],
     ["--writes-per-second", "1"], ["--json", "/nowhere/x"], ["--json", "/"], ["more"]],
)  # fmt: skip
def test_bad_input_is_refused_before_anything(given):
    done = subprocess.run([ROOT / "bin" / "drills", *given], capture_output=True, text=True)
    assert done.returncode == 2 and "usage: bin/drills" in done.stderr and done.stdout == ""


@pytest.fixture
def lab(monkeypatch):
    """A lab that is up and right."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "engine_answers", lambda: True)
    monkeypatch.setattr(hosts, "owner", lambda: str(ROOT))
    found = [hosts.Host("a1", "192.0.2.1", "a", "east", True), hosts.Host("d1", "192.0.2.4", "d", "west", True)]
    monkeypatch.setattr(hosts, "read_inventory", lambda: hosts.Lab("192.0.2.0/24", "admin", found, "east"))
    monkeypatch.setattr(drills, "READY_SECONDS", 0)
    said = {"east": "ready", "west": "standby"}
    monkeypatch.setattr(roundtrip, "health", lambda edge, _mode: said[edge.region])
    return said


def test_a_lab_that_is_right_is_taken(lab):
    assert drills._ready()[1:] == ("east", "west")


@pytest.mark.parametrize(
    ("place", "name", "held", "said"),
    [
        (os, "geteuid", 1000, "needs root"),
        (machine, "engine_answers", False, "no lab on this machine"),
        (hosts, "owner", "", "no lab on this machine"),
        (hosts, "owner", "/home/someone", "made from /home/someone"),
    ],
)
def test_no_lab_is_refused(lab, monkeypatch, capsys, place, name, held, said):
    monkeypatch.setattr(place, name, lambda: held)
    assert drills.main([], "") == 1
    out = capsys.readouterr().out
    assert said in out and "Cure:" in out


def test_drills_begin_where_the_lab_began(lab, capsys):
    lab |= {"east": "fenced", "west": "ready"}
    assert drills.main([], "") == 1
    assert "west serves" in capsys.readouterr().out


@pytest.mark.parametrize("east", ["no answer", "starting", "unconfirmed"])
def test_an_edge_that_is_not_ready_serves_nobody(lab, capsys, east):
    lab |= {"east": east, "west": "no answer"}
    assert drills.main([], "") == 1
    assert "no region serves, and the drills begin with east" in capsys.readouterr().out


def test_an_edge_that_missed_one_look_is_looked_at_again(lab, monkeypatch):
    monkeypatch.setattr(drills, "READY_SECONDS", 20)
    looks = iter(["no answer", "ready"])
    monkeypatch.setattr(roundtrip, "health", lambda edge, _mode: next(looks) if edge.region == "east" else "standby")
    drills._expect(hosts.read_inventory(), "east", drill("dr_failback"))


@pytest.mark.parametrize("problem", [Problem("the disk is full", "make room"), OSError("no route"), subprocess.TimeoutExpired("ssh", 60)])
def test_what_stops_the_drills_is_said_and_judged_as_not_held(lab, monkeypatch, capsys, tmp_path, problem):
    def stop(*_):
        raise problem

    monkeypatch.setattr(drills, "_load", stop)
    monkeypatch.setattr(paths, "LOGS", tmp_path)
    monkeypatch.setattr(report.Report.__init__, "__defaults__", (tmp_path,))
    assert drills.main(["--json", str(tmp_path / "said.json")], "") == 1
    out = capsys.readouterr().out
    assert f"Cause: {problem}" in out and "Cure:" in out
    assert json.loads((tmp_path / "said.json").read_text())["held"] is False


def test_numbers_that_cannot_be_written_are_said_without_a_traceback(lab, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(drills, "_load", lambda *_: "none")
    monkeypatch.setattr(drills, "_round", lambda *given: given[-1].append(drill()))
    monkeypatch.setattr(report.Report.__init__, "__defaults__", (tmp_path,))
    assert drills.main(["--count", "1"], "") == 0
    assert drills.main(["--count", "1", "--json", "/dev/full"], "") == 1
    out = capsys.readouterr().out
    assert "Cause: /dev/full cannot be written: No space left on device" in out and "dr_failover: RTO, in seconds" in out


def test_ctrl_c_waits_for_what_the_runbook_then_puts_in_order(tmp_path):
    """As a terminal does it: the signal goes to the command and to what it runs."""
    runbook = "import atexit, time; atexit.register(lambda: (time.sleep(1), open('ended', 'w'))); open('begun', 'w'); time.sleep(60)"
    command = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "bin")!r})
from lab_lib.report import Report
Report("x", 1, Path(".")).stream([sys.executable, "-c", {runbook!r}], print)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background of a shell were told to ignore it
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert "KeyboardInterrupt" in said and (tmp_path / "ended").exists(), said


@pytest.mark.parametrize(
    ("runbook", "region", "said", "cause", "cure"),
    [
        ("dr_failover", "west", {"east": "ready"}, "east serves, and not west", "without -e drill=true, and with -e accept_unfenced=east"),
        ("dr_failover", "west", {"east": "no answer"}, "no region serves, and not west", "without -e drill=true"),
        (
            "dr_failback",
            "east",
            {"east": "fenced", "west": "fenced"},
            "no region serves, and not east",
            "-e to=east again without -e drill=true",
        ),
        ("dr_failback", "east", {"east": "ready", "west": "ready"}, "east and west serves, and not east", "without -e drill=true"),
    ],
)
def test_the_wrong_region_after_a_drill_stops_all(lab, runbook, region, said, cause, cure):
    lab |= said
    with pytest.raises(Problem, match=cause) as problem:
        drills._expect(hosts.read_inventory(), region, drill(runbook))
    assert cure in problem.value.cure and ("unfenced" in problem.value.cure) == (runbook == "dr_failover")


COPY = {"role": "replica", "state": "member", "link": "up", "keys": 5, "lag_seconds": 0.4}


@pytest.mark.parametrize(
    ("role", "node", "holds"),
    [
        ("replica", COPY, True),
        ("replica", {**COPY, "lag_seconds": 2.5}, False),
        ("replica", {**COPY, "lag_seconds": None}, False),
        ("replica", {name: held for name, held in COPY.items() if name != "lag_seconds"}, False),
        ("replica", {**COPY, "link": "-"}, False),
        ("replica", {**COPY, "keys": 4}, False),
        ("primary", {**COPY, "role": "primary", "link": "-", "lag_seconds": None}, True),
        ("primary", {**COPY, "role": "primary", "link": "up"}, False),
    ],
)
def test_which_nodes_are_in_step(lab, monkeypatch, role, node, holds):
    monkeypatch.setattr(drill_keys, "counted", lambda *_: {f"db_g{number}": node for number in (1, 2, 3)})
    assert drills._hold(hosts.read_inventory(), "east", role, 5) is holds


VERIFY = regions.KNOWN[0] + " is within the targets"
STALL = regions.STALLED + " for 3 s"


@pytest.mark.parametrize(
    ("reasons", "held", "excused"),
    [
        ([], True, True),
        ([VERIFY, STALL], False, True),
        ([STALL], False, True),
        ([VERIFY], False, False),
        ([], False, False),
        (["RTO: 99 s", VERIFY, STALL], False, False),
        (["the runbook failed in the task: Wait", STALL], False, False),
    ],
)
def test_only_a_client_that_stalled_excuses_a_drill_in_the_lab_s_tests(reasons, held, excused):
    assert (regions.unexcused(reasons, held) == []) is excused

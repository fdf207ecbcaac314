"""The numbers of drills on the hosts that are scraped: the newest of all control machines, whole at any moment."""

import importlib.util
import json
import os
import signal
import subprocess
import time

import pytest
from runs import ROOT, Runs

MODULE = ROOT / "roles/evidence/library/drill_metrics.py"
SPEC = importlib.util.spec_from_file_location("drill_metrics", MODULE)
assert SPEC and SPEC.loader
METRICS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(METRICS)
SPEC = importlib.util.spec_from_file_location("drill_evidence", ROOT / "plugins/drill_evidence.py")
assert SPEC and SPEC.loader
DRILL = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(DRILL)
NOW = 2_000_000_000.0
SHORT = {"at": "last_run_timestamp_seconds", "ok": "last_run_success", "success": "last_success_timestamp_seconds"}
SHORT |= {"rto": "rto_seconds", "rpo": "rpo_seconds"}


def text(**of):
    """What `holdfast evidence metrics` prints, for runbook=dict(at=..., ok=..., success=..., rto=..., rpo=...)."""
    lines = []
    for short, name in SHORT.items():
        lines += [f"# HELP holdfast_drill_{name} words", f"# TYPE holdfast_drill_{name} gauge"]
        lines += [f'holdfast_drill_{name}{{runbook="{runbook}"}} {values[short]}' for runbook, values in of.items() if short in values]
    return "\n".join([*lines, "holdfast_drill_broken_records 0"]) + "\n"


def numbers(merged):
    """{runbook: {short name: value}} of a file."""
    found = {}
    for line in merged.splitlines():
        if match := METRICS.SERIES.fullmatch(line):
            short = next(short for short, name in SHORT.items() if match[1] == f"holdfast_drill_{name}")
            found.setdefault(match[2], {})[short] = float(match[3])
    return found


OLD = {"at": 100, "ok": 1, "success": 100, "rto": 12.5, "rpo": 0.2}
NEW = {"at": 200, "ok": 1, "success": 200, "rto": 9, "rpo": 0.1}
FAILED = {"at": 300, "ok": 0}


@pytest.mark.parametrize(
    ("there", "brought", "expected"),
    [
        ({}, {"a": OLD}, {"a": OLD}),
        ({"a": OLD}, {"a": NEW}, {"a": NEW}),
        ({"a": NEW}, {"a": OLD}, {"a": NEW}),
        ({"a": OLD}, {"a": FAILED}, {"a": OLD | FAILED}),
        ({"a": FAILED}, {"a": OLD}, {"a": OLD | FAILED}),
        ({"a": OLD}, {"b": NEW}, {"a": OLD, "b": NEW}),
        ({"a": OLD}, {"a": {**OLD, "rto": 13}}, {"a": {**OLD, "rto": 13}}),  # judged again
        ({"a": NEW | {"at": NOW + 7200, "success": NOW + 7200}}, {"a": OLD}, {"a": OLD}),  # written by a clock that was ahead
        ({"a": OLD}, {"a": NEW | {"at": NOW + 7200, "success": NOW + 7200}}, {"a": OLD}),
    ],
)
def test_each_runbook_keeps_its_newest_drill_and_its_newest_success(there, brought, expected):
    merged = METRICS.merge(METRICS.merge("", text(**there), NOW + 9999) if there else "", text(**brought), NOW)
    assert numbers(merged) == expected


def test_a_damaged_file_is_replaced_and_nothing_odd_is_kept():
    damaged = 'rubbish\nholdfast_drill_rto_seconds{runbook="a"}\nholdfast_drill_rto_seconds{runbook="a"} NaN\n\x00'
    assert numbers(METRICS.merge(damaged, text(a=OLD), NOW)) == {"a": OLD}


def test_each_metric_has_one_head_and_its_series_follow(tmp_path):
    merged = METRICS.merge(text(a=OLD, b=FAILED), text(a=NEW), NOW)
    heads = [line.split()[2] for line in merged.splitlines() if line.startswith("# TYPE")]
    assert sorted(heads) == sorted({f"holdfast_drill_{name}" for name in SHORT.values()})
    last = ""
    for line in merged.splitlines():
        name = line.split()[2] if line.startswith("#") else line.split("{")[0]
        assert line.startswith("# HELP") or name == last
        last = name


def module(directory, brought):
    process = subprocess.Popen([ROOT / ".venv/bin/python", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {"directory": str(directory), "text": brought}}))
    process.stdin.close()
    return process


def test_many_that_bring_theirs_in_one_moment_lose_none_and_no_scrape_sees_half(tmp_path):
    """The module as Ansible runs it, in processes of its own."""
    started = [module(tmp_path / "made", text(**{f"r{number}": OLD})) for number in range(6)]
    path, seen = tmp_path / "made" / METRICS.FILE, 0
    while any(process.poll() is None for process in started):
        if path.exists():
            seen += 1
            assert path.read_text().endswith("\n") and "# TYPE holdfast_drill_rto_seconds" in path.read_text()
    assert seen and all(json.loads(process.stdout.read())["changed"] for process in started)
    assert numbers(path.read_text()) == {f"r{number}": OLD for number in range(6)}
    assert [one.name for one in path.parent.iterdir()] == [METRICS.FILE] and path.stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_written_leaves_the_file_of_before(tmp_path, monkeypatch):
    METRICS.land(tmp_path, text(a=OLD))
    before = (tmp_path / METRICS.FILE).read_text()

    def full(_number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        METRICS.land(tmp_path, text(a=NEW))
    assert (tmp_path / METRICS.FILE).read_text() == before and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    for nothing in ("", "holdfast: error\n", text(a=NEW).replace("# TYPE holdfast_drill_last_run_timestamp_seconds ", "# ")):
        said = json.loads(module(tmp_path, nothing).stdout.read())
        assert "the text says nothing of" in said["msg"] and "The file from before stands" in said["msg"]
    assert (tmp_path / METRICS.FILE).read_text() == before
    (tmp_path / "a file").write_text("")
    process = module(tmp_path / "a file", text(a=NEW))
    assert "The file from before stands" in json.loads(process.stdout.read())["msg"]


def given(runs, hosts):
    """A drill whose numbers go to these hosts."""
    where = json.dumps({"evidence_metrics_hosts": hosts, "evidence_metrics_directory": f"{runs.place}/scraped"})
    return ["-e", "drill=true", "-e", "drills=true", "-e", where]


def test_a_drill_brings_its_numbers(tmp_path):
    runs = Runs(tmp_path)
    code, said = runs.run(*given(runs, ["one"]), confirm="")
    assert code == 0 and "metrics of drills" not in said, said
    found = numbers((runs.place / "scraped" / METRICS.FILE).read_text())
    assert found["move"]["ok"] == 0, "a drill without a client was not measured"
    assert abs(found["move"]["at"] - time.time()) < 120
    runs.run("-e", json.dumps({"evidence_metrics_hosts": ["two"], "evidence_metrics_directory": f"{runs.place}/real"}))
    assert not (runs.place / "real").exists(), "no drill, no numbers"


def test_a_host_that_is_off_is_named_and_fails_nothing(tmp_path):
    runs = Runs(tmp_path)
    code, said = runs.run(*given(runs, ["one", "dead"]), confirm="")
    assert code == 0 and "the metrics of drills did not get to dead; the next drill from this control machine brings them" in " ".join(
        said.split()
    ), said
    assert (runs.place / "scraped" / METRICS.FILE).exists(), "the other one has them"


def answer_instead(tmp_path, script):
    """Another `holdfast` for the callback plugin: the same checkout, but for the program it calls."""
    (tmp_path / "holdfast").mkdir()
    (tmp_path / "holdfast/__init__.py").write_text("")
    (tmp_path / "holdfast/__main__.py").write_text(f"import sys, time\n{script}\n")
    DRILL.SOURCE = tmp_path


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sys.exit('the records are unreadable')", "holdfast evidence metrics: the records are unreadable"),
        ("time.sleep(60)", "timed out after 0.5 seconds"),
    ],
)
def test_numbers_that_cannot_be_made_are_said_and_nothing_is_brought(tmp_path, monkeypatch, script, said):
    monkeypatch.setattr(DRILL, "SOURCE", DRILL.SOURCE)
    monkeypatch.setattr(DRILL, "MADE_SECONDS", 0.5 if "sleep" in script else 60)
    answer_instead(tmp_path, script)
    warned, brought = [], []
    DRILL.bring_metrics(tmp_path, ["one"], lambda text: brought.append(text) or [], warned.append)
    DRILL.make_pages(tmp_path, warned.append)
    assert said in warned[0] and "did not get to one" in warned[1] and brought == []
    assert [warning.split(":")[0] for warning in warned[2:]] == ["holdfast evidence report", "holdfast evidence index"]


def test_an_interrupted_drill_stops_its_client_and_says_that_it_did_not_succeed(tmp_path):
    runs = Runs(tmp_path)
    file, before = runs.place / "scraped" / METRICS.FILE, time.time() - 5
    METRICS.land(file.parent, text(move={"at": before, "ok": 1, "success": before, "rto": 3, "rpo": 0}))
    process = runs.start(*given(runs, ["one"]), "-e", "ticks=900", confirm="")
    runs.until_it_waits(process)
    client = subprocess.Popen(["sleep", "900"], start_new_session=True)
    [run] = [path.parent for path in runs.place.glob("evidence/*/record.json") if json.loads(path.read_text())["ended"] is None]
    (run / "probe.pid").write_text(f"{client.pid}\n")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode != 0 and "start the same runbook again, without -e drill=true where nothing serves" in said, said
    try:
        assert client.wait(timeout=1) == -signal.SIGTERM, "the client of the drill writes no more"
    finally:
        client.kill()
    found = numbers(file.read_text())["move"]
    assert found["ok"] == 0 and found["at"] > before == found["success"] and (run / "report.html").exists(), said

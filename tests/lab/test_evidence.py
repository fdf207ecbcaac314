"""Role evidence and its callback plugin, by running small runbooks: the record is written however the run ends, and the lock holds."""

import json
import re
import signal
from pathlib import Path

import pytest
from runs import OPERATOR, RUNBOOK, Runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_run_that_passes_leaves_its_record_and_no_lock(runs):
    secrets = {"api_token": "hunter2", "note": {"deep_secret": "hunter2"}, "prefix": "cart:", "key": "cart:17", "again": "cart:17"}
    code, said = runs.run("-e", json.dumps({"zone": "a"} | secrets), "-e", "ticks=30")  # more than any other task takes
    assert code == 0, said
    [record] = runs.records()
    assert f"{runs.place}/evidence/" in said and "(verdict: passed)" in said
    assert (record["format"], record["runbook"], record["verdict"], record["drill"]) == (1, "move", "passed", False)
    assert (record["reason"], record["operator"], record["failed_task"]) == ("a try of the framework", OPERATOR, None)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", record["git_commit"]) and record["inventory"].endswith("hosts.yml")
    assert record["arguments"]["zone"] == "a" and record["facts"]["serial"] == 7
    assert "hunter2" not in json.dumps(record)
    assert "cart:" not in json.dumps(record), "users' keys; what is typed to confirm repeats one"
    assert record["fault"] == {"kind": "power", "at": "2026-11-28T00:00:00Z"} and record["rto_seconds"] == 3.5
    phases = [(phase["number"], phase["title"], phase["result"]) for phase in record["phases"]]
    assert phases == [
        (1, "Open", "ok"),
        (3, "Confirm", "ok"),
        (5, "Switch the region", "ok"),
        (6, "Verify", "ok"),
        (7, "Release", "skipped"),
        (8, "Close", "ok"),
    ]
    switch = record["phases"][2]
    assert switch["slowest"][0]["task"] == "Wait for the switch" and 3 <= switch["slowest"][0]["seconds"] <= switch["seconds"]
    assert 0 <= switch["ansible_seconds"] <= switch["seconds"] - 3 and switch["tasks"] == 3
    assert record["started"] <= switch["started"] < switch["ended"] <= record["ended"]
    assert not runs.lock("one") and not runs.lock("two")


def test_a_failed_task_is_named_and_the_lock_is_freed_without_close(runs):
    code, said = runs.run("-e", "broken=true")
    assert code == 2, said
    [record] = runs.records()
    assert (record["verdict"], record["failed_task"]) == ("failed", "Say that it failed")
    assert [phase["number"] for phase in record["phases"] if phase["result"] == "failed"] == [5]
    assert [phase["number"] for phase in record["phases"]] == [1, 3, 5]
    assert "(verdict: failed)" in said
    assert not runs.lock("one") and not runs.lock("two"), said


def test_a_failure_that_was_put_right_is_none(runs):
    code, said = runs.run("-e", "rescued=true")
    assert code == 0, said
    [record] = runs.records()
    assert record["verdict"] == "passed" and {phase["result"] for phase in record["phases"]} == {"ok", "skipped"}


def test_an_interrupted_run_leaves_record_and_lock_and_may_be_started_again(runs):
    process = runs.start("-e", "ticks=900")
    runs.until_it_waits(process)
    assert runs.records()[0]["verdict"] == "interrupted" and runs.records()[0]["ended"] is None
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    (runs.place / "waiting").unlink()
    assert process.returncode != 0 and "start the same runbook again" in said
    [record] = runs.records()
    assert record["verdict"] == "interrupted" and record["ended"] and record["phases"][-1]["number"] == 5
    assert runs.lock()["run"].endswith("-move")
    code, said = runs.run(runbook="other")
    assert code == 2 and f"take_over_lock={OPERATOR}" in said.replace("\\n", ""), said
    code, said = runs.run()  # her own of the same runbook, whose process is gone: at once
    assert code == 0, said
    assert runs.records()[-1]["facts"]["locks_taken_over"]["one"]["run"].endswith("-move") and not runs.lock()


def test_a_killed_run_has_a_record_that_says_so(runs):
    process = runs.start("-e", "ticks=900")
    runs.until_it_waits(process)
    process.kill()
    process.wait(timeout=60)
    (runs.place / "go").touch()
    assert runs.records()[0]["verdict"] == "interrupted"


def test_of_two_runs_at_the_same_time_one_is_refused(runs):
    first = runs.start("-e", "ticks=900")
    runs.until_it_waits(first)
    for user in ("bert", "anna"):  # the operator's own run is alive, so a second one of hers is refused as well
        code, said = runs.run(user=user)
        assert code == 2 and "Another run holds the lock" in said and f"{OPERATOR} runs move" in said, said
    assert len(runs.records()) == 1 and not [host for host in ("one", "two") if runs.lock(host)["holder"] != OPERATOR]
    (runs.place / "go").touch()
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert runs.records()[0]["verdict"] == "passed" and not runs.lock()


def test_a_run_whose_lock_was_taken_away_stops_before_it_goes_on(runs):
    process = runs.start("-e", "ticks=900")
    runs.until_it_waits(process)
    runs.hold(age=0, holder="bert@elsewhere")
    (runs.place / "go").touch()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "it belongs to bert@elsewhere" in said, said
    assert runs.records()[0]["verdict"] == "failed" and runs.records()[0]["failed_task"].startswith("Write a new heartbeat")
    assert runs.lock()["holder"] == "bert@elsewhere" and not runs.lock("two")


def test_hosts_that_are_down_are_left_out_and_named(runs):
    code, said = runs.run("-e", "pattern=region")
    assert code == 4, said
    [record] = runs.records()
    assert record["verdict"] == "passed" and record["facts"]["unreachable_hosts"] == ["dead"]


def test_without_any_host_that_answers_there_is_no_run(runs):
    code, said = runs.run("-e", "pattern=dead")
    assert code == 4 and not runs.records() and "Evidence:" not in said, said


@pytest.mark.parametrize(
    ("arguments", "options", "refusal"),
    [
        (["--limit", "one"], {}, "--limit, --tags and --skip-tags"),
        (["--tags", "other"], {}, "--limit, --tags and --skip-tags"),
        (["--skip-tags", "other"], {}, "--limit, --tags and --skip-tags"),
        ([], {"reason": "x=y"}, "Say in some words why"),
        ([], {"reason": "reason=try"}, "Say in some words why"),
        (["-e", "drill=true"], {}, "a drill breaks things on purpose"),
    ],
)
def test_refused_before_anything(runs, arguments, options, refusal):
    code, said = runs.run(*arguments, **options)
    assert code == 2 and refusal in said, said
    assert not runs.records() and not runs.lock()


@pytest.mark.parametrize("confirm", ["west", ""])
def test_a_wrong_or_no_name_stops_before_the_switch(runs, confirm):
    code, said = runs.run(confirm=confirm)
    assert code == 2 and "so nothing was changed" in said and "Switch" not in said, said
    [record] = runs.records()
    assert record["verdict"] == "failed" and [phase["number"] for phase in record["phases"]] == [1, 3]
    assert not runs.lock("one") and not runs.lock("two")


@pytest.mark.parametrize(("typed", "code"), [("east", 0), ("eats", 2)])
def test_the_operator_types_the_name(runs, typed, code):
    ended, said = runs.at_a_terminal(typed)
    assert ended == code and "nothing is lost" in said, said
    assert runs.records()[0]["verdict"] == ("passed" if code == 0 else "failed")


def test_a_drill_confirms_itself_and_must_reach_its_targets(runs):
    code, said = runs.run("-e", "drill=true", "-e", "drills=true", confirm="")
    assert code == 0, said
    assert runs.records()[0]["drill"] is True and runs.records()[0]["targets"] == {"rto_seconds": 900, "rpo_seconds": 300}
    code, said = runs.run("-e", "drill=true", "-e", "drills=true", "-e", "rto=901", confirm="")
    assert code == 2 and "missed its targets" in said, said
    assert runs.records()[1]["verdict"] == "failed" and not runs.lock()


def test_check_mode_writes_nothing(runs):
    code, said = runs.run("--check", confirm="")
    assert code == 0 and "no lock is taken and no evidence written" in said, said
    assert not (runs.place / "evidence").exists() and not runs.lock()
    runs.hold(age=0, holder="bert@elsewhere")
    code, said = runs.run("--check")
    assert code == 2 and "bert@elsewhere runs move" in said, said


def test_start_at_task_is_refused_and_nothing_goes_on_without_open(runs):
    code, said = runs.run("--start-at-task", "Wait for the switch")
    assert code == 1 and "Run it from the start" in said and "PLAY [" not in said, said
    (runs.place / "runbooks/move.yml").write_text(RUNBOOK.split("- name: 1 Open")[0] + RUNBOOK[RUNBOOK.index("- name: 3 Confirm") :])
    code, said = runs.run()
    assert code == 2 and "the run was never opened" in said and not (runs.place / "waiting").exists(), said


def test_other_playbooks_are_left_alone(runs):
    (runs.place / "playbooks").mkdir()
    (runs.place / "playbooks/open.yml").write_text(RUNBOOK)
    code, said = runs.run(runbook="../playbooks/open")
    assert code == 2 and "holdfast_evidence is not enabled" in said and not runs.records(), said

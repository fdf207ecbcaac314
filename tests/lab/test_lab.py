"""bin/lab's own logic: what it says when something is wrong, and how it reads a playbook's output. Touches no container."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bin"))

from lab_lib import cli, hosts, machine, paths, report, roundtrip, secrets_files, site  # noqa: E402


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A `.lab` of the test's own."""
    for name, value in {
        "STATE": tmp_path,
        "SECRETS": tmp_path / "secrets",
        "TOKENS": tmp_path / "tokens",
        "PKI": tmp_path / "pki",
        "LOGS": tmp_path / "log",
    }.items():
        monkeypatch.setattr(paths, name, value)
    return tmp_path


def test_unknown_command_names_the_cure(capsys):
    assert cli.main(["bring-up"], "usage") == 2
    assert "Cure:" in capsys.readouterr().out


def test_no_root_is_refused_before_anything(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main([], "usage") == 1
    assert capsys.readouterr().out == "Cause: bin/lab makes containers that act as hosts, and that needs root\nCure:  sudo bin/lab\n"


def test_no_room_is_refused_before_anything(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: machine.shutil._ntuple_diskusage(10**12, 10**12, 287 * 10**6))
    assert cli.main([], "usage") == 1
    out = capsys.readouterr().out
    assert "0.3 GB free" in out and "Cure:" in out


def test_failing_command_becomes_cause_cure_and_log(state, capsys):
    log = report.Report("try", 1, state / "log")
    with pytest.raises(report.Problem) as caught:
        with log.step("Install"):
            log.command(["sh", "-c", "echo E: Failed to fetch; exit 100"], cause="the mirror failed", cure="try again")
    log.fail(caught.value)
    out = capsys.readouterr().out
    assert "FAILED" in out and "E: Failed to fetch" in out and "Cause: the mirror failed\nCure:  try again" in out
    assert str(log.log_path) in out and "E: Failed to fetch" in log.log_path.read_text()


def test_engine_that_does_not_start_names_its_log(state, monkeypatch):
    monkeypatch.setattr(machine, "engine_answers", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/sbin/dockerd")
    monkeypatch.setattr(machine.Path, "is_dir", lambda _: False)
    monkeypatch.setattr(machine, "ENGINE_LOG", state / "dockerd.log")
    monkeypatch.setattr(machine, "ENGINE_PID", state / "dockerd.pid")
    monkeypatch.setattr(machine.time, "sleep", lambda _: None)
    monkeypatch.setattr(machine.subprocess, "Popen", lambda *_, **__: type("P", (), {"pid": 1})())
    with pytest.raises(report.Problem, match="does not answer") as caught:
        machine.engine(report.Report("try", 1, state / "log"))
    assert "dockerd.log" in caught.value.cure


def test_lab_of_another_checkout_is_left_alone(state, monkeypatch):
    monkeypatch.setattr(hosts, "owner", lambda: "/home/someone/holdfast")
    lab = hosts.Lab("172.30.77.0/24", "admin", [])
    for act in (lambda r: hosts.make(r, lab, "image"), lambda r: hosts.remove(r, any_owner=False)):
        with pytest.raises(report.Problem, match="/home/someone/holdfast"):
            act(report.Report("try", 1, state / "log"))


def test_no_environment_yet_is_a_cause_and_a_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "VENV", tmp_path)
    with pytest.raises(report.Problem, match="no Python environment") as caught:
        hosts.read_inventory()
    assert "bin/lab" in caught.value.cure


@pytest.mark.parametrize("command", ["--help", "nonsense"])
def test_a_reader_that_has_had_enough_is_no_error(command):
    gone, output = os.pipe()
    os.close(gone)
    done = subprocess.run([f"{ROOT}/bin/lab", command], stdout=output, stderr=subprocess.PIPE)
    os.close(output)
    assert (done.returncode, done.stderr) == (141, b"")


def test_secrets_are_made_once_strong_and_private(state):
    assert secrets_files.make() == "12 made"
    first = {place: place.read_text() for place in state.rglob("*") if place.is_file()}
    assert secrets_files.make() == "there"
    assert first == {place: place.read_text() for place in state.rglob("*") if place.is_file()}
    values = [(state / "secrets" / name).read_text() for name in secrets_files.PASSWORDS]
    assert len(set(values)) == len(values) and all(len(value) == 64 for value in values)
    assert all(place.stat().st_mode & 0o077 == 0 for place in first)
    assert not any(
        token in first[state / "secrets/api_tokens.json"] for token in [(state / "tokens" / r).read_text() for r in secrets_files.ROLES]
    )


def test_address_prefix_is_chosen_once(state, monkeypatch):
    monkeypatch.setenv("HOLDFAST_LAB_PREFIX", "172.30.99")
    assert hosts.address_prefix() == "172.30.99"
    monkeypatch.delenv("HOLDFAST_LAB_PREFIX")
    assert hosts.address_prefix() == "172.30.99"


def test_address_prefix_that_is_taken_gives_way_to_another(state, monkeypatch):
    monkeypatch.setattr(hosts, "docker", lambda *_: subprocess.CompletedProcess([], 1, "", ""))
    monkeypatch.setattr(report.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "Pool overlaps"))
    monkeypatch.delenv("HOLDFAST_LAB_PREFIX", raising=False)
    lab = hosts.Lab(f"{hosts.address_prefix()}.0/24", "admin", [])
    with pytest.raises(report.Problem, match="taken"):
        hosts._make_network(report.Report("try", 1, state / "log"), lab)
    monkeypatch.setenv("HOLDFAST_LAB_PREFIX", "172.30.99")
    assert hosts.address_prefix() == "172.30.99"


PLAYBOOK_OUTPUT = """
PLAY [Every host answers] ******
TASK [Read the host's facts] *****
fatal: [lab-b1]: UNREACHABLE! => {"changed": false, "msg": "no route"}
PLAY RECAP *****
lab-a1                     : ok=61   changed=21   unreachable=0    failed=0    skipped=1
lab-b1                     : ok=0    changed=0    unreachable=1    failed=0    skipped=0
"""


def test_watcher_reads_plays_changes_and_failed_hosts(state, capsys):
    log = report.Report("try", 1, state / "log")
    with log.step("Run") as step:
        watcher = site.Watcher(step)
        for line in io.StringIO(PLAYBOOK_OUTPUT):
            watcher.line(line.rstrip("\n"))
    assert watcher.failed == ["lab-b1"] and watcher.changed == {"lab-a1": 21, "lab-b1": 0}
    assert len(watcher.errors) == 1 and "lab-b1" in watcher.errors[0] and "Read the host's facts" in watcher.errors[0]
    assert "Every host answers" in capsys.readouterr().out


def test_the_end_of_a_failed_tasks_output_is_shown():
    """A build's log begins with what went well; the reason stands at its end."""
    result = '{"changed": false, "msg": "Building failed", "stderr": "#1 fine\\n' + "#2 fine\\n" * 50 + 'E: Hash Sum mismatch"}'
    shown = site.said(f"[lab-ops1]: FAILED! => {result}")
    assert shown.startswith("[lab-ops1]: FAILED! Building failed\n") and shown.endswith("E: Hash Sum mismatch")
    assert "#1 fine" not in shown
    assert site.said("[lab-a1]: FAILED! => {not json") == "[lab-a1]: FAILED! => {not json"


def test_round_trip_that_fails_is_a_problem_and_not_a_success(state, monkeypatch):
    monkeypatch.setattr(roundtrip, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(roundtrip, "ask", lambda *_, **__: (503, {"error": {"code": "no_quorum"}}))
    lab = hosts.Lab("", "admin", [hosts.Host("lab-a1", "127.0.0.1", "a", "east", True)])
    with pytest.raises(report.Problem, match="no_quorum"):
        roundtrip.run(lab)


def test_round_trip_wants_the_value_it_wrote(state, monkeypatch):
    monkeypatch.setattr(roundtrip, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(roundtrip, "ask", lambda *_, **__: (200, {"value": "an older one"}))
    lab = hosts.Lab("", "admin", [hosts.Host("lab-a1", "127.0.0.1", "a", "east", True)])
    with pytest.raises(report.Problem, match="an older one"):
        roundtrip.run(lab)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-i", "inventories/nowhere"], "inventories/nowhere"),
        (["-i", "inventories/lab", "--limit", "lab-z9"], "lab-z9"),
    ],
)
def test_unknown_inventory_or_host_stops_the_playbook(arguments, said):
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "playbooks/site.yml", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and said in done.stdout + done.stderr


def test_never_two_zones_of_one_region_at_a_time():
    def lab(*regions: str) -> hosts.Lab:
        return hosts.Lab("", "", [hosts.Host(str(n), "", "", region, bool(region)) for n, region in enumerate(regions)])

    assert site.batches(lab("east", "east", "east", "west", "")) == [1, 1, 2]
    assert site.batches(lab("east", "west", "east", "west")) == [2, 2]
    assert site.batches(lab("east", "east", "", "west", "west")) == [1, 2, 1]

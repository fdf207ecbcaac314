"""The programs that role backup puts on hosts: when a backup counts, which one a drill takes, and what is told to the metrics.

restic and docker are played by a script that writes down how it was called and does what the test says.
"""

import importlib.machinery
import importlib.util
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILES = Path(__file__).parents[2] / "roles/backup/files"
COLLECTED = '{"event": "BACKUP_COLLECTED", "moment": "2026-05-01T10:14:59Z", "line": "1"}'
PLAYER = """#!/usr/bin/python3
import json, pathlib, sys
place = pathlib.Path(__file__).parent
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with (place / "calls").open("a") as out:
    out.write(json.dumps([name, *words]) + "\\n")
for word, code, text in json.loads((place / "answers").read_text()):
    if word in words:
        print(text)
        sys.exit(code)
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_loader(name, importlib.machinery.SourceFileLoader(name, str(FILES / name)))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Machine:
    """A host with a settings file, and restic and docker that do as they are told: `answers` are (word of the call, exit code, output)."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.programs = place, place / "bin"
        self.programs.mkdir()
        for name in ("restic", "docker"):
            (self.programs / name).write_text(PLAYER)
            (self.programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.programs}:{os.environ['PATH']}")
        (place / "store/db_g1/sets").mkdir(parents=True)
        self.answer(("collect", 0, COLLECTED))

    def answer(self, *answers: tuple[str, int, str]) -> None:
        (self.programs / "answers").write_text(json.dumps(answers))
        (self.programs / "calls").write_text("")

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.programs / "calls").read_text().splitlines()]

    def did(self) -> list[str]:
        """The verbs, in order."""
        verbs = {"collect", "prune", "backup", "unlock", "forget", "snapshots", "check", "restore"}
        return [next(w for w in call if w in verbs - ({"backup"} if call[0] == "docker" else set())) for call in self.calls]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def host(machine, tmp_path, monkeypatch):
    """The program of a host with nodes."""
    module = load("holdfast-backup")
    settings = {"host": "a1", "data": f"{tmp_path}/data", "store": f"{tmp_path}/store", "census_hours": 20, "local_hours": 72}
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"metrics_directory": str(tmp_path)}))
    monkeypatch.setattr(module, "SETTINGS", tmp_path / "settings.json")
    monkeypatch.setattr(module, "STATE", tmp_path / "state")
    return module


def values(place: Path) -> dict[str, float]:
    lines = [line for line in place.read_text().splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def number(machine: Machine, name: str) -> float | None:
    return values(machine.place / "holdfast_backup_db_g1.prom").get(f'holdfast_backup_{name}{{node="db_g1"}}')


def test_the_first_backup_takes_a_census_copies_and_only_then_prunes(host, machine):
    assert host.main("db_g1") == 0
    assert machine.did() == ["collect", "backup", "prune"]
    collect, copy, prune = machine.calls
    assert collect[-1] == "--census" and copy[-2:] == [f"{machine.place}/store/db_g1/{part}" for part in ("sets", "files")]
    assert "--ignore-ctime" in copy and prune[-2:] == ["--keep-hours", "72"]
    assert abs((number(machine, "last_success_timestamp_seconds") or 0) - time.time()) < 60
    assert number(machine, "last_moment_timestamp_seconds") == datetime(2026, 5, 1, 10, 14, 59, tzinfo=UTC).timestamp()
    assert number(machine, "last_run_success") == 1


def test_the_next_one_takes_none_until_it_is_due(host, machine):
    assert host.main("db_g1") == 0
    machine.answer(("collect", 0, COLLECTED))
    assert host.main("db_g1") == 0
    assert machine.did() == ["collect", "backup"] and "--census" not in machine.calls[0]


def test_a_node_that_was_restored_or_copied_anew_gets_its_census_at_once(host, machine):
    """Or no drill could prove its newest backup before the next day's. Also when the first try does not get through."""
    assert host.main("db_g1") == 0
    anew = COLLECTED.replace('"1"', '"2"')
    machine.answer(("--census", 3, '{"why": "db_g1 does not answer"}'), ("collect", 0, anew))
    assert host.main("db_g1") == 1
    assert machine.did() == ["collect", "collect", "backup"]
    machine.answer(("collect", 0, anew))
    assert host.main("db_g1") == 0
    assert machine.did() == ["collect", "collect", "backup", "prune"]
    assert [call[-1] == "--census" for call in machine.calls[:2]] == [False, True]
    machine.answer(("collect", 0, anew))
    assert host.main("db_g1") == 0
    assert machine.did() == ["collect", "backup"]


@pytest.mark.parametrize(("hours_ago", "due"), [(0, False), (19.9, False), (20, True), (-1, True), (400_000, True)])
def test_when_a_census_is_due(host, hours_ago, due):
    now = 1_780_000_000.0
    assert host.census_is_due({"census": now - hours_ago * 3600}, now, 20) is due


def test_a_node_that_does_not_answer_is_no_success_and_what_was_collected_is_copied(host, machine, capsys):
    assert host.main("db_g1") == 0
    before = number(machine, "last_success_timestamp_seconds")
    machine.answer(("collect", 3, '{"event": "BACKUP_REFUSED", "why": "db_g1 does not answer"}'))
    assert host.main("db_g1") == 1
    assert machine.did() == ["collect", "backup"]
    assert number(machine, "last_run_success") == 0 and number(machine, "last_success_timestamp_seconds") == before
    assert "db_g1 does not answer" in capsys.readouterr().out.splitlines()[-1]


def test_a_copy_that_failed_is_no_success_and_nothing_is_pruned(host, machine):
    machine.answer(("collect", 0, COLLECTED), ("--ignore-ctime", 1, "Fatal: no such host"))
    assert host.main("db_g1") == 1
    assert machine.did() == ["collect", "backup"]
    assert number(machine, "last_success_timestamp_seconds") is None and number(machine, "last_census_timestamp_seconds") is None


def test_a_copy_that_could_not_read_a_file_is_no_success(host, machine):
    machine.answer(("collect", 0, COLLECTED), ("--ignore-ctime", 3, "at least one source file could not be read"))
    assert host.main("db_g1") == 1


# The operations host.


@pytest.fixture
def keep(machine, tmp_path, monkeypatch):
    module = load("holdfast-backup-keep")
    (tmp_path / "repositories/a1").mkdir(parents=True)
    (tmp_path / "repositories/a1/config").touch()
    (tmp_path / "password").write_text("not shown anywhere")
    settings = {"directory": f"{tmp_path}/repositories", "hosts": ["a1"], "keep_days": 35, "check_parts": 7, "drill_max_age_minutes": 30}
    settings |= {"repository": ""}  # it is on this host
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"image": "restore:1", "metrics_directory": str(tmp_path)}))
    for name in ("settings.json", "password", "state"):
        monkeypatch.setattr(module, name.split(".")[0].upper(), tmp_path / name)
    monkeypatch.setattr(module, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(module, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(module, "OWNER", None)
    return module


def snapshot(minutes_ago: float, now: float) -> dict[str, Any]:
    stamp = datetime.fromtimestamp(now - minutes_ago * 60, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
    name = f"{minutes_ago:.0f}"
    return {"time": stamp, "id": name, "short_id": name, "tags": ["db_g1"], "paths": ["/s/db_g1/files", "/s/db_g1/sets"]}


def test_which_copy_a_drill_takes(keep):
    now = 1_780_000_000.0
    copies = [snapshot(minutes, now) for minutes in (60, 50, 40, 5)]

    def taken(minutes_ago: float) -> str:
        moment = datetime.fromtimestamp(now - minutes_ago * 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return str(keep.choose(copies, moment, now, 30)["id"])

    assert keep.choose(copies, "newest", now, 30)["id"] == "5"
    # What the first copy after the moment holds was collected before it began, perhaps before the moment.
    assert [taken(55), taken(45), taken(10)] == ["40", "5", "5"]
    with pytest.raises(keep.Failed, match="after the newest backup"):
        taken(4)


@pytest.mark.parametrize("minutes", [31, 24 * 60])
def test_an_old_newest_backup_fails_the_drill(keep, minutes):
    now = 1_780_000_000.0
    with pytest.raises(keep.Failed, match=f"{minutes} minutes old, more than 30"):
        keep.choose([snapshot(minutes, now)], "newest", now, 30)
    assert keep.choose([snapshot(29, now)], "newest", now, 30)


def test_without_a_backup_the_drill_fails(keep, machine, capsys):
    machine.answer(("snapshots", 0, "[]"))
    assert keep.main(["drill", "a1", "db_g1", "newest"]) == 1
    assert "there is no backup" in capsys.readouterr().out
    assert keep.main(["drill", "b1", "db_g1", "newest"]) == 1
    assert "b1 has no repository" in capsys.readouterr().out


def test_a_repository_that_does_not_answer_is_named(keep, machine, monkeypatch, capsys):
    (machine.programs / "restic").write_text("#!/bin/sh\necho 'dial tcp: no route to host' >&2\nexec sleep 60\n")
    monkeypatch.setattr(keep, "ANSWER_SEC", 1)
    assert keep.main(["list"]) == 0
    assert "restic had no answer within 1 s: dial tcp: no route to host" in capsys.readouterr().out


def drill(keep: ModuleType, machine: Machine, code: int) -> int:
    restored = json.dumps({"event": "BACKUP_RESTORED", "moment": "2026-05-01T10:14:59Z", "bytes": 5, "seconds": 0.1})
    verified = json.dumps({"event": "BACKUP_VERIFIED", "keys": 3, "same": 3, "younger": 0, "census": "c", "load_sec": [0.1] * 3})
    answers = [("snapshots", 0, json.dumps([snapshot(1, time.time())])), ("--target", 0, ""), ("--into", 0, restored)]
    machine.answer(*answers, ("verify", code, verified if not code else '{"event": "BACKUP_DIFFERS", "wrong_count": 1}'))
    return int(keep.main(["drill", "a1", "db_g1", "newest"]))


def test_a_drill_restores_without_a_network_and_leaves_nothing(keep, machine, monkeypatch):
    ran = keep.run
    monkeypatch.setattr(keep, "run", lambda command, *more, **options: "" if command[0] == "chown" else ran(command, *more, **options))
    assert drill(keep, machine, 0) == 0
    started = [call for call in machine.calls if call[:2] == ["docker", "run"]]
    assert len(started) == 2 and all(call[call.index("--network") + 1] == "none" for call in started)
    assert not (machine.place / "scratch").exists()
    assert not any("not shown anywhere" in word for call in machine.calls for word in call)
    told = values(machine.place / "holdfast_backup_server.prom")
    verified = 'holdfast_backup_verified_restore_last_success_timestamp_seconds{host="a1",node="db_g1"}'
    success = 'holdfast_backup_verified_restore_last_run_success{host="a1",node="db_g1"}'
    assert told[success] == 1 and abs(told[verified] - time.time()) < 60
    assert drill(keep, machine, 6) == 1, "one key differs"
    again = values(machine.place / "holdfast_backup_server.prom")
    assert again[success] == 0 and again[verified] == told[verified]


def test_old_copies_go_by_age_and_a_damaged_repository_counts_as_not_checked(keep, machine, capsys):
    machine.answer(("snapshots", 0, json.dumps([snapshot(1, time.time())])))
    assert keep.main(["retain"]) == 0
    assert [verb for verb in machine.did() if verb != "snapshots"] == ["unlock", "forget", "check"]
    forget = next(call for call in machine.calls if "forget" in call)
    assert {word for word in forget if word.startswith("--keep")} == {"--keep-within", "--keep-within-daily"} and "35d" in forget
    checked = 'holdfast_backup_check_last_success_timestamp_seconds{host="a1"}'
    before = values(machine.place / "holdfast_backup_server.prom")[checked]
    machine.answer(("snapshots", 0, json.dumps([snapshot(1, time.time())])), ("check", 1, "Fatal: repository contains errors"))
    assert keep.main(["retain"]) == 1
    assert values(machine.place / "holdfast_backup_server.prom")[checked] == before
    assert "repository contains errors" in capsys.readouterr().out


def test_each_part_has_its_day(keep):
    assert {keep.part(1_780_000_000.0 + day * 86400, 7) for day in range(7)} == {f"{number}/7" for number in range(1, 8)}


@pytest.mark.parametrize(
    ("given", "usable"),
    [
        (["retain"], True),
        (["list"], True),
        (["drill", "all", "all", "newest"], True),
        (["drill", "a1.east.example.net", "db_g1", "2026-05-01T10:14:59Z"], True),
        (["drill", "../a1", "db_g1", "newest"], False),
        (["drill", "a1", "--all", "newest"], False),
        (["drill", "a1", "db_g1", "yesterday"], False),
        (["drill", "a1", "db_g1", "2026-05-01 10:14:59"], False),
        (["drill", "a1"], False),
        (["prune"], False),
        ([], False),
    ],
)
def test_what_it_can_be_asked(keep, given, usable):
    assert keep.usable(given) is usable

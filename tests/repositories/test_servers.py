"""Backups on real servers of files: made, pruned, checked and restored by the role's own files and programs; strangers are refused."""

import json
import os
from pathlib import Path

import pytest
from far import ROOT, Host, load
from servers import KINDS, served

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="servers run as users of their own, and files are root's, which needs root")


@pytest.fixture(scope="module", params=KINDS)
def server(request):
    with served(request.param) as started:
        yield started


@pytest.fixture(scope="module")
def host(server, tmp_path_factory):
    """With a repository, and a backup of db_g1 in it."""
    made = ready(server, tmp_path_factory.mktemp("hosts") / "a1")
    code, said = made.play("access", "repository")
    assert code == 0 and (server.repositories / "a1/config").exists() and made.snapshots() == [], said
    with pytest.MonkeyPatch.context() as patch:
        assert made.backup(patch) == 0
    assert len(made.snapshots()) == 1
    return made


def ready(server, place: Path) -> Host:
    """A host with a key of its own, which the server lets in."""
    place.mkdir()
    made = Host(place, server.url, server.let_in(place), server.ca)
    (place / "store/db_g1/sets/1.json").write_text('{"a": "set"}\n')
    (place / "store/db_g1/files/base").write_bytes(os.urandom(100_000))
    return made


def tree(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_a_backup_goes_to_the_server_and_comes_back(host, server, tmp_path):
    assert host.restic("restore", "latest", "--tag", "db_g1", "--target", str(tmp_path / "back")).returncode == 0
    store = host.place / "store/db_g1"
    assert tree(Path(f"{tmp_path}/back{store}")) == tree(store) != {}
    assert not any(b'"a": "set"' in held for held in tree(server.repositories).values()), "it is encrypted"
    for arguments in ({}, {"check": True}):
        code, said = host.play("access", "repository", **arguments)
        assert code == 0 and "changed=0" in said, said


def gets_nowhere(host, server, why: str, monkeypatch, capsys) -> None:
    code, said = host.play("repository", __backup_open_seconds=60 if server.at_once else 10)
    assert code != 0 and why in said, said
    if server.at_once:
        assert host.backup(monkeypatch) == 1
        assert why in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.long
def test_a_server_with_another_identity_is_not_talked_to(host, server, monkeypatch, capsys):
    """Another host key, or another certificate. The controls: the same before and after."""
    before = tree(server.repositories)
    with server.another():
        gets_nowhere(host, server, server.stranger, monkeypatch, capsys)
        assert tree(server.repositories) == before
    assert host.backup(monkeypatch) == 0


@pytest.mark.long
def test_who_is_not_known_to_the_server_gets_nowhere(host, server, monkeypatch, capsys):
    with server.forgetful():
        gets_nowhere(host, server, server.refused, monkeypatch, capsys)
    assert host.backup(monkeypatch) == 0


@pytest.fixture(scope="module")
def keeper(host, server, tmp_path_factory):
    """The operations host, with a key of its own."""
    made = ready(server, tmp_path_factory.mktemp("operations") / "ops1")
    code, said = made.play("access", __backup_access_more=[])
    assert code == 0 and not (made.access / "password").exists(), said
    return made


@pytest.fixture
def program(keeper, server, monkeypatch):
    settings = {"repository": server.url, "directory": "/nowhere", "hosts": ["a1", "b1"], "keep_days": 35, "check_parts": 1}
    return keeper.program("holdfast-backup-keep", monkeypatch, **settings, image="restore:1", drill_max_age_minutes=30)


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.mark.long
def test_the_operations_host_prunes_and_checks_what_the_hosts_have_copied(host, program, server, capsys):
    """A host that never had a repository is no trouble in a list, and is one for retention."""
    paths = [str(host.place / "store/db_g1" / part) for part in ("sets", "files")]
    old = host.restic("backup", "--time", "2026-01-01 00:00:00", "--host", "a1", "--tag", "db_g1", *paths)
    assert old.returncode == 0, old.stderr
    before = host.snapshots()
    capsys.readouterr()
    assert program.main(["list"]) == 0
    assert [(line["event"], line["host"], line["node"]) for line in lines(capsys)] == [("BACKUP_NEWEST", "a1", "db_g1")]
    assert program.main(["retain"]) == 1
    kept, trouble = lines(capsys)
    assert kept["event"] == "REPOSITORY_KEPT" and kept["host"] == "a1"
    assert trouble["host"] == "b1" and "b1 has no repository, which would be s" in trouble["why"]
    assert len(host.snapshots()) == len(before) - 1, "the old one is gone, the young ones are there"
    [pack, *_] = [path for path in (server.repositories / "a1/data").rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    whole = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(whole[:50_000] + bytes([whole[50_000] ^ 1]) + whole[50_001:])
    assert program.main(["retain"]) == 1
    assert any(line["host"] == "a1" and line["event"] == "REPOSITORY_TROUBLE" for line in lines(capsys)), "the control: a flipped bit"
    pack.write_bytes(whole)


@pytest.mark.long
def test_a_drill_takes_its_backup_from_the_server(host, keeper, program, server, capsys, monkeypatch):
    capsys.readouterr()
    assert program.main(["drill", "a1", "db_g1", "newest"]) == 0
    assert tree(keeper.place / "bin/docker.drilled") == tree(host.place / "store/db_g1")
    assert not (keeper.place / "scratch").exists()
    server.stop()
    monkeypatch.setattr(program, "ANSWER_SEC", 5)  # an S3 server is asked again until then, an SSH server once
    assert program.main(["drill", "a1", "db_g1", "newest"]) == 1
    assert "connection refused" in lines(capsys)[-1]["why"].lower()
    assert program.main(["list"]) == 0
    assert {line["event"] for line in lines(capsys)} == {"REPOSITORY_TROUBLE"}, "no answer is not the same as no backup"
    server.start()


def test_the_programs_start_restic_by_the_one_program_beside_them():
    for name, constant in (("holdfast-backup", "RESTIC"), ("holdfast-backup-keep", "ELSEWHERE")):
        held = getattr(load(name), constant)
        assert (held if isinstance(held, str) else held[0]) == str(ROOT / "roles/backup/files/holdfast-restic")

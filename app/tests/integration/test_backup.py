"""Backups of running nodes, and restores to a moment, with real Redis. The cluster is shared, each test has a store."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from unittest import mock

import pytest
from backups import Backups, Load, keys_of, next_second, rewrite, write
from cluster import wait_for
from test_repair import repair

from holdfast.backup.scratch_node import ScratchNode


def test_every_second_under_load_while_rewrites_loop(backups: Backups, tmp_path: Path) -> None:
    with backups.watched():
        first = backups.collect("--census")
        with Load(backups, 0) as load:
            started = next_second()
            for number in range(2):
                time.sleep(1.2)
                acked = {k for k, _, _ in load.written}
                done = backups.collect()
                assert done.code == 0
                assert backups.keys_at("newest", tmp_path / f"n{number}") >= acked
                assert not done.has("BACKUP_DOUBT")
                assert not done.has("BACKUP_LINE_BEGAN")
            time.sleep(0.7)
            wait_for("enough of both", lambda: load.rewrites > 3 and len(load.written) > 500)
        assert backups.collect().code == 0
    assert first.code == 0
    for number in range(1, 4):
        to = started + number
        found = backups.keys_at(to, tmp_path / f"r{number}")
        assert {k for k, _, acked in load.written if acked < to} <= found
        assert not found & {k for k, begun, _ in load.written if begun >= to}
    assert backups.keys_at("newest", tmp_path / "newest") >= {k for k, _, _ in load.written}
    assert backups.run("check", "--store", backups.store).code == 0


def test_a_second_between_two_writes_has_the_first_and_not_the_second(backups: Backups, tmp_path: Path) -> None:
    app = backups.cluster.run("serve")
    with backups.watched():
        backups.collect()
        next_second()
        assert app.write("first", "1").status == 200
        to = next_second()
        assert app.write("second", "2").status == 200
        next_second()
        backups.collect()
    assert backups.keys_at(to, tmp_path / "between") == {"cp:first"}
    assert backups.keys_at(to + 1, tmp_path / "after") == {"cp:first", "cp:second"}
    app.stop()


def test_rewrites_between_two_backups_lose_no_history(backups: Backups, tmp_path: Path) -> None:
    client, keys, seconds = backups.node.client(), [], []
    with backups.watched():
        backups.collect()
        for number in range(3):
            seconds.append(next_second())
            keys.append(write(client, number))
            rewrite(client)
        seconds.append(next_second())
        backups.collect()
    for number, to in enumerate(seconds):
        assert backups.keys_at(to, tmp_path / str(number)) == set(keys[:number])


def test_without_a_watch_lost_history_is_known_and_refused(backups: Backups, tmp_path: Path) -> None:
    """The control of the test before: nobody held the files, so the moments between are not there, and it says so."""
    client = backups.node.client()
    before = backups.collect()
    assert before.has("BACKUP_NOT_WATCHED")
    next_second()
    write(client, 0)
    rewrite(client)
    to = next_second()
    write(client, 1)
    rewrite(client)
    rewrite(client)
    next_second()
    assert backups.collect().has("BACKUP_LINE_BEGAN")
    next_second()
    backups.collect()
    assert backups.restore(to, tmp_path / "r").refused("not in the backups")
    assert backups.keys_at("newest", tmp_path / "newest") == {"cp:key0", "cp:key1"}


def test_a_restored_node_does_not_vote_before_repair(backups: Backups, tmp_path: Path) -> None:
    """After the volume is gone: restored, started twice, seen as recovering, healed."""
    cluster, node = backups.cluster, backups.node
    app = cluster.run("serve")
    with backups.watched():
        assert app.write("kept", "1").status == 200
        backups.collect()
        assert app.write("later", "2").status == 200
        node.kill()
        node.wipe()
        assert backups.restore("newest", backups.data).code == 0
        for _ in range(2):
            node.kill()
            node.start()
            assert cluster.bootstrap()[1]["nodes"]["db_g1"]["state"] == "recovering"
        assert node.client().exists("cp:kept")
        assert not node.client().exists("cp:later")
        assert repair(cluster, "db_g1")[0] == 0
        assert node.client().exists("cp:later")
        assert cluster.bootstrap()[1]["nodes"]["db_g1"]["state"] == "member"
        assert backups.collect().has("BACKUP_LINE_BEGAN")  # the restored directory is a history of its own
        rewrite(node.client())
        next_second()
        rewrite(node.client())
        assert not backups.collect().has("BACKUP_LINE_BEGAN")  # and the watch has found it
    app.stop()


def test_data_that_comes_back_does_not_vote_before_repair(backups: Backups, tmp_path: Path) -> None:
    """Put aside, and back after others were written: marked, it is recovering. The control is the same without."""
    cluster, node, aside = backups.cluster, backups.node, tmp_path / "aside"
    app = cluster.run("serve")
    assert app.write("kept", "1").status == 200
    for marked in (False, True):
        node.kill()
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(backups.data, aside)
        node.start()
        assert app.write("later", f"{marked}").status == 200
        node.kill()
        if marked:
            assert backups.run("mark", "--directory", aside).code == 0
        shutil.rmtree(backups.data)
        shutil.copytree(aside, backups.data)
        node.start()
        said = cluster.bootstrap()[1]["nodes"]["db_g1"]["state"]
        assert said == ("recovering" if marked else "member")
    assert node.client().exists("cp:kept")
    assert repair(cluster, "db_g1")[0] == 0
    assert cluster.bootstrap()[1]["nodes"]["db_g1"]["state"] == "member"
    assert app.read("later").json["value"] == "True"
    assert node.client().hget("cp:later", "v") == b"True"
    app.stop()


def test_what_cannot_be_marked_is_refused(backups: Backups, tmp_path: Path) -> None:
    """A command more behind half a command would make Redis refuse the file, or worse, read it as its argument."""
    assert backups.run("mark", "--directory", tmp_path).refused("No such file")
    backups.node.kill()
    try:
        shutil.copytree(backups.data, tmp_path / "torn")
        path = max((tmp_path / "torn/appendonlydir").glob("*.incr.aof"))
        path.write_bytes(path.read_bytes() + b"*3\r\n$3\r\nSET\r\n$1\r\na")
        before = path.read_bytes()
        assert backups.run("mark", "--directory", tmp_path / "torn").refused("ends in the middle of a command", 5)
        assert path.read_bytes() == before
        (path.parent / "appendonly.aof.manifest").write_text("")
        assert backups.run("mark", "--directory", tmp_path / "torn").refused("lists no incremental file")
    finally:
        backups.node.start()


def test_verify_compares_every_key_and_notices_one(backups: Backups, tmp_path: Path) -> None:
    client, into = backups.node.client(), tmp_path / "r"
    for number in range(40):
        write(client, number)
    client.set("holdfast:session:x", "1", px=1500)  # goes by itself, perhaps between two starts
    assert backups.collect("--census").code == 0
    write(client, 1_000_000)
    client.hset("cp:key5", mapping={"t": "00000001.ffffffffffffffff." + "0" * 28, "v": "younger"})
    assert backups.collect().code == 0
    assert backups.restore("newest", into).code == 0
    good = backups.verify("newest", into)
    assert good.code == 0
    said = good.event("BACKUP_VERIFIED")
    assert (said["keys"], said["same"], said["younger"], len(said["load_sec"])) == (40, 39, 1, 3)
    older = "00000001.0000000000000001." + "0" * 28
    for number, damage in enumerate(
        [
            ("HSET", "cp:key7", "v", "another"),
            ("HSET", "cp:key7", "t", older),
            ("DEL", "cp:key7"),
            ("HSET", "holdfast:guard", "state", "member"),
        ]
    ):
        copy = tmp_path / f"broken{number}"
        shutil.copytree(into, copy)
        with ScratchNode(copy) as scratch:
            scratch.ask((damage,))
        bad = backups.verify("newest", copy)
        assert bad.code == 6
        assert bad.event("BACKUP_DIFFERS")["wrong_count"] == 1


def test_truncation_and_a_flipped_bit_are_noticed(backups: Backups, tmp_path: Path) -> None:
    client = backups.node.client()
    write(client, 0)
    rewrite(client)
    write(client, 1, b"v" * 5000)
    backups.collect("--census")
    files = [p for p in (backups.store / "files").rglob("*") if p.is_file()] + list((backups.store / "sets").iterdir())
    assert len(files) == 4  # base, piece, census, set
    for number, path in enumerate(files):
        whole = path.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
        for kind, content in (("flipped", flipped), ("cut", whole[:-1]), ("longer", whole + b"x")):
            path.unlink()  # a base is a link to the node's own file
            path.write_bytes(content)
            into = tmp_path / f"{number}{kind}"
            assert backups.run("check", "--store", backups.store).code == 5, (path, kind)
            if "census" not in str(path):
                assert backups.restore("newest", into).code == 5, (path, kind)
                assert not into.exists()
            path.write_bytes(whole)
    assert backups.keys_at("newest", tmp_path / "whole") == {"cp:key0", "cp:key1"}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]  # nothing half made is left


def test_a_damaged_base_costs_time_and_no_history(backups: Backups, tmp_path: Path) -> None:
    client = backups.node.client()
    with backups.watched():
        backups.collect()
        write(client, 0)
        next_second()
        rewrite(client)
        write(client, 1)
        next_second()
        backups.collect()
    newest = max((backups.store / "files").rglob("*.base.rdb"), key=lambda p: int(p.name.split(".")[2]))
    whole = newest.read_bytes()
    newest.unlink()
    newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = backups.restore("newest", tmp_path / "r")
    assert done.code == 0
    assert done.has("BACKUP_DAMAGED")
    assert keys_of(tmp_path / "r") == {"cp:key0", "cp:key1"}


def test_an_incremental_file_that_was_cut_begins_a_new_line(backups: Backups, tmp_path: Path) -> None:
    """As Redis does after a write that failed: the end goes, and other commands take its place."""
    node = backups.node
    write(node.client(), 0)
    last = max(backups.data.glob("appendonlydir/*.incr.aof"), key=lambda p: int(p.name.split(".")[2]))
    size = last.stat().st_size
    write(node.client(), 1, b"ghost" * 50)
    backups.collect()
    node.kill()
    with last.open("r+b") as file:
        file.truncate(size)
    node.start()
    write(node.client(), 2, b"other" * 80)
    assert last.stat().st_size > size
    assert backups.collect().has("BACKUP_LINE_BEGAN")
    assert backups.keys_at("newest", tmp_path / "r") == {"cp:key0", "cp:key2"}


def test_a_backup_that_was_killed_is_made_up_by_the_next(backups: Backups, tmp_path: Path) -> None:
    client = backups.node.client()
    backups.collect()
    write(client, 0)
    with (
        mock.patch("holdfast.backup.backup_sets.write", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        backups.collect()
    write(client, 1)
    assert not backups.collect().has("BACKUP_LINE_BEGAN")
    assert backups.run("check", "--store", backups.store).code == 0
    assert backups.keys_at("newest", tmp_path / "r") == {"cp:key0", "cp:key1"}


def test_without_timestamps_moments_are_in_doubt(backups: Backups, tmp_path: Path) -> None:
    client = backups.node.client()
    with backups.watched():
        write(client, 0)
        next_second()
        backups.collect()
        next_second()
        client.config_set("aof-timestamp-enabled", "no")
        try:
            write(client, 1)
            to = next_second()
            write(client, 2)
            next_second()
            assert backups.collect().has("BACKUP_DOUBT")
        finally:
            client.config_set("aof-timestamp-enabled", "yes")
        assert backups.restore(to, tmp_path / "r").refused("cannot be told apart")
        next_second()
        write(client, 3)
        later = next_second()
        write(client, 4)
        next_second()
        assert not backups.collect().has("BACKUP_DOUBT")
    assert backups.keys_at(later, tmp_path / "later") == {f"cp:key{n}" for n in range(4)}


def test_memory_does_not_grow_with_the_data(backups: Backups, tmp_path: Path) -> None:
    client = backups.node.client()
    small = backups.launch(*backups.collecting).event("MEMORY")["kib"]
    value = bytes(1024 * 1024)
    for number in range(64):
        write(client, number, value)
    into = ("--store", backups.store, "--to", "newest", "--into", tmp_path / "r")
    large = [backups.launch(*backups.collecting, "--census"), backups.launch("restore", *into)]
    rewrite(client)
    large += [backups.launch(*backups.collecting), backups.launch("verify", *into[:4], "--directory", tmp_path / "r")]
    assert sum(e.get("bytes", 0) for e in large[0].events) > 64_000_000
    for done in large:
        assert done.code == 0
        assert done.event("MEMORY")["kib"] < small + 24 * 1024, done.events


def test_pruning_leaves_what_the_last_hours_need(backups: Backups, tmp_path: Path) -> None:
    client = backups.node.client()
    with backups.watched():
        for number in range(3):
            write(client, number)
            backups.collect("--census")
            rewrite(client)
            to = next_second()
        write(client, 9)
        next_second()
        backups.collect()
        prune = ("prune", "--store", backups.store, "--keep-hours")
        hours = (time.time() - to) / 3600
        pruned = backups.run(*prune, hours).event("BACKUP_PRUNED")
        assert pruned["sets"] >= 1
        assert pruned["files"] >= 2
        assert backups.run("check", "--store", backups.store).code == 0
        assert backups.keys_at(to, tmp_path / "r") == {"cp:key0", "cp:key1", "cp:key2"}
        write(client, 10)
        assert backups.collect().code == 0
    assert "cp:key10" in backups.keys_at("newest", tmp_path / "n")

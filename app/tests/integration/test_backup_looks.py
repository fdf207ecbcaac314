"""What a restore would change, and single keys of the past: `holdfast backup compare, extract, beside`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from backups import moment as shown
from cluster import TOKENS, App, wait_for
from regions import NAMES
from restored import Restorable
from test_region_restored import everywhere, first_and_second, start

from holdfast.backup.backup_compare import Compared, compare


def aside(east: Restorable, moment: float, names: tuple[str, ...] = NAMES) -> dict[str, Path]:
    """Restored directories; no node is touched."""
    made = {n: east.root / f"{n}.{moment}" for n in names}
    for name, into in made.items():
        done = east.stores[name].restore(moment, into)
        assert done.code == 0, done.events
    return made


def extracts(east: Restorable, made: dict[str, Path], *wanted: str) -> list[Path]:
    files = []
    for name, directory in made.items():
        done = east.stores[name].run("extract", "--directory", directory, *wanted)
        assert done.code == 0, done.events
        files.append(directory.with_suffix(".jsonl"))
        files[-1].write_text("".join(json.dumps(e) + "\n" for e in done.events))
    return files


def beside(east: Restorable, app: App, files: list[Path], out: Path) -> list[dict[str, Any]]:
    token = east.root / "token"
    token.write_text(TOKENS["boss"])
    store = east.stores["db_g1"]
    about = ("--epoch", 1, "--region", "east", "--url", f"http://127.0.0.1:{app.port}", "--token-file", token)
    done = store.run("beside", *files, "--out", out, *about)
    assert done.code == 0, done.events
    return done.events


def replay(east: Restorable, app: App, face: str, out: Path, *more: str) -> dict[str, Any]:
    about = (f"--url-{face}=http://127.0.0.1:{app.port}", f"--token-file={east.root / 'token'}")
    return json.loads(east.command("region", "replay", str(out), *about, *more).splitlines()[-1])


def test_a_restore_is_previewed_key_by_key(east: Restorable) -> None:
    cp, ap = start(east)
    between, _versions = first_and_second(east, cp, ap)
    assert cp.write("same", "x").status == 200
    after = east.moment_between()
    assert cp.write("__later", "x").status == 200
    east.collect()
    made = aside(east, between, ("db_g1",))
    store = east.stores["db_g1"]
    done = store.run("compare", "db_g1", "--directory", made["db_g1"])
    told = done.event("BACKUP_COMPARED")
    assert (done.code, told["moment"]) == (0, shown(between))
    newest = told["cp"].pop("newest_write_undone")
    assert newest >= shown(after), "of the newest write that is lost"
    assert told["cp"] == {"same": 0, "changed": 1, "gone": 3, "back": 1}
    del told["ap"]["newest_write_undone"]
    assert told["ap"] == {"same": 0, "changed": 1, "gone": 1, "back": 1}
    assert {(e["face"], e["key"], e["what"]) for e in told["examples"]} == {
        *((f, k, w) for f in ("cp", "ap") for k, w in (("k", "changed"), ("deleted", "back"), ("new", "gone"))),
        ("cp", "same", "gone"),
        ("cp", "__later", "gone"),
    }
    nothing = store.run("compare", "db_g1", "--directory", aside(east, after, ("db_g1",))["db_g1"])
    assert nothing.event("BACKUP_COMPARED")["ap"] == {
        "same": 2,
        "changed": 0,
        "gone": 0,
        "back": 0,
        "newest_write_undone": None,
    }
    assert store.run("compare", "db_g2", "--directory", made["db_g1"]).refused("is of db_g1")
    assert store.run("compare", "db_g1", "--socket", east.root / "none").refused("no Redis answers")
    socket = east.root / "s"
    options = ("--port", "0", "--unixsocket", str(socket), "--appendonly", "yes", "--save", "")
    with subprocess.Popen(["redis-server", "--dir", str(made["db_g1"]), *options], stdout=subprocess.DEVNULL) as other:
        try:
            wait_for(
                "the private Redis answers",
                lambda: store.run("extract", "--socket", socket, "--face=cp", "--key=k").code == 0,
            )
            assert store.run("compare", "db_g1", "--socket", socket).event("BACKUP_COMPARED")["cp"]["gone"] == 3
            assert store.run("extract", "--socket", socket, "--face=cp", "--key=k").events[0]["value"] == "first"
        finally:
            other.terminate()


@pytest.mark.parametrize("face", ["cp", "ap"])
def test_a_key_is_shown_as_it_was_and_written_back_as_an_ordinary_write(
    east: Restorable, tmp_path: Path, face: str
) -> None:
    cp, ap = start(east)
    app = cp if face == "cp" else ap
    assert app.write("pre", "other").status == 200
    between, versions = first_and_second(east, cp, ap)
    east.collect()
    made, out = aside(east, between), tmp_path / "k.jsonl"
    events = beside(east, app, extracts(east, made, "--face", face, "--key", "k"), out)
    assert (events[0]["at_the_moment"]["value"], events[0]["now"]["value"]) == ("first", "second")
    assert events[-1] == {"event": "BACKUP_BESIDE", "face": face, "moment": shown(between), "keys": 1, "differ": 1}
    assert app.read("k").json["value"] == "second", "nothing was written"
    assert out.stat().st_mode & 0o777 == 0o600
    assert replay(east, app, face, out)["replayed"] == 1
    again = app.read("k").json
    assert again["value"] == "first"
    assert again["version"] > versions[face], "as an ordinary write"
    assert replay(east, app, face, out)["already"] == 1, "again: nothing to do"
    assert app.write("k", "third").status == 200
    assert replay(east, app, face, out)["changed"] == 1
    assert app.read("k").json["value"] == "third", "whoever wrote since is not overwritten"

    events = beside(east, app, extracts(east, made, "--face", face, "--prefix", ""), out)
    assert {e["key"]: e["same"] for e in events[:-1]} == {"k": False, "deleted": False, "pre": True}
    assert events[-1]["differ"] == 2
    assert replay(east, app, face, out)["replayed"] == 2
    assert app.read("deleted").json["value"] == "first"
    assert app.read("new").json["value"] == "second", "what came later stays"
    many = east.stores["db_g1"].run(
        "extract", "--directory", made["db_g1"], "--face", face, "--prefix=", "--max-keys=2"
    )
    assert many.refused("more than 2 keys")


def test_what_a_majority_had_is_taken_from_whoever_has_it_and_a_deleted_key_stays_as_it_is(
    east: Restorable, tmp_path: Path
) -> None:
    cp, _ap = start(east)
    assert cp.write("k", "old").status == 200
    everywhere(east, "cp:k", "old")
    assert cp.write("gone", "soon").status == 200
    assert cp.delete("gone").status == 200
    everywhere(east, "cp:gone", "")
    east.nodes["db_g1"].kill()
    assert cp.write("k", "first").status == 200, "by the two others"
    between = east.moment_between()
    east.nodes["db_g1"].start()
    assert cp.write("gone", "again").status == 200
    east.collect()
    files = extracts(east, aside(east, between), "--face", "cp", "--prefix", "")
    out = tmp_path / "k.jsonl"
    events = {e.get("key"): e for e in beside(east, cp, files, out)}
    assert json.loads(files[0].read_text().splitlines()[1])["value"] == "old"
    assert events["k"]["at_the_moment"]["value"] == "first"
    assert events["gone"]["at_the_moment"]["deleted"] is True
    assert replay(east, cp, "cp", out)["replayed"] == 0
    assert cp.read("gone").json["value"] == "again", "it was deleted then: shown, and left to a person"
    one = tmp_path / "cut.jsonl"
    one.write_text(files[0].read_text().splitlines()[0] + "\n")
    store = east.stores["db_g1"]
    about = (
        "--out",
        out,
        "--epoch",
        1,
        "--region=east",
        "--url=http://127.0.0.1:1",
        "--token-file",
        east.root / "token",
    )
    assert store.run("beside", one, *about).refused("no whole extract")
    other = extracts(east, aside(east, between - 1, ("db_g1",)), "--face", "cp", "--prefix", "")
    assert store.run("beside", *files, *other, *about).refused("several moments")


class Fake:
    """Answers SCAN and HMGET over a million keys that exist only as numbers."""

    def __init__(self, count: int, version: str) -> None:
        self.count, self.version, self.most = count, version.encode(), 0

    def ask(self, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
        self.most = max(self.most, len(commands))
        if commands[0][0] == "SCAN":
            at = int(commands[0][1])
            names = [b"cp:%d" % n for n in range(at, min(at + 500, self.count))]
            return [[b"%d" % (at + 500) if at + 500 < self.count else b"0", names]]
        return [[self.version, b"v"] if int(c[1][3:]) < self.count else [None, None] for c in commands]


def test_the_preview_asks_for_a_bounded_number_of_keys_at_once() -> None:
    then, now = Fake(3000, f"{1:08x}.{5:016x}.{'1' * 28}"), Fake(4001, f"{1:08x}.{6:016x}.{'1' * 28}")
    found: Compared = compare(then, now)
    assert (found.faces["cp"].changed, found.faces["cp"].gone) == (3000, 1001)
    assert max(then.most, now.most) <= 200
    assert len(found.examples) == 20

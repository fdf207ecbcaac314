"""runbooks/restore_region.yml and restore_key.yml on real nodes: restored, interrupted, refused, taken back."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "app/tests/integration"))

from backups import moment  # noqa: E402
from restored_regions import RestoredRegion, wait_for  # noqa: E402
from restores import west_fenced  # noqa: E402

CUT = """
from holdfast.cli import main
from holdfast.region_nodes import RegionNodes
whole = RegionNodes.move
def move(self, node, run_id, expected, new, *more):
    return "timeout" if (node, new.state) == ("db_g3", "promoted") else whole(self, node, run_id, expected, new, *more)
RegionNodes.move = move
raise SystemExit(main())
"""


@pytest.fixture(scope="module")
def east(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestoredRegion]:
    made = RestoredRegion(tmp_path_factory.mktemp("region"))
    made.region.collect()
    try:
        yield made
    finally:
        made.stop()


def two_writes(east: RestoredRegion, first: str, second: str) -> str:
    """Both faces; returns a moment between. No watch runs here: that a node was put back before is known from a backup on."""
    east.region.collect()
    for app in (east.cp, east.ap):
        assert app.write("k", first).status == 200
    wait_for("replicated", lambda: all(n.client().hget("ap:k", "v") == first.encode() for n in east.region.nodes.values()))
    between = east.region.moment_between()
    for app in (east.cp, east.ap):
        assert app.write("k", second).status == 200
        assert app.write("new", second).status == 200
    wait_for("replicated", lambda: all(n.client().hget("ap:new", "v") == second.encode() for n in east.region.nodes.values()))
    east.region.collect()
    return moment(between)


def holds(east: RestoredRegion, value: str) -> None:
    for app in (east.cp, east.ap):
        wait_for("serves", lambda app=app: app.ready() and app.read("k").status == 200)
        assert app.read("k").json["value"] == value


def votes_whole(east: RestoredRegion) -> None:
    """A fence that was taken back has cost no node."""
    assert east.region.states() == ["member"] * 3
    assert len({east.region.guard(name)["region_epoch"] for name in east.region.nodes}) == 1


@pytest.mark.long
def test_a_region_goes_back_and_forth(east: RestoredRegion) -> None:
    to = two_writes(east, "first", "second")
    code, said = east.play("restore_region", to="2020-01-01T00:00:00Z", confirm="east")
    assert "is before the first in the backups" in said, said
    assert (code != 0, east.region.states(), east.kept()) == (True, ["member"] * 3, [])

    (east.place / "no_watch").touch()
    code, said = east.play("restore_region", to=to, confirm="east")
    assert "Container backup_db_g1 does not run" in said, said
    assert (code != 0, east.made()) == (True, []), "no copy of the data is left behind"
    (east.place / "no_watch").unlink()
    code, said = east.play("restore_region", to=to, confirm="west")
    assert "'west' is not 'east', so nothing was changed" in said, said
    assert (code != 0, east.region.states(), east.made()) == (True, ["member"] * 3, [])

    # Interrupted when the data had been exchanged: the same command goes on, another one is refused.
    (east.place / "stuck").write_text("db_g3")
    code, said = east.play("restore_region", to=to, confirm="east")
    assert code != 0
    assert "db_g1 CP: 1 keys get an older value, 1 disappear" in said, said
    assert "the daemon does not answer" in said, said
    assert "for example: ap:k (changed)" in said, said
    assert [line for line in east.record()["facts"]["preview"] if "example" in line] == [], "users' keys are in no record"
    (east.place / "stuck").unlink()
    first_run = east.runs()[-1]
    code, said = east.play("restore_key", face="cp", key="k", to=to)
    assert f"Run {first_run} has begun to restore this region" in said, said
    code, said = east.play("restore_region", abandon=first_run, confirm="east")
    assert f"Run {first_run} has exchanged data of host-db_g1 already, so it cannot be given up" in said, said
    code, said = east.play("restore_region", to=to, confirm="east")
    assert code == 0, said
    holds(east, "first")
    assert east.cp.read("new").code == "not_found"
    assert east.kept() == [f"db_g{n}.before-{first_run}" for n in (1, 2, 3)]
    assert east.cp.write("k", "third").json["version"].startswith("00000003.")

    code, said = east.play("restore_region", undo=first_run, confirm="east")
    assert code == 0, said
    holds(east, "second")
    assert east.ap.read("new").json["value"] == "second"
    assert east.cp.write("k", "fourth").json["version"].startswith("00000005.")
    assert len(east.kept()) == 3, "what was written since the restore is kept as well"

    kept = east.kept()
    code, said = east.play("restore_region", undo=first_run, confirm="east")
    assert f"has taken {first_run} back already" in said, said
    assert (code != 0, east.region.states(), east.kept()) == (True, ["member"] * 3, kept)
    assert east.cp.read("k").json["value"] == "fourth"


@pytest.mark.long
def test_a_run_that_put_nothing_back_is_given_up(east: RestoredRegion) -> None:
    """The fence reached one node, and the run was interrupted; then none; then all, and the run was interrupted while it stopped them."""
    to = two_writes(east, "old", "new")
    kept = east.kept()
    for trouble, nodes, words in (
        ("mute", "db_g2 db_g3", "nobody answers"),
        ("missed", "db_g1 db_g2 db_g3", "The fence did not reach db_g1, db_g2, db_g3, so no data was exchanged."),
        ("busy", "db_g3", "the daemon is busy"),
    ):
        for name in ("missed", "mute") if trouble == "mute" else (trouble,):
            (east.place / name).write_text(nodes)
        code, said = east.play("restore_region", to=to, confirm="east")
        assert words in said, said
        assert (code != 0, east.kept()) == (True, kept)
        (east.place / trouble).unlink(missing_ok=True)
        run = east.runs()[-1]
        code, said = east.play("restore_region", to="2026-01-01T00:00:00Z", confirm="east")
        assert f"-e abandon={run} gives it up" in said, said
        code, said = east.play("restore_region", abandon=run, confirm="east")
        assert code == 0, said
        holds(east, "new")
        votes_whole(east)
        assert east.kept() == kept


@pytest.mark.long
def test_where_the_fence_missed_a_node_no_data_is_exchanged(east: RestoredRegion) -> None:
    """The same command goes on, under epochs of its own: the fence that was lifted is used up."""
    to = two_writes(east, "older", "newer")
    kept = east.kept()
    (east.place / "missed").write_text("db_g2")
    code, said = east.play("restore_region", to=to, confirm="east")
    assert "The fence did not reach db_g2, so no data was exchanged. The region serves as before, with all its nodes." in said, said
    assert (code != 0, east.kept()) == (True, kept)
    votes_whole(east)
    holds(east, "newer")
    code, said = east.play("restore_region", to=to, confirm="east")
    assert code == 0, said
    holds(east, "older")
    assert len(east.kept()) == len(kept) + 3


@pytest.mark.long
def test_an_adoption_that_left_a_node_out_is_gone_on_with(east: RestoredRegion) -> None:
    """Two of three are promoted, which is a majority: it takes writes, and reads no restored key until the third is."""
    to = two_writes(east, "before", "after")
    (east.place / "cut").write_text(CUT)
    code, said = east.play("restore_region", to=to, confirm="east")
    assert "not all nodes are promoted" in said, said
    assert (code != 0, east.region.states()) == (True, ["promoted", "promoted", "recovering"])
    (east.place / "cut").unlink()
    run = east.runs()[-1]
    code, said = east.play("restore_region", to="2026-01-01T00:00:00Z", confirm="east")
    assert f"run {run} has begun to restore this region and did not end" in said, said
    code, said = east.play("restore_region", to=to, confirm="east")
    assert code == 0, said
    assert "nothing is exchanged any more, and the run is ended" in said, said
    holds(east, "before")
    wait_for("settled", lambda: east.region.states() == ["member"] * 3)


@pytest.mark.long
def test_a_key_is_written_back_under_the_epoch_that_serves(east: RestoredRegion) -> None:
    """The other region was fenced at a higher one: nobody has written there, and no answer bears it."""
    to = two_writes(east, "wanted", "wrong")
    with west_fenced(east.root / "west", east.place, epoch=99):
        code, said = east.play("restore_key", face="cp", key="k", to=to, write="yes", confirm="k")
    assert code == 0, said
    assert east.cp.read("k").json["value"] == "wanted"


@pytest.mark.long
def test_whoever_lost_the_lock_does_not_go_on(east: RestoredRegion) -> None:
    """While the region was fenced nothing is exchanged then, and while data was loaded nothing is adopted. The same command ends it."""
    to = two_writes(east, "kept", "undone")
    kept, lock = east.kept(), east.root / "db_g1.lock"
    for at, states, exchanged in (("region fence", ["fenced"] * 3, 0), ("stop db_g1", ["recovering"] * 3, 3)):
        (east.place / "thief").write_text(json.dumps({"at": at, "lock": str(lock)}))
        code, said = east.play("restore_region", to=to, confirm="east")
        assert "The lock was taken away from this run; it belongs to somebody" in said, said
        assert (code != 0, east.region.states(), len(east.kept())) == (True, states, len(kept) + exchanged)
        (east.place / "thief").unlink()
        lock.unlink()
    code, said = east.play("restore_region", to=to, confirm="east")
    assert code == 0, said
    holds(east, "kept")


@pytest.mark.long
def test_a_run_that_was_carried_out_exchanges_nothing_any_more(east: RestoredRegion) -> None:
    """Only that it ended is not recorded. Its nodes vote: they are neither fenced nor exchanged again, whatever lies beside them."""
    to = two_writes(east, "then", "now")
    code, said = east.play("restore_region", to=to, confirm="east")
    assert code == 0, said
    [path] = (east.root / "restored").glob(f"{east.runs()[-1]}.json")
    record = json.loads(path.read_text())
    assert (record["ended"], record["to"], record["without"]) == (True, to, [])
    path.write_text(json.dumps(record | {"ended": False}) + "\n")
    for name in east.kept():
        shutil.rmtree(east.data / name)  # by playbooks/leftovers.yml
    assert east.cp.write("k", "since").status == 200
    code, said = east.play("restore_region", to=to, confirm="east")
    assert code == 0, said
    assert "nothing is exchanged any more, and the run is ended" in said, said
    assert (east.region.states(), east.kept()) == (["member"] * 3, [])
    assert east.cp.read("k").json["value"] == "since"
    assert json.loads(path.read_text())["ended"]

"""runbooks/restore_region.yml and restore_key.yml on real nodes: restored, interrupted, refused, taken back."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "app/tests/integration"))

from backups import moment  # noqa: E402
from restored_regions import RestoredRegion, wait_for  # noqa: E402


@pytest.fixture(scope="module")
def east(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestoredRegion]:
    made = RestoredRegion(tmp_path_factory.mktemp("region"))
    made.region.collect()
    try:
        yield made
    finally:
        made.stop()


def two_writes(east: RestoredRegion, first: str, second: str) -> str:
    """Both faces; returns a moment between."""
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
        wait_for("serves", lambda app=app: app.ready() and app.read("k").status == 200, 20)
        assert app.read("k").json["value"] == value


@pytest.mark.long
def test_a_region_goes_back_and_forth(east: RestoredRegion) -> None:
    to = two_writes(east, "first", "second")
    code, said = east.play("restore_region", to="2020-01-01T00:00:00Z", confirm="east")
    assert "is before the first in the backups" in said, said
    assert (code != 0, east.region.states(), east.kept()) == (True, ["member"] * 3, [])

    # Interrupted when the data had been exchanged: the same command goes on, another one is refused.
    (east.place / "stuck").write_text("db_g3")
    code, said = east.play("restore_region", to=to, confirm="east")
    assert code != 0
    assert "db_g1 CP: 1 keys get an older value, 1 disappear" in said, said
    assert "the daemon does not answer" in said, said
    (east.place / "stuck").unlink()
    first_run = east.runs()[-1]
    code, said = east.play("restore_key", face="cp", key="k", to=to)
    assert f"Run {first_run} has begun to restore this region" in said, said
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


@pytest.mark.long
def test_a_key_is_shown_and_written_back(east: RestoredRegion) -> None:
    to = two_writes(east, "then", "now")
    code, said = east.play("restore_key", face="ap", key="k", to=to)
    assert code == 0, said
    assert '"value": "then"' in said, said
    assert east.ap.read("k").json["value"] == "now"
    code, said = east.play("restore_key", face="ap", key="k", to=to, write=True, confirm="k")
    assert code == 0, said
    assert east.ap.read("k").json["value"] == "then"
    assert east.cp.read("k").json["value"] == "now"
    assert not list((east.data / ".restore").glob("db_*")), "what was made for the look is removed"

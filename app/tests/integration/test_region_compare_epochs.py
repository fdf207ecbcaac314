"""What `region compare` finds when the serving region is at a higher epoch than that of its promotion, or was not the
one that was promoted last. On real nodes; each verdict beside one that is the same as ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cluster import App, wait_for
from comparing import compare, replay
from regions import NAMES, Region, Regions


def found(region: Region, out: Path) -> tuple[dict[str, dict[str, str]], dict[str, object]]:
    """({face: {key: class}}, what was told)."""
    _code, told, lines = compare(region, out)
    classes: dict[str, dict[str, str]] = {"cp": {}, "ap": {}}
    for line in lines:
        classes[line["face"]][line["key"]] = line["class"]
    assert told["complete"] is True, told
    return classes, told


def cut(regions: Regions) -> None:
    regions.in_step()
    for cable in regions.cables.values():
        cable.cut = True


def long_ago(region: Region) -> None:
    """A register that every copy surely has."""
    for node in region.nodes.values():
        node.client().hset("cp:long-ago", mapping={"t": f"00000001.{1:016x}.{7:028x}", "k": "v", "v": "long ago"})


def write(app: App, *keys: str, value: str) -> None:
    for key in keys:
        assert app.write(key, value).status == 200


def fence(region: Region, epoch: int) -> None:
    code, told, words = region.region("fence", "--epoch", str(epoch), "--reason", "test")
    assert code == 0, (told, words)


def unfence(region: Region, epoch: int) -> None:
    code, told, words = region.region("unfence", "--epoch", str(epoch), "--confirm", region.name)
    assert code == 0, (told, words)


@pytest.mark.parametrize(
    ("how", "known"),
    [
        *(("no move", True), ("unfenced", True), ("adopted", True)),
        *(pytest.param(how, False, marks=pytest.mark.long) for how in ("unfenced", "adopted")),
    ],
)
def test_what_both_wrote_is_no_less_lost_once_the_epoch_has_moved(
    regions: Regions, tmp_path: Path, how: str, known: bool
) -> None:
    """``known``: the nodes tell at which epoch they were promoted; an older release does not write that down."""
    west, east = regions.west, regions.east
    west.run("replicate", "ap")
    old = west.run("serve", "cp"), west.run("serve", "ap")
    for app in old:
        write(app, "k", "over", value="first")
    long_ago(west)
    wait_for("heartbeats", lambda: all(n.client().exists("holdfast:heartbeat") for n in west.nodes.values()))
    cut(regions)
    for app in old:
        write(app, "k", "over", value="acknowledged by west, never arrived")
        app.stop()
    west.kill_nodes()
    regions.fail_over(2)
    copied = {n: east.guard(n)["copied_ms"] for n in NAMES}
    assert {east.guard(n)["promoted_epoch"] for n in NAMES} == {"2"}
    new = east.run("serve", "cp"), east.run("serve", "ap")
    east.run("replicate", "ap")
    for app in new:
        wait_for("serves", app.ready)
        write(app, "k", value="written by east")
    write(new[0], "long-ago", value="written by east")
    wait_for("settled", lambda: east.states() == ["member"] * 3)
    if how != "no move":
        fence(east, 3)
    if how == "unfenced":
        unfence(east, 3)
    elif how == "adopted":
        for node in east.nodes.values():  # it has served for so long since
            node.client().set("holdfast:heartbeat", int(time.time() * 1000) + 600_000)
        words = ("adopt", "--epoch", "4", "--fenced-at", "3", "--confirm", "east")
        assert east.region(*words)[0] == 0
    assert {n: east.guard(n)["copied_ms"] for n in NAMES} == copied, "of the promotion, and of nothing else"
    if not known:
        for node in east.nodes.values():
            assert node.client().hdel("holdfast:guard", "promoted_epoch") == 1
    for node in west.nodes.values():
        node.start()
    fence(west, {"no move": 2, "unfenced": 3, "adopted": 4}[how])
    classes, told = found(west, tmp_path / "lost.jsonl")
    both, only = ("undone", "undone") if how == "adopted" else ("conflict", "safe")
    assert classes["ap"] == {"k": both, "over": only}
    # It is by the heartbeats that "long-ago" is known to have come through, and those may be the adoption's.
    doubted = {"long-ago": both} if how == "adopted" and not known else {}
    assert classes["cp"] == {"k": both, "over": only, **doubted}
    assert told["parted_epoch"] == 2, told


def two_regions(regions: Regions) -> dict[str, App]:
    """Both serve at epoch 2, out of each other's sight, until they see each other and close."""
    west, east = regions.west, regions.east
    apps = {"west": west.run("serve", "cp"), "east": east.run("serve", "cp")}
    west.run("replicate", "ap")
    east.run("replicate", "ap")
    write(apps["west"], "west only", value="first")
    long_ago(west)
    wait_for("heartbeats", lambda: all(n.client().exists("holdfast:heartbeat") for n in west.nodes.values()))
    regions.in_step()
    regions.cut_regions()
    cut(regions)
    write(apps["west"], "before the fence", value="acknowledged by west")
    fence(west, 2)
    unfence(west, 2)
    regions.fail_over(2)
    wait_for("east", lambda: apps["east"].write("west first", "acknowledged by east").status == 200)
    wait_for("west", lambda: apps["west"].write("west last", "acknowledged by west").status == 200)
    time.sleep(0.1)
    write(apps["east"], "west last", "before the fence", "long-ago", "east only", value="acknowledged by east")
    write(apps["west"], "west first", "west only", value="acknowledged by west")
    time.sleep(0.1)
    write(apps["east"], "west first", value="acknowledged by east")
    write(apps["west"], "west last", value="acknowledged by west")
    regions.cut_regions(False)
    wait_for("both closed", lambda: west.states() + east.states() == ["fenced"] * 6)
    return apps


@pytest.mark.parametrize("stays", ["east", "west"])
def test_of_two_regions_the_one_that_stays_keeps_what_it_acknowledged(
    regions: Regions, tmp_path: Path, stays: str
) -> None:
    apps = two_regions(regions)
    chosen, other = (regions.east, regions.west) if stays == "east" else (regions.west, regions.east)
    fence(chosen, 3)
    unfence(chosen, 3)
    wait_for("it serves", apps[stays].ready)
    wait_for("settled", lambda: chosen.states() == ["member"] * 3)
    out = tmp_path / "lost.jsonl"
    classes, told = found(other, out)
    both = dict.fromkeys(("west first", "west last", "before the fence"), "conflict")
    if stays == "east":
        # What it promoted is older than "west only", and is known to hold "long-ago".
        assert classes["cp"] == {**both, "west only": "safe"}
    else:
        # "west only" is a copy of what west wrote over, and east wrote "long-ago" knowing the one there.
        assert classes["cp"] == {**both, "east only": "safe", "long-ago": "safe"}
    assert told["superseded"] == {"cp": 1, "ap": 0}, told
    code, done, words = replay(out, cp=apps[stays])
    assert (code, done["replayed"], done["left"]["conflict"]) == (0, len(classes["cp"]) - 3, 3), words
    for key in both:
        assert apps[stays].read(key).json["value"] == f"acknowledged by {stays}", key

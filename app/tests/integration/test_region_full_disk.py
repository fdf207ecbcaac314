"""A disk that is full at the very moment of a promotion: what was done is said, and the cure that is named is one."""

from __future__ import annotations

from cluster import App, wait_for
from regions import NAMES, Region, Regions
from test_node_faults import ended, fill_disk

FULL = "db_g2"


def promoted_onto_a_full_disk(regions: Regions) -> tuple[App, str]:
    """West is lost; east's nodes are primaries, and then db_g2 has no room for the promotion. Returns what it said."""
    west = regions.west.run("serve", "cp")
    assert west.write("k", "acknowledged").status == 200
    regions.in_step()
    app = regions.east.run("serve", "cp")
    regions.west.kill_nodes()
    west.stop()
    regions.cut_loose()
    fill_disk(regions.east.nodes[FULL], 5)
    code, told, words = regions.east.region("promote", "--epoch", "2", "--reason", "a drill")
    assert code == 3, (told, words)
    wait_for("Redis has ended itself", lambda: ended(regions.east.nodes[FULL]))
    assert FULL in words
    assert told["nodes"][FULL] not in ("promoted", "member", "recovering"), told
    return app, words


def closed(regions: Region, app: App) -> None:
    """Nothing of the half promotion serves."""
    assert not app.ready()
    assert app.write("k", "too early").status == 503
    others = {regions.guard(name)["state"] for name in NAMES if name != FULL}
    assert others == {"recovering"}, others


def test_with_room_again_the_same_command_ends_it(regions: Regions) -> None:
    app, words = promoted_onto_a_full_disk(regions)
    assert "none is promoted and nothing serves" in words
    assert "a full disk" in words
    assert "run this again" in words
    assert """-e '{"without": ["<node>"]}'""" in words, "as on-call gives it to the runbook"
    closed(regions.east, app)
    regions.east.nodes[FULL].start()
    code, told, words = regions.east.region("promote", "--epoch", "2", "--reason", "a drill")
    assert (code, set(told["nodes"].values())) == (0, {"promoted"}), (told, words)
    wait_for("every node is heard", lambda: app.read("k").status == 200)
    assert app.read("k").json["value"] == "acknowledged"


def test_without_room_the_node_is_named_and_can_be_given_up(regions: Regions) -> None:
    app, _words = promoted_onto_a_full_disk(regions)
    code, told, words = regions.east.region("promote", "--epoch", "2", "--reason", "a drill")
    assert (code, told) == (6, {"result": "refused"}), words
    assert f"--without {FULL}" in words
    assert f"""-e '{{"without": ["{FULL}"]}}'""" in words, "as on-call gives it to the runbook"
    closed(regions.east, app)
    code, told, words = regions.east.region("promote", "--epoch", "2", "--reason", "a drill", "--without", FULL)
    assert code == 0, (told, words)
    wait_for("serves", app.ready)
    assert app.read("k").json["value"] == "acknowledged"

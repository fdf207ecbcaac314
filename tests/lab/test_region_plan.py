"""What a runbook concludes from `holdfast region status`: epochs, how far behind, and what it refuses."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("region", ROOT / "roles/region/filter_plugins/region.py")
region = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(region)


def replica(lag=0.4, **more):
    return {
        "reachable": True,
        "role": "replica",
        "link": "up",
        "state": "member",
        "region": "east",
        "region_epoch": 3,
        "keys": 7,
        "lag_seconds": lag,
        "primary_offset": 900,
    } | more


def primary(of="east", epoch=3, state="member", **more):
    common = {"reachable": True, "role": "primary", "link": "-", "keys": 7, "offset": 1000}
    return common | {"state": state, "region": of, "region_epoch": epoch} | more


def status(nodes=None, peers=None, epoch=3):
    names = ("db_g1", "db_g2", "db_g3")
    return {
        "region": "west",
        "epoch": epoch,
        "nodes": dict(zip(names, nodes or [replica()] * 3, strict=True)),
        "peers": dict(zip(names, peers or [primary()] * 3, strict=True)),
    }


GONE = {"reachable": False, "reason": "timeout"}


def plan(given, **options):
    return region.region_plan(given, "east", 300, **options)


def test_a_sound_standby_can_take_over_under_the_next_epoch():
    made = plan(status())
    assert (made["epoch"], made["lag_seconds"], made["refusals"]) == (4, 0.4, [])
    assert made["behind"][0] == "db_g1: replica, link up, 7 keys, 0.4 s behind, 100 bytes behind"


def test_a_region_without_power_is_no_refusal():
    made = plan(status([replica(12.0, link="down")] * 3, [GONE] * 3))
    assert made["refusals"] == [] and made["lag_seconds"] == 12.0
    assert "bytes behind unknown" in made["behind"][0]


@pytest.mark.parametrize(("options", "refused"), [({}, True), ({"accept_data_loss": 400}, True), ({"accept_data_loss": 600}, False)])
def test_more_loss_than_the_target_must_be_accepted_in_seconds(options, refused):
    made = plan(status([replica(), replica(500.0), replica()]), **options)
    assert bool(made["refusals"]) is refused
    assert not refused or "accept_data_loss=560" in made["refusals"][0]


@pytest.mark.parametrize(
    ("nodes", "peers", "said"),
    [
        ([primary("west", 3)] * 3, [primary("east", 3)] * 3, "both regions claim"),
        ([primary("west", 4)] * 3, [GONE] * 3, "serves already"),
        ([primary("west", 4)] * 3, [primary("east", 3)] * 3, "serves already"),
        ([replica(), GONE, replica()], None, "db_g2 of west does not answer"),
        ([replica(), replica(None, link="down"), replica()], None, "db_g2 of west holds no copy"),
    ],
)
def test_what_is_refused(nodes, peers, said):
    made = plan(status(nodes, peers))
    assert len(made["refusals"]) >= 1 and any(said in line for line in made["refusals"])


def test_a_node_that_was_given_up_is_not_waited_for():
    assert plan(status([replica(), GONE, replica()]), without=["db_g2"])["refusals"] == []


def test_a_planned_change_needs_every_link():
    assert plan(status([replica(), replica(link="down"), replica()]))["refusals"] == []
    assert "db_g2 of west does not follow east" in plan(status([replica(), replica(link="down"), replica()]), planned=True)["refusals"][0]


@pytest.mark.parametrize(
    ("nodes", "peers"),
    [
        ([replica()] * 3, [primary("east", 4, "fenced")] * 3),
        ([primary("west", 4, "recovering"), replica(), replica()], [GONE] * 3),
    ],
)
def test_an_interrupted_run_goes_on_under_its_own_epoch(nodes, peers):
    made = plan(status(nodes, peers, epoch=4))
    assert made["epoch"] == 4 and made["refusals"] == []


def test_who_serves_before_a_planned_change():
    serving = status([primary("west", 4)] * 3, [primary("east", 4, "fenced")] * 3)
    assert region.region_serves(serving, "east") == []
    assert "east serves already" in region.region_serves(status(), "east")[0]
    assert "does not serve" in region.region_serves(status(peers=[GONE] * 3), "east")[0]
    assert "both regions claim" in region.region_serves(status([primary("west")] * 3), "east")[0]


@pytest.mark.parametrize(
    ("nodes", "peers"),
    [
        ([primary("west", 4, "fenced")] * 3, [replica(region="west", region_epoch=4, state="fenced")] * 3),
        ([primary("west", 4, "fenced")] * 3, [primary("east", 4, "recovering"), replica(region="west"), replica(region="west")]),
    ],
)
def test_a_planned_change_goes_on_where_it_was_cut_off(nodes, peers):
    assert region.region_serves(status(nodes, peers, epoch=4), "east") == []


def test_a_promotion_cut_off_among_its_nodes_goes_on_under_its_epoch():
    nodes = [primary("west", 4, "promoted"), primary("west", 4, "recovering"), primary("east", 3)]
    assert plan(status(nodes, [GONE] * 3, epoch=4))["epoch"] == 4


@pytest.mark.parametrize("third", [primary("west", 4, "recovering"), primary("west", 4, "promoted"), GONE])
def test_a_promotion_that_is_not_settled_is_repeated_under_its_epoch(third):
    """It takes writes, and reads no key of before: one node was left out, or one that was given up is waited for."""
    without = ["db_g3"] if third is GONE else []
    for peers in ([GONE] * 3, [primary("east", 3)] * 3, [primary("east", 4, "fenced")] * 3):
        made = plan(status([primary("west", 4, "promoted")] * 2 + [third], peers, epoch=4), without=without)
        assert (made["epoch"], made["refusals"]) == (4, [])


@pytest.mark.parametrize(
    "nodes",
    [
        [primary("west", 4), primary("west", 4, "promoted"), primary("west", 4, "promoted")],
        [primary("west", 4, "promoted", history=4)] * 3,
    ],
)
def test_a_promotion_that_is_being_settled_and_a_restore_are_nothing_to_take_over(nodes):
    assert "serves already" in plan(status(nodes, [GONE] * 3, epoch=4))["refusals"][0]


def test_a_fence_that_was_taken_back_but_for_one_node_is_over():
    left = [primary("east", 5), primary("east", 5), primary("east", 5, "fenced")]
    assert plan(status(peers=left, epoch=5))["epoch"] == 6


@pytest.mark.parametrize("peers", [[GONE] * 3, [primary(), primary(state="recovering"), GONE], [GONE, primary(state="recovering"), GONE]])
def test_a_node_that_was_being_healed_as_its_region_was_lost_is_no_promotion_that_was_begun(peers):
    """Or the promotion would have to use the epoch at which its copies served, which it refuses."""
    healed = replica(state="recovering")
    for nodes in ([replica(), healed, replica()], [healed, replica(None, link="down", region=None, state=None), GONE]):
        made = plan(status(nodes, peers), without=["db_g2", "db_g3"])
        assert made["epoch"] > 3, made


def test_a_returned_region_that_was_fenced_too_high_is_no_change_that_was_begun():
    made = plan(status([primary("west", 5, "fenced")] * 3, [primary("east", 3)] * 3, epoch=5))
    assert "dr_follow.yml -e to=west" in made["refusals"][0]


SHOWS = replica(400.0, state="fenced", region_epoch=4, link="down")


def test_a_copy_that_shows_the_fence_lacks_nothing_however_long_ago_it_was_while_the_fence_is_seen_to_stand():
    made = plan(status([SHOWS] * 3, [primary(epoch=4, state="fenced")] * 3, epoch=4))
    assert (made["epoch"], made["lag_seconds"], made["refusals"]) == (4, 0.0, [])


@pytest.mark.parametrize(
    ("peers", "epoch"),
    [
        ([GONE] * 3, 14),  # taken back after the links broke, and gone on
        ([primary(epoch=4, state="fenced"), primary(epoch=4, state="fenced"), GONE], 5),
        ([primary(epoch=4, state="fenced"), primary(epoch=4, state="fenced"), primary(epoch=4)], 5),
        ([SHOWS | {"region": "west", "role": "primary"}] * 3, 14),
    ],
)
def test_a_fence_that_only_copies_show_may_have_been_taken_back(peers, epoch):
    made = plan(status([SHOWS] * 3, peers, epoch=4))
    assert (made["epoch"], made["lag_seconds"]) == (epoch, 400.0)
    assert "The copies show a fence: if east was not let serve again since, nothing is lacking." in made["refusals"][0]


def test_a_region_that_cannot_be_asked_may_have_gone_on_under_higher_epochs():
    assert plan(status(peers=[GONE] * 3))["epoch"] == 13
    assert plan(status(peers=[GONE, GONE, primary()]))["epoch"] == 13
    assert plan(status(peers=[GONE, primary(), primary()]))["epoch"] == 4
    cut_off = status([primary("west", 13, "recovering"), replica(), replica()], [GONE] * 3, epoch=13)
    assert plan(cut_off)["epoch"] == 13, "its own epoch is above already"


def test_a_returned_region_is_no_copy():
    made = plan(status([primary("west", 2, "fenced")] * 3, [primary("east", 3)] * 3))
    assert "dr_follow.yml -e to=west" in made["refusals"][0]


def test_a_copy_that_was_cut_loose_is_as_old_as_its_heartbeat():
    loose = primary("east", 3, heartbeat="2026-01-01T00:00:00.000+00:00")
    assert plan(status([replica(), loose, replica()]))["lag_seconds"] > 86400


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([replica(), replica(problem="loading"), replica()], "db_g2 of west: loading"),
        ([replica(region=None, region_epoch=None, state=None)] * 3, "not known"),
    ],
)
def test_what_cannot_be_read_is_refused(nodes, said):
    assert said in plan(status(nodes, [GONE] * 3, epoch=0))["refusals"][0]

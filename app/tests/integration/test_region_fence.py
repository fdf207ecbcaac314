"""Fencing while others move guards, and regions that meet again after a partition."""

from __future__ import annotations

from pathlib import Path

from regions import NAMES, Regions

RACING = (str(Path(__file__).resolve().parent / "racing_fence.py"),)


def test_a_fence_goes_on_where_settling_moves_guards_under_it(regions: Regions) -> None:
    code, told, words = regions.west.region("fence", "--epoch", "2", "--reason", "race", launch=RACING, RACES="2")
    assert (code, told["fenced"]) == (0, list(NAMES)), words
    assert regions.west.states() == ["fenced"] * 3
    assert {regions.west.guard(n)["membership_epoch"] for n in NAMES} == {"3"}, "the race was real"
    assert words.count("REGION_FENCED") == 3


def test_control_a_fence_that_tries_once_leaves_the_region_serving(regions: Regions) -> None:
    code, told, words = regions.west.region(
        "fence", "--epoch", "2", "--reason", "race", launch=RACING, RACES="1", ATTEMPTS="1"
    )
    assert (code, told["fenced"]) == (3, []), words
    assert "changed by somebody else" in told["nodes"]["db_g1"]
    assert regions.west.states() == ["member"] * 3

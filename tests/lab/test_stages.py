"""What bin/test shows of a stage that failed."""

from lab_lib import tests


def test_a_failure_is_named_though_much_was_printed_after_it():
    failed = [
        "E   AssertionError: the client did not get through enough requests",
        "FAILED ../tests/zone_loss/test_zone_loss.py::test_other_zones_go_on_without_any_one[lab-b1] - AssertionError",
        "fatal: [lab-ops1]: FAILED! => {}",
    ]
    shown = tests.why(["quiet", *failed, *["ok: [lab-a1]"] * 200, "Molecule executed 8 scenarios (1 failed)"]).splitlines()
    assert shown[:3] == failed
    assert shown[-1] == "Molecule executed 8 scenarios (1 failed)"
    assert len(shown) == 3 + 30, "what was well is shown only at the end"


def test_nothing_is_shown_twice():
    line = "FAILED tests/unit/test_x.py::test_y - assert 1 == 2"
    assert tests.why([line, "1 failed in 0.1s"]).splitlines() == [line, "1 failed in 0.1s"]

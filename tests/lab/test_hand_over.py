"""A region hands over, or serves again, or the run says that it refuses: the role's own tasks, with a docker that answers as it is told."""

import json
import shutil

import pytest
from runs import ROOT
from test_lost_hosts import run

#: Answers each command of `holdfast region` as it is told (exit code, standard output, standard error), and notes it.
DOCKER = """#!/usr/bin/env python3
import json, pathlib, sys
place = pathlib.Path(__file__).parent
word = next(word for word in sys.argv if word in ("fence", "unfence")) + (" by run" if "compose" in sys.argv else "")
with (place / "asked").open("a") as asked:
    asked.write(word + "\\n")
code, out, err = json.loads((place / "answers").read_text())[word]
print(out)
print(err, file=sys.stderr)
sys.exit(code)
"""
FENCED = [0, '{"epoch": 7}', ""]
LATE = [3, '{"epoch": 7}', "holdfast region: fenced, but not shown within 10 s by the other region's db_g2"]
OPEN = [0, "{}", ""]
NO_SERVICE = [1, "", "Error response from daemon: container app_cp_1 is not running"]
SHUT = [6, "{}", "holdfast region: only no node of the other region shows that it was not promoted; nothing was changed"]


def hand_over(place, monkeypatch, **answers):
    """(exit code, which commands were run, what was said) with three hosts, and a play after it."""
    shutil.copytree(ROOT / "roles/region", place / "roles/region")
    for path in (place / "roles/region").rglob("*.yml"):
        path.write_text(path.read_text().replace("/opt/holdfast", str(place)))
    (place / "docker").write_text(DOCKER)
    (place / "docker").chmod(0o755)
    (place / "answers").write_text(json.dumps({name.replace("_", " "): answer for name, answer in answers.items()}))
    monkeypatch.setenv("PATH", str(place), prepend=":")
    task = {"ansible.builtin.import_role": {"name": "region", "tasks_from": "hand_over"}, "name": "Hand over"}
    given = {"region": "east", "region_other": "west", "region_epoch": 7, "region_reason": "a planned move", "region_nodes": []}
    given |= {"region_export_file": str(place / "export")}
    after = {"name": "Go on", "ansible.builtin.debug": {"msg": "WENT ON"}}
    play = {"hosts": "zones", "any_errors_fatal": True, "vars": given, "tasks": [task, after]}
    code, said = run(place, play, {"one": {}, "two": {}, "three": {}})
    asked = (place / "asked").read_text().split("\n")[:-1]
    assert ("WENT ON" in said) == (code == 0), said
    return code, asked, said


def test_a_region_whose_copies_show_the_fence_has_handed_over(tmp_path, monkeypatch):
    code, asked, said = hand_over(tmp_path, monkeypatch, fence=FENCED)
    assert code == 0 and asked == ["fence"], said


def test_a_region_whose_copies_are_late_serves_again(tmp_path, monkeypatch):
    code, asked, said = hand_over(tmp_path, monkeypatch, fence=LATE, unfence=OPEN)
    assert code != 0 and asked == ["fence", "fence", "unfence"], said
    assert "not shown within 10 s by the other region's db_g2 Nothing was moved, and east serves again." in said


def test_a_node_that_does_not_vote_afterwards_is_named(tmp_path, monkeypatch):
    missed = [3, "{}", "holdfast region: db_g3: the fence never got there"]
    code, _asked, said = hand_over(tmp_path, monkeypatch, fence=LATE, unfence=missed)
    assert code != 0 and "serves again. holdfast region: db_g3: the fence never got there" in said


def test_a_region_that_cannot_be_opened_again_is_said_to_refuse(tmp_path, monkeypatch):
    code, asked, said = hand_over(tmp_path, monkeypatch, fence=LATE, unfence=SHUT)
    assert code != 0 and asked == ["fence", "fence", "unfence"], said
    assert "east STILL REFUSES ALL CLIENTS, at region epoch 7" in said and "only no node of the other region shows" in said
    assert "holdfast region unfence --epoch 7 --confirm east" in said and "and east serves again" not in said


@pytest.mark.parametrize(
    "answer", [NO_SERVICE, [2, "", "holdfast: unrecognized arguments: --copies 10"], SHUT], ids=["no service", "old service", "refused"]
)
def test_a_fence_that_was_never_begun_closes_nothing(tmp_path, monkeypatch, answer):
    code, asked, said = hand_over(tmp_path, monkeypatch, fence=answer)
    assert code != 0 and asked == ["fence"], said
    assert f"{answer[2]} Nothing was moved, and east serves." in said


def test_a_service_that_stopped_meanwhile_does_not_keep_the_region_closed(tmp_path, monkeypatch):
    """The fence was begun and did not end; then the container is gone, and others take its place."""
    answers = {"fence": NO_SERVICE, "fence_by_run": FENCED, "unfence_by_run": OPEN}
    killed = DOCKER.replace(
        "code, out, err =", "if word == 'fence' and (place / 'asked').read_text().count('fence') == 1: sys.exit(137)\ncode, out, err ="
    )
    monkeypatch.setattr("test_hand_over.DOCKER", killed)
    code, asked, said = hand_over(tmp_path, monkeypatch, **answers)
    assert code != 0 and asked == ["fence", "fence", "fence by run", "unfence by run"], said
    assert "The fence did not end in time. Nothing was moved, and east serves again." in said

"""What of a region that came back did not survive (region_compare.py); what may be replayed (region_replay.py)."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import SettingsError
from holdfast.guard import FENCED, MEMBER, PROMOTED, RECOVERING, Guard
from holdfast.lost_writes import LostFile, read_lines, read_summary
from holdfast.region import RegionRefused, Status
from holdfast.region_compare import SLACK_MS, Held, Serving, judge, plan
from holdfast.region_replay import Present, Replay
from holdfast.region_replay import judge as judge_replay

NAMES = ("a", "b", "c")
MADE = 1_000_000
SERVING = Serving("east", 2, NAMES, {}, 2, {"cp": "", "ap": ""})


def cp(epoch: int, counter: int, kind: str = "v") -> Held:
    return Held(f"{epoch:08x}.{counter:016x}.{'1' * 28}", kind)


def ap(epoch: int, ms: int, kind: str = "v", origin: str = "a", replaced: str = "") -> Held:
    return Held(f"{epoch:08x}.{ms:012x}0000.{origin}", kind, replaced)


def on(names: str, held: Held) -> dict[str, Held]:
    return dict.fromkeys(names, held)


def copied(**after_made: int) -> Serving:
    return replace(SERVING, copied_ms={n: MADE + ms for n, ms in after_made.items()})


OLD, OLDER, NEWER, NEW = cp(1, MADE), cp(1, MADE - 1), cp(1, MADE + 1), cp(2, MADE)
DEL_OLD, DEL_OLDER, DEL_NEW = cp(1, MADE, "d"), cp(1, MADE - 1, "d"), cp(2, MADE, "d")
LONG = SLACK_MS
MOVED = replace(SERVING, epoch=3)
HERE = replace(MOVED, seen_ms={"a": MADE + LONG, "b": MADE + LONG})
CP_TABLE: list[tuple[str, dict[str, Held], dict[str, Held], Serving, str, bool]] = [
    ("came through", on("abc", OLD), on("abc", OLD), SERVING, "same", False),
    ("came through to one copy", on("abc", OLD), {**on("ab", OLDER), "c": OLD}, SERVING, "same", False),
    ("never came", on("abc", OLD), {}, SERVING, "safe", True),
    ("an older one came", on("abc", OLD), on("abc", OLDER), SERVING, "safe", True),
    ("a delete that did not come", on("abc", DEL_OLD), on("abc", OLDER), SERVING, "safe", True),
    ("a write over a delete", on("abc", OLD), on("abc", DEL_OLDER), SERVING, "safe", True),
    ("on a minority", on("a", OLD), {}, SERVING, "safe", False),
    ("on a minority, over one that was", {"a": NEWER, **on("bc", OLD)}, on("abc", OLDER), SERVING, "safe", True),
    ("a larger one of before is there", on("abc", OLD), on("a", NEWER), SERVING, "superseded", False),
    ("deleted on both sides", on("abc", DEL_OLD), {}, SERVING, "moot", True),
    ("deleted on both sides since", on("abc", DEL_OLD), on("abc", DEL_NEW), SERVING, "moot", True),
    ("written since", on("abc", OLD), on("abc", NEW), SERVING, "conflict", True),
    ("deleted since", on("abc", OLD), on("abc", DEL_NEW), SERVING, "conflict", True),
    ("a delete, and written since", on("abc", DEL_OLD), on("abc", NEW), SERVING, "conflict", True),
    ("on a minority, written since", on("a", OLD), on("abc", NEW), SERVING, "conflict", False),
    ("one copy still shows it", on("abc", OLD), {"a": OLD, **on("bc", NEW)}, SERVING, "superseded", True),
    ("long there, written since", on("abc", OLD), on("abc", NEW), copied(a=LONG, b=LONG), "superseded", True),
    ("one copy is not enough to know", on("abc", OLD), on("abc", NEW), copied(a=LONG), "conflict", True),
    ("nor is a heartbeat just after it", on("abc", OLD), on("abc", NEW), copied(a=LONG - 1, b=LONG), "conflict", True),
    ("long there does not hide a gap", on("abc", OLD), on("abc", OLDER), copied(a=LONG, b=LONG), "safe", True),
    (
        "gone, and deletes were collected since",
        on("abc", OLD),
        {},
        replace(SERVING, floors={"cp": DEL_NEW.version}),
        "conflict",
        True,
    ),
    ("a floor of before", on("abc", OLD), {}, replace(SERVING, floors={"cp": NEWER.version}), "safe", True),
    # The serving region is at a higher epoch by now than it was promoted at.
    ("written since, at an epoch gone by", on("abc", OLD), on("abc", NEW), MOVED, "conflict", True),
    ("also if the old one is larger", on("abc", cp(2, MADE + 1)), on("abc", NEW), MOVED, "conflict", True),
    ("also if an old node had none of it", {"a": NEWER, "b": cp(2, MADE + 1)}, on("abc", NEW), MOVED, "conflict", True),
    ("collected at an epoch gone by", on("abc", OLD), {}, replace(MOVED, floors={"cp": NEW.version}), "conflict", True),
    ("an older one came, long ago", on("abc", OLD), on("abc", OLDER), MOVED, "safe", True),
    # The old region was promoted at 2, and the serving one never stopped.
    ("it had that when it wrote over it", on("abc", NEW), on("abc", OLD), HERE, "safe", True),
    ("it had not surely", on("abc", NEW), on("abc", cp(1, MADE + 1)), HERE, "conflict", True),
    ("nor what came after its own", on("abc", NEW), on("abc", cp(3, MADE)), HERE, "conflict", True),
    ("its copy was written over there", on("abc", OLD), on("abc", cp(1, MADE + 1)), HERE, "superseded", True),
    (
        "its copy, and what is there is less",
        on("abc", cp(1, MADE + 2)),
        on("abc", cp(1, MADE + 1)),
        HERE,
        "conflict",
        True,
    ),
    ("written here only", on("abc", NEW), {}, HERE, "safe", True),
    ("gone there, collected long ago", on("abc", NEW), {}, replace(HERE, floors={"cp": OLD.version}), "safe", True),
    ("collected since", on("abc", NEW), {}, replace(HERE, floors={"cp": cp(1, MADE + 1).version}), "conflict", True),
]


@pytest.mark.parametrize(("case", "old", "there", "serving", "verdict", "acknowledged"), CP_TABLE)
def test_cp(
    case: str, old: dict[str, Held], there: dict[str, Held], serving: Serving, verdict: str, acknowledged: bool
) -> None:
    judged = judge("cp", old, there, serving)
    assert judged.verdict == verdict, case
    if judged.lost:
        assert judged.acknowledged == acknowledged, case
        assert judged.old.version == max(h.version for h in old.values())


AP_OLD, AP_NEW = ap(1, MADE), ap(2, MADE + 5)
AP_TABLE: list[tuple[str, dict[str, Held], dict[str, Held], Serving, str]] = [
    ("came through", on("abc", AP_OLD), on("b", AP_OLD), SERVING, "same"),
    ("never came", on("a", AP_OLD), {}, SERVING, "safe"),
    ("an older one came", on("a", AP_OLD), on("abc", ap(1, MADE - 1, origin="b")), SERVING, "safe"),
    ("of two origins the larger name wins", on("a", ap(1, MADE, origin="B")), on("a", AP_OLD), SERVING, "superseded"),
    ("a larger one of before", on("a", AP_OLD), on("abc", ap(1, MADE + 1, origin="b")), SERVING, "superseded"),
    ("written since", on("a", AP_OLD), on("abc", AP_NEW), SERVING, "conflict"),
    ("long there, written since", on("a", AP_OLD), on("abc", AP_NEW), copied(a=LONG), "superseded"),
    ("the origin's copy must know", on("abc", AP_OLD), on("abc", AP_NEW), copied(b=LONG, c=LONG), "conflict"),
    ("deleted on both sides", on("a", ap(1, MADE, "d")), {}, SERVING, "moot"),
    ("gone, collected since", on("a", AP_OLD), {}, replace(SERVING, floors={"ap": AP_NEW.version}), "conflict"),
    ("written since, at an epoch gone by", on("a", AP_OLD), on("abc", AP_NEW), MOVED, "conflict"),
    ("also if the old one is larger", on("a", ap(2, MADE + 6)), on("abc", AP_NEW), MOVED, "conflict"),
    ("it had that when it wrote over it", on("a", AP_NEW), on("abc", AP_OLD), HERE, "safe"),
    ("it had not surely", on("a", AP_NEW), on("abc", ap(1, MADE + 1)), HERE, "conflict"),
    ("not that origin's", on("a", AP_NEW), on("abc", ap(1, MADE, origin="c")), HERE, "conflict"),
    ("replaced there", on("a", AP_OLD), on("a", ap(1, MADE - 9, replaced=AP_OLD.version)), SERVING, "superseded"),
]


@pytest.mark.parametrize(("case", "old", "there", "serving", "verdict"), AP_TABLE)
def test_ap(case: str, old: dict[str, Held], there: dict[str, Held], serving: Serving, verdict: str) -> None:
    assert judge("ap", old, there, serving).verdict == verdict, case


def test_a_version_that_was_written_anew_is_not_the_one_listed() -> None:
    future, anew = ap(1, MADE + 10**6), ap(1, MADE)
    judged = judge("ap", {"a": replace(anew, replaced=future.version), "b": future}, {}, SERVING)
    assert (judged.verdict, judged.old.version, judged.nodes) == ("safe", anew.version, ("a",))


def test_nodes_that_cannot_be_asked_may_have_acknowledged() -> None:
    assert not judge("cp", on("a", OLD), {}, SERVING).acknowledged
    assert judge("cp", on("a", OLD), {}, SERVING, silent=1).acknowledged


def status(node: str, region: str, epoch: int, state: str, members: int = 1, **more: Any) -> Status:
    return Status(True, guard=Guard(state, region, node, epoch, members, f"inc-{node}"), run_id=f"run-{node}", **more)


WEST = {n: status(n, "west", 2, FENCED) for n in NAMES}
EAST = {n: status(n, "east", 2, MEMBER, 2, copied_ms=5) for n in NAMES}
AWAY = Status(False, "connect")


def planned(own: Any, peers: Any, without: str = "", without_peers: str = "") -> Any:
    return plan(own, peers, "west", frozenset(without), frozenset(without_peers))


def test_plan() -> None:
    found = planned(WEST, EAST)
    assert (set(found.read), found.unread, set(found.voters)) == (set(NAMES), {}, set(NAMES))
    assert (found.serving.region, found.serving.epoch, found.serving.copied_ms) == ("east", 2, dict.fromkeys(NAMES, 5))
    assert set(planned({n: status(n, "west", 1, MEMBER) for n in NAMES}, EAST).read) == set(NAMES)
    unread = planned({**WEST, "b": AWAY, "c": replace(WEST["c"], role="replica")}, EAST).unread
    assert set(unread) == {"b", "c"}
    assert "overwritten" in unread["c"]
    assert planned({**WEST, "b": AWAY}, EAST, without="b").unread == {}


def were(statuses: dict[str, Status], **more: Any) -> dict[str, Status]:
    return {n: replace(s, **more) for n, s in statuses.items()}


OLD_WEST = {n: status(n, "west", 4, FENCED, fenced_from=MEMBER, fenced_epoch=1) for n in NAMES}
AT_4 = {n: status(n, "east", 4, MEMBER, 2, copied_ms=5) for n in NAMES}
TOLD = were(AT_4, promoted_epoch=2)
BARE = status("a", "east", 4, MEMBER, 2)


@pytest.mark.parametrize(
    ("own", "peers", "parted", "copied", "seen"),
    [
        (OLD_WEST, TOLD, 2, "abc", None),
        (OLD_WEST, TOLD | {"a": BARE}, 2, "bc", None),  # emptied and repaired since
        (OLD_WEST, TOLD | {"a": replace(BARE, promoted_epoch=1)}, 1, "bc", None),
        (were(OLD_WEST, promoted_epoch=1, copied_ms=9), TOLD, 2, "abc", None),
        (OLD_WEST, were(TOLD, history=4), 2, "abc", None),  # put back to a moment since
        # Of an older release: it wrote what is above the old region's epoch, and served where it was fenced.
        (OLD_WEST, AT_4, 2, "abc", None),
        (were(OLD_WEST, fenced_epoch=3), AT_4, 4, "abc", None),
        (were(OLD_WEST, fenced_epoch=None), AT_4, 4, "abc", None),
        (were(OLD_WEST, fenced_epoch=2), were(AT_4, fenced_epoch=2), 2, "abc", None),
        (OLD_WEST, were(AT_4, history=4), 2, "", None),  # its heartbeats may be those of an adoption
        # The old region is the one that was promoted last.
        (were(OLD_WEST, promoted_epoch=3, copied_ms=9), TOLD, 3, "abc", "abc"),
        (were(OLD_WEST, promoted_epoch=3), AT_4, 3, "abc", ""),
        ({**OLD_WEST, "b": replace(OLD_WEST["b"], promoted_epoch=3, copied_ms=9)}, TOLD, 3, "abc", "b"),
    ],
)
def test_since_when_the_regions_have_parted(own: Any, peers: Any, parted: int, copied: str, seen: str | None) -> None:
    serving = planned(own, peers).serving
    assert (serving.epoch, serving.parted) == (4, parted)
    assert serving.copied_ms == dict.fromkeys(copied, 5)
    assert serving.seen_ms == (None if seen is None else dict.fromkeys(seen, 9))


@pytest.mark.parametrize(
    ("own", "peers", "words"),
    [
        (WEST, dict.fromkeys(NAMES, AWAY), "no node of PEER_NODES votes"),
        (WEST, {n: status(n, "east", 2, RECOVERING) for n in NAMES}, "no node of PEER_NODES votes"),
        ({n: status(n, "west", 2, MEMBER) for n in NAMES}, EAST, "not the old region"),
        ({n: status(n, "west", 3, FENCED) for n in NAMES}, EAST, "not the old region"),
        (WEST, {**EAST, "c": AWAY}, "--without-peer c"),
        (WEST, {**EAST, "c": status("c", "east", 2, PROMOTED, 1)}, "--without-peer c"),
        (WEST, {**EAST, "c": status("c", "east", 1, MEMBER, 3)}, "--without-peer c"),
        ({n: replace(s, role="replica") for n, s in WEST.items()}, EAST, "overwritten"),
    ],
)
def test_what_is_refused(own: Any, peers: Any, words: str) -> None:
    with pytest.raises(RegionRefused, match=words):
        planned(own, peers)


def test_a_majority_of_the_serving_region_is_needed() -> None:
    assert set(planned(WEST, {**EAST, "c": AWAY}, without_peers="c").voters) == {"a", "b"}
    with pytest.raises(RegionRefused):
        planned(WEST, {**EAST, "b": AWAY, "c": AWAY}, without_peers="bc")


def line(there: Held | None = None, kind: str = "value") -> dict[str, Any]:
    shown = there and {"version": there.version, "kind": "tombstone" if there.kind == "d" else "value"}
    return {"kind": kind, "value": "x" if kind == "value" else None, "there": shown}


@pytest.mark.parametrize(
    ("record", "present", "end"),
    [
        (line(), Present("", None), None),
        (line(DEL_OLDER), Present("", None), None),
        (line(OLDER), Present(OLDER.version, "old"), None),
        (line(NEW), Present(NEW.version, "new"), None),
        (line(OLDER), Present("", None), "changed"),
        (line(), Present(NEW.version, "y"), "changed"),
        (line(OLDER), Present(NEW.version, "y"), "changed"),
        (line(), Present(NEW.version, "x"), "already"),
        (line(OLDER), Present(OLD.version, "x"), "changed"),
        (line(OLDER, "tombstone"), Present(OLDER.version, "old"), None),
        (line(OLDER, "tombstone"), Present("", None), "already"),
        (line(OLDER, "tombstone"), Present(NEW.version, "y"), "changed"),
    ],
)
def test_what_a_replay_does(record: dict[str, Any], present: Present, end: str | None) -> None:
    assert judge_replay(record, present, 2) == end


class Reading(Replay):
    """Of a service whose key holds what the old region wrote, at epoch 2."""

    async def _pace(self) -> None:
        pass

    async def _read(self, _line: dict[str, Any]) -> Present:
        return Present(NEW.version, "x")


@pytest.mark.parametrize(("parted", "end"), [({"parted_epoch": 2}, "already"), ({}, "changed")])
def test_a_replay_knows_since_when_the_regions_have_parted(
    parted: dict[str, int], end: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("holdfast.region_replay.make_access", lambda *_given: None)
    arguments = Namespace(classes=[], key=[], drills=False, ca_file=None, token_file=None, timeout=1, rate=1)
    arguments.resolver = None
    replay = Reading(tmp_path, {"epoch": 3, **parted}, arguments, ())
    assert asyncio.run(replay._one(line())) == end


def test_the_file_is_private_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "lost.jsonl"
    out = LostFile(str(path))
    out.line({"face": "cp", "key": "a\nb\u2028ü", "version": OLD.version, "class": "safe", **line()})
    assert not path.exists(), "it appears under its name when it is whole"
    out.end({"type": "summary", "lines": 1})
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert read_summary(path)["lines"] == 1
    assert [r["key"] for r in read_lines(path)] == ["a\nb\u2028ü"]
    whole = path.read_bytes()
    first, last = whole.splitlines(keepends=True)
    for broken in (first, whole[:-1], whole[:-9], b"", last, first * 2 + last, first[5:] + last, b"{}\n" + last):
        path.write_bytes(broken)
        with pytest.raises(SettingsError, match=r"cut off|lines|damaged"):
            read_summary(path)
    with pytest.raises(SettingsError, match="cannot be written"):
        LostFile(str(tmp_path / "nowhere" / "x"))


def test_a_file_that_was_given_up_leaves_nothing(tmp_path: Path) -> None:
    out = LostFile(str(tmp_path / "x"))
    out.line({})
    out.abandon()
    assert list(tmp_path.iterdir()) == []

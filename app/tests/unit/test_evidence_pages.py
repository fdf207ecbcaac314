"""The pages hold what they must, and nothing that was put into a record to harm; index and metrics over many runs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from drill_files import at, ended, phase, probe, record, verified, write

from holdfast.cli import main
from holdfast.evidence.markup import Html, tag, text
from holdfast.evidence.words import duration, percent

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\u202egnp.exe\x00\ud800"
KNOWN = set(
    re.findall(
        r"\w+",
        """html head meta title style body main a h1 h2 h3 p small section article strong ul li div span details summary
        dl dt dd table caption thead tbody tr th td pre footer svg desc defs pattern rect path line circle text g""",
    )
)


class Page(HTMLParser):
    """Elements, attributes, and the text that is shown."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.shown = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.shown += data

    def check(self) -> None:
        assert self.open == []
        assert set(self.tags) <= KNOWN
        for name, value in self.attributes:
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action", "xlink:href", "style")
            assert name != "href" or re.fullmatch(r"[\w%.-]+/report\.html|\.\./index\.html|probe\.jsonl", value), value


def evil(value: Any) -> Any:
    """Every text and every name in a record turned hostile."""
    if isinstance(value, dict):
        return {
            key if key in KEYS else EVIL + key: evil(part) if key not in KEPT else part for key, part in value.items()
        }
    if isinstance(value, list):
        return [evil(part) for part in value]
    return EVIL + value if isinstance(value, str) else value


KEPT = {"started", "ended", "verdict", "at", "format", "targets", "aims"}
KEYS = set(record()) | {"at", "kind"} | set(phase(1, "x", 1, 2)) | {"task"}


def made(directory: Path, **more: Any) -> Path:
    write(directory, record(**more), verified(ended(probe("cp", "ap")), {"cp": [8, 17]}))
    main(["evidence", "report", str(directory)])
    return directory


def test_a_hostile_record_is_text(tmp_path: Path) -> None:
    of = evil(record(verdict="failed", failed_task="t", aims={"rto_seconds": 3}))
    assert EVIL + "fencing" in of["facts"]
    lines = verified(ended(probe()))
    for line in lines.records:
        if line and line["type"] == "request" and line["outcome"] != "ok":
            line["outcome"] = EVIL
    lines.records[0]["targets"][0]["writer"] = "a-cp"  # type: ignore[index]
    assert main(["evidence", "report", str(write(tmp_path / "d", of, lines))]) == 3
    source = (tmp_path / "d/report.html").read_text()
    page = Page(source)
    page.check()
    assert "<script>alert(1)</script>" in page.shown, "it is shown, as text"
    assert page.shown.count("onerror=alert(1)") >= 12
    assert not set(source) & set("\u202e\x00")


def test_hostile_names_of_directories(tmp_path: Path) -> None:
    names = ["a\"onmouseover='x' b", "<b>", "javascript:alert(1)", "ü 100%#?", "\n# HELP x"]
    for name in names:
        made(tmp_path / name, runbook=EVIL.replace("\ud800", ""))
    write(tmp_path / "<i>broken", "{")
    assert main(["evidence", "index", str(tmp_path)]) == 0
    page = Page((tmp_path / "index.html").read_text())
    page.check()
    assert "<i>broken" in page.shown


def test_the_hostility_would_be_seen() -> None:
    """Control: what is markup already is not escaped, and the check sees it."""
    Page(tag("p", EVIL)).check()
    with pytest.raises(AssertionError):
        Page(tag("p", Html("<img src=x onerror=y>"))).check()
    with pytest.raises(AssertionError):
        Page(tag("a", "x", href="javascript:alert(1)")).check()
    Page(tag("p", "x", data_label='" onload="y')).check()
    assert text("a\x00\u202eb") == "a\ufffd\ufffdb"


def test_what_a_report_shows(tmp_path: Path) -> None:
    made(tmp_path / "d", reason="Why we did it", aims={"rto_seconds": 30})
    source = (tmp_path / "d/report.html").read_text()
    page = Page(source)
    page.check()
    command = "ansible-playbook runbooks/dr_failover.yml -i inventories/lab"
    expected = ["✓ Passed", "Why we did it", "RTO", "6 s", "RPO", "2 s", "15 min", "5 min", "30 s", "5 Switch"]
    expected += ["fencing", "lag.db_s1", command, "fault 10:00:10", "Wait for Switch", "no_quorum 6"]
    for shown in expected:
        assert shown in page.shown, shown
    assert page.shown.index("✓ Passed") < page.shown.index("Measured against targets") < page.shown.index("Phases")
    assert 'class="gap"' in source
    assert 'class="behind"' in source
    assert 'class="lost"' in source
    assert "http" not in re.sub(r"http-equiv", "", source), "it names nothing outside itself"
    assert source.count("<desc") == source.count("timeline wide") + source.count("timeline narrow")


@pytest.mark.parametrize(
    ("drill", "verdict"),
    [(True, "? Failed: not measured"), (False, "✓ Passed")],
)
def test_a_page_without_a_probe(tmp_path: Path, drill: bool, verdict: str) -> None:
    write(tmp_path / "d", record(drill=drill))
    main(["evidence", "report", str(tmp_path / "d")])
    page = Page((tmp_path / "d/report.html").read_text())
    page.check()
    assert verdict in page.shown


def several(root: Path) -> Path:
    made(root / "20260301T100000Z-dr_failover", started=at(1), ended=at(25))
    made(root / "20260302T100000Z-dr_failover", started=at(86400), ended=at(86500), targets={"rto_seconds": 5})
    made(root / "20260303T100000Z-dr_failback", runbook="dr_failback", started=at(2 * 86400), ended=at(2 * 86400 + 50))
    write(root / "20260304T100000Z-rotate", record(runbook="rotate", drill=False, started=at(3 * 86400)))
    write(root / "20260305T100000Z-dr_failback", record(runbook="dr_failback", started=at(4 * 86400), ended=None))
    write(root / "20260306T100000Z-dr_failover", '{"format": 1, "runbo')
    (root / "20260307T100000Z-dr_failover").mkdir()
    (root / ".tmp").mkdir()
    (root / "notes.txt").write_text("x")
    return root


def test_the_index_lists_all_newest_first_also_the_broken(tmp_path: Path) -> None:
    assert main(["evidence", "index", str(several(tmp_path))]) == 0
    source = (tmp_path / "index.html").read_text()
    page = Page(source)
    page.check()
    table = page.shown[page.shown.index("All runs, newest first") :]
    order = ["20260307T100000Z-dr_failover", "20260306T100000Z-dr_failover", "not judged yet", "no drill", "3 Mar 2026",
             "✗ failed", "1 Mar 2026"]  # fmt: skip
    places = [table.index(words) for words in order]
    assert places == sorted(places)
    assert "there is no record.json" in table
    assert "is not whole JSON" in table
    assert "4 drill(s), 2 passed. 1 run(s) that were no drill. 2 directories cannot be read." in page.shown
    assert source.count('class="trend"') == 4, "RTO and RPO of two runbooks"
    assert source.count('class="target"') == 4
    assert source.count("dot-failed") == 2 + 1, "one failed drill, in two pictures; and the style"


def values(lines: str) -> dict[str, float]:
    return {
        name: float(value) for name, value in (r.rsplit(" ", 1) for r in lines.splitlines() if not r.startswith("#"))
    }


def test_metrics_are_of_the_newest_success_and_show_a_newer_failure(tmp_path: Path) -> None:
    out = tmp_path / "drills.prom"
    root = several(tmp_path / "evidence")
    assert main(["evidence", "metrics", str(root), "--out", str(out)]) == 0
    got = values(out.read_text())
    first = 1772359200 + 25  # 2026-03-01T10:00:25Z
    assert got == {
        'holdfast_drill_last_success_timestamp_seconds{runbook="dr_failover"}': first,
        'holdfast_drill_last_success_timestamp_seconds{runbook="dr_failback"}': first + 2 * 86400 + 25,
        'holdfast_drill_rto_seconds{runbook="dr_failover"}': pytest.approx(6.01),
        'holdfast_drill_rto_seconds{runbook="dr_failback"}': pytest.approx(6.01),
        'holdfast_drill_rpo_seconds{runbook="dr_failover"}': pytest.approx(1.99),
        'holdfast_drill_rpo_seconds{runbook="dr_failback"}': pytest.approx(1.99),
        'holdfast_drill_last_run_success{runbook="dr_failover"}': 0,
        'holdfast_drill_last_run_success{runbook="dr_failback"}': 0,
        'holdfast_drill_last_run_timestamp_seconds{runbook="dr_failover"}': first - 25 + 86500,
        'holdfast_drill_last_run_timestamp_seconds{runbook="dr_failback"}': first - 25 + 4 * 86400,
        "holdfast_drill_broken_records": 2,
    }
    assert oct(out.stat().st_mode & 0o777) == "0o644", "the exporter is another user"
    for line in out.read_text().splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{runbook="\w+"\})? [\d.]+', line), line


def test_a_record_that_says_passed_but_was_never_measured_is_no_success(tmp_path: Path, capsys: Any) -> None:
    write(tmp_path / "20260301T100000Z-x", record(rto_seconds=1.0, rpo_seconds=0))
    assert main(["evidence", "metrics", str(tmp_path)]) == 0
    got = values(capsys.readouterr().out)
    assert got['holdfast_drill_last_run_success{runbook="dr_failover"}'] == 0
    assert not any(name.startswith(("holdfast_drill_rto", "holdfast_drill_last_success")) for name in got)


def test_a_runbook_name_cannot_forge_a_metric(tmp_path: Path, capsys: Any) -> None:
    made(tmp_path / "d", runbook='x"} 1\nholdfast_drill_rto_seconds{runbook="y\\')
    capsys.readouterr()
    assert main(["evidence", "metrics", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("holdfast_drill_rto_seconds{") for line in lines) == 1
    assert r'{runbook="x\"} 1\nholdfast_drill_rto_seconds{runbook=\"y\\"}' in "\n".join(lines)


def test_an_empty_root_and_a_missing_one(tmp_path: Path, capsys: Any) -> None:
    assert main(["evidence", "index", str(tmp_path)]) == 0
    assert "None yet." in (tmp_path / "index.html").read_text()
    assert main(["evidence", "metrics", str(tmp_path / "no")]) == 2
    assert "cannot be listed" in capsys.readouterr().err


def test_durations_and_shares() -> None:
    shown = [duration(s) for s in (None, 0, 0.42, 0.999, 1, 12.04, 99.94, 99.96, 125, 900, 3599.6, 3725)]
    assert shown == ["–", "0 s", "0.42 s", "1 s", "1 s", "12 s", "99.9 s", "1 min 40 s", "2 min 5 s", "15 min", "1 h",
                     "1 h 2 min"]  # fmt: skip
    assert [percent(s) for s in (None, 1, 0.999999, 0.5)] == ["–", "100 %", "99.999 %", "50.000 %"]


def test_the_numbers_on_standard_output_are_those_in_the_record(tmp_path: Path, capsys: Any) -> None:
    made(tmp_path / "d")
    said = json.loads(capsys.readouterr().out)
    of = json.loads((tmp_path / "d/record.json").read_text())
    assert {k: of[k] for k in ("verdict", "rto_seconds", "rpo_seconds", "lost_acked_after_fault")} == {
        "verdict": "passed",
        "rto_seconds": said["rto_seconds"],
        "rpo_seconds": said["rpo_seconds"],
        "lost_acked_after_fault": 1,
    }

"""The pages of drills in a real browser without a network: they fit a phone, load nothing, and say what they show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from drill_files import at, ended, probe, record, verified, write

from holdfast.cli import main

PHONE, DESKTOP = 390, 1280
LONG = "x" * 400
#: Elements that end right of the screen, though nothing may; what is only for screen readers is left out.
TOO_WIDE = """[...document.querySelectorAll('body *')].filter(e => {
  const r = e.getBoundingClientRect();
  return r.width > 0 && Math.max(r.right, r.left + e.scrollWidth) > WIDTH + 1 && !e.closest('svg');
}).map(e => e.tagName + '.' + e.className)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drills (passed with losses, failed, not measured), a broken one, and the index. Texts are very long."""
    root = tmp_path_factory.mktemp("evidence")
    facts = {"fencing": {"edge": LONG}, LONG: 1, "<b>html</b>": "<img src=http://192.0.2.1/x>"}
    aims = {"rto_seconds": 30, "rpo_seconds": 1}
    passed = record(facts=facts, reason=LONG, aims=aims, arguments={"why": LONG})
    write(root / "20260301T100000Z-dr_failover", passed, verified(ended(probe("cp", "ap")), {"cp": [8, 17]}))
    late = verified(ended(probe("cp", "ap", seconds=600, gap=(10, 70)), 601))
    write(root / "20260302T100000Z-dr_failover", record(started=at(86400), targets={"rto_seconds": 30}), late)
    write(root / "20260303T100000Z-dr_failover", record(started=at(2 * 86400), runbook=LONG), None)
    codes = [main(["evidence", "report", str(path)]) for path in sorted(root.iterdir())]
    assert codes == [0, 3, 4]
    write(root / f"20260304T100000Z-{LONG[:200]}", "{")
    assert main(["evidence", "index", str(root)]) == 0
    return root


def fits(browser: Browser, width: int) -> None:
    assert browser.ask(TOO_WIDE.replace("WIDTH", str(width))) == []
    assert browser.ask("document.documentElement.scrollWidth") == width
    assert browser.ask("innerWidth") == width, "a phone makes its page wider for what does not fit"


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_report_of_a_drill_that_passed(browser: Browser, root: Path, width: int, dark: bool) -> None:
    page = root / "20260301T100000Z-dr_failover" / "report.html"
    browser.open(page, width, dark)
    fits(browser, width)
    assert browser.requests == [page.as_uri()], "it asks for nothing but itself"
    assert browser.ask("document.querySelector('#verdict').innerText") == "✓ Passed"
    top = browser.ask("document.querySelector('.verdict').getBoundingClientRect().bottom")
    assert top < 844, "the verdict is on the first screen, even under a long reason"
    shown = "[...document.querySelectorAll('svg.timeline')].map(s => Math.round(s.getBoundingClientRect().width))"
    widths = browser.ask(shown)
    assert sorted(w > 0 for w in widths) == [False, True], "one drawing, the one for this width"
    assert max(widths) > 0.8 * min(width, 1000)
    small = "Math.min(...[...document.querySelectorAll('svg.timeline text')].map(t => t.getBoundingClientRect().height)"
    assert browser.ask(f"{small}.filter(h => h > 0))") >= 11, "its words can be read"
    names = browser.names("image")
    assert len(names) == 1
    assert names[0].startswith("Writes per second, 10:00:00 to 10:00:31 UTC")
    text = browser.ask("document.body.innerText")
    for words in ("dr_failover", "RTO", "6 s", "RPO", "2 s", "15 min", "✗ missed", "<b>html</b>", "<img src=http"):
        assert words in text
    back = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (int(back[4:].split(",")[0]) < 64) == dark


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_reports_that_did_not_pass_and_the_index(browser: Browser, root: Path, width: int) -> None:
    for name, verdict in (("20260302T", "✗ Failed"), ("20260303T", "? Failed: not measured")):
        browser.open(next(root.glob(f"{name}*")) / "report.html", width)
        fits(browser, width)
        assert browser.ask("document.querySelector('#verdict').innerText") == verdict
    browser.open(root / "index.html", width)
    fits(browser, width)
    assert browser.requests == [(root / "index.html").as_uri()]
    assert len(browser.names("image")) == 2, "RTO and RPO of the one runbook that was measured"
    assert browser.ask("document.querySelectorAll('table a').length") == 3
    assert browser.ask("[...document.querySelectorAll('.badge')].map(b => b.innerText)") == [
        "! broken",
        "? not measured",
        "✗ failed",
        "✓ passed",
    ]
    browser.follow("table a[href*='20260302T']")
    assert browser.ask("location.pathname").endswith("20260302T100000Z-dr_failover/report.html"), (
        "links work from a file"
    )


def test_the_looks_find_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    """Control: a page that is too wide and asks for a picture; and one whose policy keeps it from asking."""
    page = tmp_path / "x.html"
    head = "<meta name=viewport content='width=device-width, initial-scale=1'>"
    page.write_text(head + f"<p style='white-space:nowrap'>{LONG}</p><img src='http://192.0.2.1/x.png'>")
    browser.open(page, PHONE)
    assert len(browser.requests) == 2
    assert browser.ask(TOO_WIDE.replace("WIDTH", str(PHONE))) != []
    with pytest.raises(AssertionError):
        fits(browser, PHONE)
    write(tmp_path / "d", record(), verified(ended(probe())))
    main(["evidence", "report", str(tmp_path / "d")])
    report = tmp_path / "d" / "report.html"
    report.write_text(report.read_text().replace("<h1>", "<img src='http://192.0.2.1/x.png'><h1>"))
    assert browser.refused == []
    browser.open(report, PHONE)
    assert browser.refused == ["csp"]

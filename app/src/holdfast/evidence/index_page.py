"""index.html: all runs, newest first, and how the numbers of each runbook's drills went. Pure."""

from __future__ import annotations

from urllib.parse import quote

from .drill import PAGE, Drill
from .history import Run
from .markup import Child, Html, join, page, table, tag
from .style import STYLE
from .trend import Point, trend
from .words import count, day, duration, moment

HEAD = ["Run", "Began", "Verdict", "RTO", "RPO", "Lost", "Note"]
TITLE = "Drills and runs"
SIGNS = {"passed": "✓ passed", "failed": "✗ failed", "interrupted": "◼ interrupted"}
MAX_POINTS = 60


def index_page(runs: list[Run], now: float) -> str:
    drills = [run.drill for run in runs if run.drill is not None and run.drill.drill]
    body: list[Child] = [
        tag("h1", TITLE),
        tag("p", _summary(runs, drills), class_="soft"),
        _trends(drills),
        tag("h2", "All runs, newest first"),
        tag("div", table(HEAD, [_row(run) for run in runs], "runs"), class_="panel pad")
        if runs
        else tag("p", "None yet."),
        tag("footer", f"Written {moment(now)} by holdfast evidence index."),
    ]
    return page(TITLE, STYLE, *body)


def _summary(runs: list[Run], drills: list[Drill]) -> str:
    broken = sum(run.drill is None for run in runs)
    passed = sum(drill.shown_verdict == "passed" for drill in drills)
    said = f"{len(drills)} drill(s), {passed} passed."
    if len(runs) - broken - len(drills):
        said += f" {len(runs) - broken - len(drills)} run(s) that were no drill."
    return said + (f" {broken} director{'y' if broken == 1 else 'ies'} cannot be read." if broken else "")


def _row(run: Run) -> list[Child]:
    if run.drill is None:
        return [run.name, day(run.at) if run.at else "–", _badge("broken", "! broken"), "–", "–", "–", run.problem]
    drill = run.drill
    name: Child = drill.runbook
    if run.page:
        name = tag("a", drill.runbook, href=f"{quote(run.name)}/{PAGE}")
    verdict = drill.shown_verdict
    badge = _badge(verdict, SIGNS[verdict])
    if drill.drill and not drill.measured:
        badge = _badge("unmeasured", "? not measured" if drill.judged else "? not judged yet")
    return [
        name,
        day(drill.started),
        badge,
        duration(drill.number("rto_seconds")),
        duration(drill.number("rpo_seconds")),
        _lost(drill),
        "drill" if drill.drill else "no drill",
    ]


def _lost(drill: Drill) -> str:
    before, after = drill.number("lost_acked_writes"), drill.number("lost_acked_after_fault")
    return count(before) + (f" + {count(after)} after the fault" if after else "")


def _badge(class_: str, words: str) -> Html:
    return tag("span", words, class_=f"badge {class_}")


def _trends(drills: list[Drill]) -> Html | None:
    """Of each runbook with a measured drill."""
    by_name: dict[str, list[Drill]] = {}
    for drill in reversed(drills):
        if drill.measured and drill.number("rto_seconds") is not None:
            by_name.setdefault(drill.runbook, []).append(drill)
    drawn = []
    for name, of in sorted(by_name.items()):
        pictures = [_trend(of, "rto_seconds", "RTO"), _trend(of, "rpo_seconds", "RPO")]
        drawn.append(join(tag("h3", name), tag("div", pictures, class_="trends")))
    if not drawn:
        return None
    note = (
        "A dot is a drill that passed, a cross one that failed. Logarithmic; the targets are those of the last drill."
    )
    return join(tag("h2", "How the drills went"), *drawn, tag("p", note, class_="soft"))


def _trend(drills: list[Drill], key: str, name: str) -> Html:
    points = [
        Point(d.started, d.number(key) or 0.0, d.shown_verdict == "passed", moment(d.started))
        for d in drills[-MAX_POINTS:]
    ]
    return tag("div", trend(name, points, drills[-1].targets.get(key), drills[-1].aims.get(key)), class_="panel")

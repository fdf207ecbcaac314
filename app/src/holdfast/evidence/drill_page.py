"""report.html: one run for people. Verdict first, then what clients saw, then what was done. Pure."""

from __future__ import annotations

from typing import Any

from .drill import Drill
from .drill_tables import about, faces, facts, instrument, phases, repeat
from .judge import NAMES, Judgement, met
from .markup import Child, Html, join, page, tag
from .measure import Measurement
from .style import STYLE
from .timeline import pictures
from .words import count, day, duration

MEANING = {
    "rto_seconds": "The longest time the worst-served client was without a write that survived, from the fault on.",
    "rpo_seconds": "The age, at the fault, of the oldest acknowledged write that is missing afterwards.",
    "lost_acked_writes": "Acknowledged before the fault, missing afterwards.",
    "lost_acked_after_fault": "Acknowledged by a side that no longer counted; not part of the RPO.",
    "refused_seconds": "The longest time between two acknowledged writes of one client in which one was refused.",
}
VERDICTS = {
    "passed": ("passed", "✓ Passed"),
    "failed": ("failed", "✗ Failed"),
    "interrupted": ("interrupted", "◼ Interrupted"),
    "unmeasured": ("unmeasured", "? Failed: not measured"),
}


def drill_page(drill: Drill, measurement: Measurement | None, judgement: Judgement) -> str:
    kind = "Drill" if drill.drill else "Run"
    head = f"{drill.runbook}: {kind.lower()} of {day(drill.started)}"
    body: list[Child] = [
        tag("p", tag("a", "All runs", href="../index.html"), class_="soft"),
        tag("h1", head),
        tag("p", drill.text("reason"), class_="soft") if drill.text("reason") else None,
        _verdict(drill, measurement, judgement),
    ]
    if measurement is not None:
        body += [_cards(drill, measurement), _timeline(drill, measurement), faces(measurement)]
    body += [phases(drill), facts(drill), about(drill), repeat(drill)]
    if measurement is not None:
        body += [instrument(measurement), _definitions()]
    return page(head, STYLE, *body)


def _verdict(drill: Drill, measurement: Measurement | None, judgement: Judgement) -> Html:
    shown = judgement.verdict
    if shown == "failed" and measurement is not None and not judgement.measured and drill.run_verdict == "passed":
        shown = "unmeasured"
    class_, words = VERDICTS[shown]
    return tag(
        "section",
        tag("strong", words, id="verdict"),
        tag("ul", [tag("li", reason) for reason in judgement.reasons]) if judgement.reasons else None,
        tag("p", _summary(measurement)),
        class_=f"verdict {class_}",
        aria_labelledby="verdict",
    )


def _summary(measurement: Measurement | None) -> str:
    if measurement is None:
        return "No client measured this run; the verdict is the runbook's own."
    if not measurement.measured:
        return "What the probe left proves nothing: there are no numbers, and a drill without numbers does not pass."
    numbers = measurement.numbers()
    said = f"Clients wrote again after {duration(numbers['rto_seconds'])}"
    if not all(face.recovered for face in measurement.faces):
        said = f"Clients could not write for at least {duration(numbers['rto_seconds'])}"
    lost = int(numbers["lost_acked_writes"] or 0) + int(numbers["lost_acked_after_fault"] or 0)
    written = sum(face.acknowledged for face in measurement.faces)
    loss = "none was lost" if not lost else f"{count(lost)} {'was' if lost == 1 else 'were'} lost"
    after = int(numbers["lost_acked_after_fault"] or 0)
    if after:
        loss += f", {count(after)} of them acknowledged after the fault by a side that no longer counted"
    return f"{said}; of {count(written)} acknowledged writes {loss}."


def _cards(drill: Drill, measurement: Measurement) -> Html | None:
    if not measurement.measured:
        return None
    shown = ["rto_seconds", "rpo_seconds", "lost_acked_writes", "lost_acked_after_fault"]
    if measurement.moment_is != "fault" or drill.fault_kind == "none" or "refused_seconds" in drill.targets:
        shown.append("refused_seconds")
    numbers = measurement.numbers()
    return join(
        tag("h2", "Measured against targets"),
        tag("div", [_card(drill, measurement, key, numbers[key]) for key in shown], class_="cards"),
    )


def _card(drill: Drill, measurement: Measurement, key: str, value: float | None) -> Html:
    def words(number: float | None) -> str:
        return duration(number) if key.endswith("_seconds") else count(number)

    name = NAMES[key]
    target, aim = drill.targets.get(key), drill.aims.get(key)
    open_ = key == "rto_seconds" and not all(face.recovered for face in measurement.faces)
    return tag(
        "article",
        tag("h3", name[0].upper() + name[1:]),
        tag("p", ("at least " if open_ else "") + words(value), class_="big"),
        _bar(value or 0.0, target, aim),
        _limit("Target", words(target), value, target),
        _limit("Aim", words(aim), value, aim),
        tag("p", MEANING[key], class_="soft"),
        class_="card",
    )


def _limit(name: str, words: str, value: float | None, limit: float | None) -> Html | None:
    if limit is None or value is None:
        return None
    good = met(value, limit)
    sign = "✓ met" if good else "✗ missed"
    return tag("p", f"{name}: at most {words} ", tag("span", sign, class_="met" if good else "missed"))


def _bar(value: float, target: float | None, aim: float | None) -> Html | None:
    """How much of the target was used; decoration, the numbers stand beside it."""
    if not target:
        return None
    full = max(target, value)
    good = "met" if met(value, target) else "missed"
    wide = max(value / full * 100, 0.6 if value else 0.0)
    marks = [limit / full * 100 for limit in (target, aim) if limit is not None and limit < full]
    return tag(
        "svg",
        tag("rect", width="100", height="10", class_="track"),
        tag("rect", width=wide, height="10", class_=f"fill-{good}"),
        [tag("rect", x=at, width="0.5", height="10", class_="mark") for at in marks],
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _timeline(drill: Drill, measurement: Measurement) -> Html | None:
    if not any(face.seconds for face in measurement.faces):
        return None
    drawn = pictures(drill, measurement)
    return tag(
        "section",
        tag("h2", "What clients saw"),
        [tag("div", tag("h3", title) if len(drawn) > 1 else None, picture, class_="panel") for title, picture in drawn],
        _legend(measurement),
    )


def _legend(measurement: Measurement) -> Html:
    def swatch(words: str, *drawn: Html) -> Html:
        return tag("li", tag("svg", *drawn, viewBox="0 0 14 14", aria_hidden="true"), words)

    def box(class_: str, **more: Any) -> Html:
        return tag("rect", x="1", y="1", width="12", height="12", class_=class_, **more)

    stripes = tag("path", d="M2 12L12 2M1 6L6 1M8 13L13 8", class_="refused-line")
    items = [
        swatch("accepted writes per second", box("accepted")),
        swatch("not accepted (hatched)", box("refused-back"), stripes),
    ]
    if measurement.measured:
        items += [
            swatch("RTO: no write that survived", box("gap")),
            swatch("RPO: from the oldest lost write to the fault", box("behind")),
            swatch("below the line: lost, by time of acknowledgement", tag("rect", x="5", y="2", width="4", height="10",
                                                                        class_="lost")),
        ]  # fmt: skip
    return tag("ul", items, class_="legend")


def _definitions() -> Html:
    terms = [(NAMES[key], MEANING[key]) for key in MEANING]
    return tag(
        "details",
        tag("summary", "What the numbers mean"),
        tag("dl", [join(tag("dt", name[0].upper() + name[1:]), tag("dd", meaning)) for name, meaning in terms]),
        tag(
            "p",
            "All are computed from the probe's file alone, whose every write was read back afterwards. Times count on "
            "the probe's own clock. A register that was overwritten proves nothing about its earlier writes, so these "
            "neither end an outage nor count as lost.",
            class_="soft",
        ),
    )

"""The picture of a run: accepted and refused writes per second, the runbook's phases, the fault, what was lost. Pure.

Nothing is told by colour alone: refused bars are hatched, gaps and losses carry words, phases their numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .drill import Drill
from .markup import Html, join, tag
from .measure import Face, Measurement
from .words import clock, count, duration

STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
BAND, FLAG, PLOT, STRIP, AXIS = 24.0, 20.0, 112.0, 14.0, 36.0
LETTER = 6.7


@dataclass(frozen=True, slots=True)
class Scale:
    """Seconds since the probe's begin to x."""

    start: float
    end: float
    left: float
    right: float

    def x(self, at: float) -> float:
        share = (min(max(at, self.start), self.end) - self.start) / (self.end - self.start)
        return self.left + share * (self.right - self.left)

    def holds(self, at: float) -> bool:
        return self.start <= at <= self.end


def pictures(drill: Drill, measurement: Measurement) -> list[tuple[str, Html]]:
    """(heading, markup): the whole run and, when the outage is a small part of it, a closer look. Each is drawn twice,
    for wide and for narrow screens; the style sheet shows one."""
    whole = (0.0, max(measurement.length, 1.0))
    ranges = [("The whole run", whole)]
    near = _near(measurement)
    if near is not None and near[1] - near[0] < 0.5 * (whole[1] - whole[0]):
        ranges.append(("A closer look", near))
    return [(title, _both(drill, measurement, part, f"p{i}")) for i, (title, part) in enumerate(ranges)]


def summary(drill: Drill, measurement: Measurement) -> str:
    """The picture in words."""
    said = [f"Accepted and refused writes per second over {duration(measurement.length)}."]
    if measurement.moment is not None:
        said.append(f"The {measurement.moment_is} was at {clock(measurement.began + measurement.moment)} UTC.")
    for face in measurement.faces:
        if measurement.measured:
            said.append(
                f"{face.mode.upper()}: longest time without a surviving write {duration(face.rto_seconds)}, "
                f"{face.lost_before} acknowledged writes lost, {face.lost_after} acknowledged after the fault and lost."
            )
    phases = ", ".join(f"{p.number} {p.title} {duration(p.seconds)}" for p in drill.phases if p.seconds is not None)
    return " ".join(said) + (f" Phases: {phases}." if phases else "")


def _near(measurement: Measurement) -> tuple[float, float] | None:
    if measurement.moment is None:
        return None
    ends = [f.rto.end for f in measurement.faces if f.rto] or [measurement.moment + 10]
    starts = [measurement.moment, *(f.oldest_lost_at for f in measurement.faces if f.oldest_lost_at is not None)]
    margin = max(8.0, 0.4 * (max(ends) - min(starts)))
    return float(max(0, math.floor(min(starts) - margin))), float(
        math.ceil(min(measurement.length, max(ends) + margin))
    )


def _both(drill: Drill, measurement: Measurement, part: tuple[float, float], name: str) -> Html:
    return join(
        _picture(drill, measurement, part, 1000.0, f"{name}w", "wide"),
        _picture(drill, measurement, part, 358.0, f"{name}n", "narrow"),
    )


def _picture(
    drill: Drill, measurement: Measurement, part: tuple[float, float], width: float, name: str, class_: str
) -> Html:
    scale = Scale(part[0], part[1], 34.0, width - 6.0)
    top, body = BAND + FLAG, []
    for face in measurement.faces:
        body.append(_plot(face, measurement, scale, top, name))
        top += 22 + PLOT + STRIP + 8
    return tag(
        "svg",
        tag("title", f"Writes per second, {clock(measurement.began + part[0])} to "
                     f"{clock(measurement.began + part[1])} UTC", id=f"{name}t"),
        tag("desc", summary(drill, measurement), id=f"{name}d"),
        tag("defs", _hatch(f"{name}h")),
        _phases(drill, measurement, scale),
        body,
        _flag(measurement, scale, top),
        _axis(measurement, scale, top),
        viewBox=f"0 0 {width:g} {top + AXIS:g}",
        role="img",
        aria_labelledby=f"{name}t {name}d",
        class_=f"timeline {class_}",
    )  # fmt: skip


def _hatch(name: str) -> Html:
    return tag(
        "pattern",
        tag("rect", width="4", height="4", class_="refused-back"),
        tag("path", d="M0 0V4", class_="refused-line"),
        id=name,
        width="4",
        height="4",
        patternUnits="userSpaceOnUse",
        patternTransform="rotate(45)",
    )


def _phases(drill: Drill, measurement: Measurement, scale: Scale) -> Html:
    drawn = []
    for phase in drill.phases:
        over = drill.ended if phase.ended is None else phase.ended  # a run that was cut off did not end its last one
        if phase.started is None or over is None:
            continue
        start, end = phase.started - measurement.began, over - measurement.began
        if end < scale.start or start > scale.end:
            continue
        x, wide = scale.x(start), max(scale.x(end) - scale.x(start), 1.0)
        full, short = f"{phase.number} {phase.title.split(' ')[0]}", str(phase.number)
        label = full if len(full) * LETTER < wide - 6 else short if len(short) * LETTER < wide - 2 else ""
        drawn.append(
            tag(
                "g",
                tag("title", f"{phase.number} {phase.title}, {duration(phase.seconds)}, {phase.result}"),
                tag("rect", x=x, y=1.0, width=wide, height=BAND - 4, class_=f"phase {_phase_class(phase.result)}"),
                tag("text", label, x=x + wide / 2, y=BAND - 9, class_="phase-name") if label else None,
            )
        )
    return join(*drawn)


def _phase_class(result: str) -> str:
    return result if result in ("ok", "failed", "skipped") else "other"


def _plot(face: Face, measurement: Measurement, scale: Scale, top: float, name: str) -> Html:
    bins, size = _bins(face, scale)
    most = max([n / size for n, *_ in bins.values()] or [1.0])
    high = _nice(most)
    base = top + 22 + PLOT
    per = PLOT / high / size
    step = (scale.right - scale.left) / (scale.end - scale.start) * size
    bar = max(step - (1.0 if step > 4 else 0.3 if step > 1.5 else 0.0), 0.4)
    accepted, refused, lost = [], [], []
    for at, (offered, good, gone) in sorted(bins.items()):
        x = scale.left + (at - scale.start) / size * step
        if good:
            accepted.append(_box(x, base - good * per, bar, good * per))
        if offered > good:
            refused.append(_box(x, base - offered * per, bar, (offered - good) * per))
        if gone:
            lost.append(_box(x, base + 3, max(bar, 2.0), STRIP - 5))
    lines = [tag("line", x1=scale.left, x2=scale.right, y1=y, y2=y, class_="grid") for y in (base - PLOT, base)]
    return join(
        tag("text", _heading(face, measurement), x=scale.left, y=top + 14, class_="face-name"),
        lines,
        tag("text", f"{high:g}/s", x=scale.left - 4, y=base - PLOT + 9, class_="tick end"),
        tag("text", "0", x=scale.left - 4, y=base, class_="tick end"),
        tag("path", d="".join(accepted), class_="accepted"),
        tag("path", d="".join(refused), fill=f"url(#{name}h)", class_="refused"),
        _gap(face, measurement, scale, base),
        _gap_words(face, measurement, scale, base),
        tag("path", d="".join(lost), class_="lost"),
    )


def _heading(face: Face, measurement: Measurement) -> str:
    if not measurement.measured:
        return face.mode.upper()
    lost = face.lost_before + face.lost_after
    return f"{face.mode.upper()} · " + (f"{count(lost)} acknowledged lost" if lost else "nothing acknowledged was lost")


def _bins(face: Face, scale: Scale) -> tuple[dict[float, tuple[int, int, int]], int]:
    """begin -> offered, accepted, lost; and the seconds in one bar. A bar is at least some 3 units wide."""
    most = (scale.right - scale.left) / 3
    size = max(1, math.ceil((scale.end - scale.start) / most))
    bins: dict[float, tuple[int, int, int]] = {}

    def put(second: int, offered: int, good: int, gone: int) -> None:
        if scale.start - size < second < scale.end:
            at = max(scale.start, float(second // size * size)) if size > 1 else float(second)
            if at >= math.floor(scale.start):
                had = bins.get(at, (0, 0, 0))
                bins[at] = (had[0] + offered, had[1] + good, had[2] + gone)

    for second, offered, good, _unsent in face.seconds:
        put(second, offered, good, 0)
    for second, gone in face.lost_at.items():
        put(second, 0, 0, gone)
    return bins, size


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"


def _gap(face: Face, measurement: Measurement, scale: Scale, base: float) -> Html:
    """Shaded: the outage, and how far before the fault the losses reach."""
    if not measurement.measured or measurement.moment is None:
        return Html("")
    drawn = []
    if face.rto is not None:
        x, wide = scale.x(face.rto.start), scale.x(face.rto.end) - scale.x(face.rto.start)
        drawn.append(tag("rect", x=x, y=base - PLOT - 5, width=max(wide, 0.5), height=PLOT + 5, class_="gap"))
    if face.oldest_lost_at is not None:
        x = scale.x(face.oldest_lost_at)
        wide = max(scale.x(measurement.moment) - x, 0.5)
        drawn.append(tag("rect", x=x, y=base - PLOT, width=wide, height=PLOT + STRIP - 2, class_="behind"))
    return join(*drawn)


def _gap_words(face: Face, measurement: Measurement, scale: Scale, base: float) -> Html:
    """Brackets with the numbers."""
    if not measurement.measured or measurement.moment is None:
        return Html("")
    drawn = []
    if face.rto is not None:
        more = "" if not face.rto.open else " at least"
        drawn.append(
            _bracket(scale, face.rto.start, face.rto.end, base - PLOT + 6, f"RTO{more} {duration(face.rto_seconds)}", 1)
        )
    if face.oldest_lost_at is not None:
        words = f"RPO {duration(face.rpo_seconds)}"
        drawn.append(_bracket(scale, face.oldest_lost_at, measurement.moment, base - PLOT + 30, words, -1))
    return join(*drawn)


def _bracket(scale: Scale, start: float, end: float, y: float, words: str, side: int) -> Html:
    """The words stand under the bracket, or beside it (1 right, -1 left) if it is narrower than they are."""
    left, right = scale.x(start), scale.x(end)
    half = len(words) * LETTER / 2 + 6
    middle, drop = (left + right) / 2, 4.0
    if right - left < 2 * half:
        middle, drop = (right + half + 4 if side > 0 else left - half - 4), -8.0
    middle = min(max(middle, scale.left + half), scale.right - half)
    path = f"M{left:.1f} {y - 4:.1f}v8M{left:.1f} {y:.1f}H{right:.1f}M{right:.1f} {y - 4:.1f}v8"
    return join(
        tag("path", d=path, class_="bracket"),
        tag("rect", x=middle - half, y=y + drop, width=2 * half, height=17.0, rx="3", class_="label-back"),
        tag("text", words, x=middle, y=y + drop + 12.5, class_="gap-words"),
    )


def _flag(measurement: Measurement, scale: Scale, bottom: float) -> Html:
    if measurement.moment is None or not scale.holds(measurement.moment):
        return Html("")
    x = scale.x(measurement.moment)
    words = f"{measurement.moment_is} {clock(measurement.began + measurement.moment)}"
    wide = len(words) * LETTER + 14
    right = x + wide <= scale.right
    flag = x if right else x - wide
    return tag(
        "g",
        tag("line", x1=x, x2=x, y1=BAND, y2=bottom, class_="moment"),
        tag("rect", x=flag, y=BAND, width=wide, height=FLAG - 2, rx="2", class_="flag"),
        tag("text", words, x=flag + wide / 2, y=BAND + 13, class_="flag-words"),
    )


def _axis(measurement: Measurement, scale: Scale, top: float) -> Html:
    """Ticks count from the moment, or from the begin of the probe."""
    zero = measurement.moment or 0.0
    room = max(2.0, (scale.right - scale.left) / 62)
    step = next((s for s in STEPS if (scale.end - scale.start) / s <= room), STEPS[-1])
    ticks = []
    for number in range(math.ceil((scale.start - zero) / step), math.floor((scale.end - zero) / step) + 1):
        x = scale.x(zero + number * step)
        sign = "+" if number > 0 else "−" if number < 0 else ""
        place = "end" if x > scale.right - 16 else "middle"
        ticks += [
            tag("line", x1=x, x2=x, y1=top, y2=top + 4, class_="axis"),
            tag("text", f"{sign}{duration(abs(number * step))}", x=x, y=top + 17, class_=f"tick {place}"),
        ]
    since = measurement.moment_is if measurement.moment is not None else "begin of the probe"
    return join(
        tag("line", x1=scale.left, x2=scale.right, y1=top, y2=top, class_="axis"),
        ticks,
        tag("text", f"time since the {since}", x=(scale.left + scale.right) / 2, y=top + 32, class_="tick middle"),
    )


def _nice(most: float) -> float:
    """The smallest round number that is not below."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(n * power for n in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if n * power >= most * 0.999)

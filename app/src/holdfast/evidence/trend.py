"""How one number went over the drills of a runbook: a small picture on a logarithmic scale, with its target. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .markup import Html, join, tag
from .words import date, duration

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340.0, 132.0, 48.0, 10.0, 22.0, 20.0
FLOOR = 0.1  # seconds; 0 is drawn there


@dataclass(frozen=True, slots=True)
class Point:
    """``at``: seconds since 1970."""

    at: float
    value: float
    passed: bool
    label: str


def trend(name: str, points: list[Point], target: float | None, aim: float | None) -> Html:
    """Points in order of time, spaced evenly: drills are rare and their dates stand in the table."""
    limits = [limit for limit in (target, aim) if limit]
    low = math.log10(FLOOR)
    high = math.log10(max([1.0, *limits, *(p.value for p in points)]) * 1.6)

    def y(value: float) -> float:
        share = (math.log10(max(value, FLOOR)) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def x(number: int) -> float:
        room = WIDTH - LEFT - RIGHT - 16
        return LEFT + 8 + (room / 2 if len(points) == 1 else room * number / (len(points) - 1))

    last = points[-1]
    said = f"{name} of {len(points)} drill(s), the last {duration(last.value)}"
    said += f", target {duration(target)}" if target is not None else ""
    places = [(x(i), y(p.value), p) for i, p in enumerate(points)]
    return tag(
        "svg",
        tag("title", said),
        tag("desc", "; ".join(f"{p.label}: {duration(p.value)}" for p in points)),
        tag("text", f"{name}, last {duration(last.value)}", x=LEFT, y=13.0, class_="face-name"),
        _axis(y, high),
        _limit("target", target, y),
        _limit("aim", aim, y),
        tag("path", d="M" + "L".join(f"{px:.1f} {py:.1f}" for px, py, _ in places), class_="trend-line"),
        [_dot(px, py, p) for px, py, p in places],
        _dates(points, x),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        class_="trend",
    )


def _axis(y: Callable[[float], float], high: float) -> Html:
    ticks = []
    for power in range(-1, math.floor(high) + 1):
        value = 10.0**power
        at = y(value)
        words = "0" if power == -1 else f"{value:g} s"
        ticks += [
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"),
            tag("text", words, x=LEFT - 5, y=at + 4, class_="tick end"),
        ]
    return join(*ticks)


def _dates(points: list[Point], x: Callable[[int], float]) -> Html:
    if len(points) == 1:
        return tag("text", date(points[0].at), x=x(0), y=HEIGHT - 4, class_="tick middle")
    first = tag("text", date(points[0].at), x=LEFT, y=HEIGHT - 4, class_="tick")
    return join(first, tag("text", date(points[-1].at), x=WIDTH - RIGHT, y=HEIGHT - 4, class_="tick end"))


def _limit(name: str, limit: float | None, y: Callable[[float], float]) -> Html:
    if limit is None:
        return Html("")
    at = y(limit)
    return join(
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_=name),
        tag("text", f"{name} {duration(limit)}", x=WIDTH - RIGHT, y=at - 3, class_="tick end"),
    )


def _dot(x: float, y: float, point: Point) -> Html:
    """A filled circle passed; a cross did not."""
    title = tag("title", f"{point.label}: {duration(point.value)}, {'passed' if point.passed else 'failed'}")
    if point.passed:
        return tag("circle", title, cx=x, cy=y, r="3.6", class_="dot-passed")
    return tag("path", title, d=f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8", class_="dot-failed")

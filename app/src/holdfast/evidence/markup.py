"""HTML and SVG in which every text is escaped unless it was made here. Pure.

``tag`` is the only way to markup: a plain ``str`` among its children or attributes is text, whatever it holds.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

#: Control characters, lone surrogates, and marks that turn the direction of text and so can make it say another thing.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_VOID = frozenset({"meta", "link", "br", "path", "rect", "line", "circle"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | Iterable[str] | None


def text(raw: str) -> str:
    return html.escape(_HIDDEN.sub("\ufffd", raw), quote=True)


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """``class_`` becomes class, ``aria_label`` aria-label; None and False leave an attribute or a child out."""
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID and not children:
        return Html(f"<{name}{shown}>" if name in ("meta", "link", "br") else f"<{name}{shown}/>")
    return Html(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(text(child))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {name}="{text(str(value))}"'


def table(head: list[str], rows: list[list[Child]], class_: str = "", caption: str = "") -> Html:
    """On a narrow screen each row becomes a card, its cells labelled by the heads; the roles keep it a table."""
    return tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", tag("tr", [tag("th", h, scope="col", role="columnheader") for h in head], role="row"))
        if any(head)
        else None,
        tag("tbody", [_row(head, row) for row in rows]),
        class_=f"rows {class_}".strip(),
        role="table",
    )


def _row(head: list[str], row: list[Child]) -> Html:
    cells = [tag("td", tag("span", cell), data_label=h, role="cell") for h, cell in zip(head, row, strict=True)]
    return tag("tr", cells, role="row")


def page(title: str, style: str, *body: Child) -> str:
    """A whole document that can load nothing: it holds no script, and its policy forbids both."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, "\n", tag("body", tag("main", *body)), lang="en") + "\n"

"""`holdfast repair --confirm`: values that may have been deleted, for a person to look at. Pure: no I/O, no clock.

A value at or below the floor of collection which one node has and another has not: either the other one collected its
tombstone, and the value is from before that, or a majority wrote it that the other one was not in, and this is its last
copy. No rule tells the two apart without a majority of nodes that kept their data. So the value stays, and is named.

Values that a *valid* node has are not in doubt: a member never holds anything older than what was collected (the
invariant of collect.py), so theirs were not.
"""

from __future__ import annotations

from .contract import TOMBSTONE, Query, Reply
from .guard import Guard
from .repair_plan import Ask, Code, Page, Rows, Steps, Stopped
from .tags import NO_TAG

ATTEMPTS = 5


def doubtful(guards: dict[str, Guard], floor: str, kept: frozenset[str]) -> Steps[list[str]]:
    """The keys in doubt, sorted. Before anything is copied; ``kept``: the nodes that were valid, perhaps none."""
    found: set[str] = set()
    for source in guards:
        if floor and source not in kept:
            found |= yield from _on(source, guards, floor, kept)
    return sorted(found)


def _on(source: str, guards: dict[str, Guard], floor: str, kept: frozenset[str]) -> Steps[set[str]]:
    cursor, run_id, failures = "0", "", 0
    found: set[str] = set()
    while failures < ATTEMPTS:
        (page,) = yield [(source, Page(guards[source], cursor))]
        if not isinstance(page, Rows):
            failures += 1
            continue
        if run_id and page.run_id != run_id:  # restarted: the cursor belongs to a process that is gone
            cursor, run_id, failures, found = "0", "", failures + 1, set()
            continue
        doubted = yield from _of_page([k for k, tag in page.rows if tag <= floor], source, guards, floor, kept)
        if doubted is None:
            failures += 1
            continue
        found |= doubted
        run_id, cursor = page.run_id, page.cursor
        if cursor == "0":
            return found
    raise Stopped(Code.UNREACHABLE, f"{source} could not be read to the end; run this again")


def _of_page(
    keys: list[str], source: str, guards: dict[str, Guard], floor: str, kept: frozenset[str]
) -> Steps[set[str] | None]:
    """None: a node did not answer."""
    asked = [(n, key) for key in keys for n in guards]
    if not asked:
        return set()
    told = yield [(n, Ask(guards[n], key, Query(want_value=False, bare=True))) for n, key in asked]
    held: dict[str, dict[str, str]] = {key: {} for key in keys}
    for (node, key), answer in zip(asked, told, strict=True):
        if not isinstance(answer, Reply):
            return None
        held[key][node] = answer.register.tag
    open_ones = [
        key
        for key, tags in held.items()
        if NO_TAG in tags.values()
        and max(tags.values()) == tags[source] <= floor
        and all(tags[n] == NO_TAG for n in kept if n in tags)
    ]
    found: set[str] = set()
    for key in open_ones:  # one at a time: a value may be large
        (answer,) = yield [(source, Ask(guards[source], key, Query(want_value=True)))]
        if not isinstance(answer, Reply):
            return None
        if answer.register.kind != TOMBSTONE and answer.register.tag != NO_TAG:
            found.add(key)
    return found

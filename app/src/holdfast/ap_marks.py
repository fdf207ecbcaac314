"""AP: what a node knows of collections of tombstones, and whether its data is from before one. Pure.

``mark``: the last batch that was announced here. ``done``: the last that removed something here; it was announced on
every node before that (ap_collect.py), so a node whose mark is below another's ``done`` has data of before that batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .hlc import Version


@dataclass(frozen=True, slots=True)
class Marks:
    """``floor``: the largest version a batch has named, '' for none."""

    mark: int = 0
    done: int = 0
    floor: str = ""

    @staticmethod
    def parse(fields: list[bytes]) -> Marks:
        mark, done, floor = (f.decode() for f in fields)
        return Marks(int(mark), int(done), floor)

    def before(self, other: Marks) -> bool:
        """This node's data is from before a collection that the other took part in."""
        return self.mark < other.done


def highest(marks: Iterable[Marks]) -> Marks:
    """Each field's largest."""
    found = list(marks)
    floors = [m.floor for m in found if m.floor]
    return Marks(
        max((m.mark for m in found), default=0),
        max((m.done for m in found), default=0),
        max(floors, key=lambda f: Version.parse(f).order(), default=""),
    )

"""What name servers are to hold, and when a move is refused: the same for every provider, and the only place that decides it."""

from __future__ import annotations

from typing import Any

#: Region and epoch.
Held = tuple[str, int]


class Refused(Exception):
    """Nothing was changed, or all of it was put back. The text is cause and cure."""


class Taken(Refused):
    """The epoch is not above ``held``, which is another move's: only an operator can say that the names shall move all the same."""

    def __init__(self, text: str, held: int) -> None:
        super().__init__(text)
        self.held = held


def next_held(held: Held | None, given: dict[str, Any], holder: str, cure: str) -> Held:
    """What to hold from now on. Raises Refused, Taken.

    ``given``: the module's region, epoch, moves, known_region and known_epoch. For the texts: ``holder``, who holds ``held``,
    and ``cure``, what to do with the region that serves, when two are held under one epoch.
    """
    wanted = given["region"], given["epoch"]
    known = (given["known_region"], given["known_epoch"]) if given["known_region"] else None
    return _move(held, wanted, holder) if given["moves"] else _keep(held, wanted, known, holder, cure)


def _keep(held: Held | None, begin: Held, known: Held | None, holder: str, cure: str) -> Held:
    """When nobody asks for a move. Who was away during one, or is new, takes over what another name server knows."""
    if known is None:
        return held or begin
    if held is None or held[1] < known[1]:
        return known
    if held[1] == known[1] and held[0] != known[0]:
        raise Refused(
            f"{holder.capitalize()} holds region {held[0]} and another name server region {known[0]}, both under epoch {held[1]}. "
            f"Find out which region serves; {cure}"
        )
    return held


def _move(held: Held | None, wanted: Held, holder: str) -> Held:
    """A region is left only for a higher epoch, so that of two operators one is told."""
    _, epoch = wanted
    if held is None:
        raise Refused(f"{holder.capitalize()} holds no region yet. Run playbooks/names.yml first.")
    if held == wanted or epoch > held[1]:
        return wanted
    if epoch < held[1]:
        raise Taken(
            f"Epoch {epoch} is below {held[1]}, which {holder} holds for region {held[0]}: somebody moved the names since. "
            f"Look what happened; to move them again use dns_failover_epoch {held[1] + 1} or higher.",
            held[1],
        )
    raise Taken(
        f"Epoch {epoch} is taken: {holder} holds it for region {held[0]}. Somebody else moved the names at the same time. "
        f"Agree which region is meant, then use dns_failover_epoch {held[1] + 1} or higher.",
        held[1],
    )

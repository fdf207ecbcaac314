"""Reading two regions (region_reader.py) from nodes that are dictionaries: pages, keys shown twice, nodes that fail."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha1
from typing import Any

import pytest
from test_region_compare import EAST, NAMES, WEST, cp, planned, status

from holdfast.region import Status
from holdfast.region_compare import Held
from holdfast.region_compare_command import CompareCommand
from holdfast.region_reader import Comparison, ServingUnread, Unread

Node = dict[bytes, tuple[Held, bytes]]
SLOW = cp(1, 9).version


class Call:
    def __init__(self, what: Any) -> None:
        self._what = what

    def result(self) -> Any:
        if isinstance(self._what, Exception):
            raise self._what
        return self._what


class Nodes:
    """``fails``: node -> how many calls it still answers. Pages of two keys; the first key comes again at the end."""

    def __init__(self, nodes: dict[str, Node], failed: type[Unread] = Unread) -> None:
        self.nodes, self.failed = nodes, failed
        self.fails: dict[str, int] = {}
        self.looked_at = self.in_full = 0

    def _call(self, node: str, what: Any) -> Any:
        if node in self.fails:
            self.fails[node] -= 1
            if self.fails[node] < 0:
                return Call(self.failed(node, "reset"))
        return Call(what)

    def page(self, node: str, cursor: bytes) -> Any:
        keys, at = sorted(self.nodes[node]), int(cursor)
        keys += keys[:1]
        flat: list[bytes] = []
        for key in keys[at : at + 2]:
            held = self.nodes[node][key][0]
            flat += [key, held.version.encode(), held.kind.encode(), b""]
        return self._call(node, [str(at + 2).encode() if at + 2 < len(keys) else b"0", flat])

    def some(self, node: str, keys: list[bytes], expected: str = "") -> Any:
        self.looked_at += len(keys) if expected else 0
        self.in_full += 0 if expected else len(keys)
        flat: list[bytes] = []
        for key in keys:
            held = self.nodes[node].get(key, (Held("", ""), b""))[0]
            flat += [held.version.encode(), held.kind.encode(), b""]
        alike = sha1(b"\n".join(flat[::3]), usedforsecurity=False).hexdigest() == expected
        return self._call(node, [] if alike else flat)

    def plain(self, node: str, _command: str, key: bytes, _version: str, _value: str) -> Any:
        held, value = self.nodes[node][key]
        return self._call(node, [held.version.encode(), value])


def region(**keys: tuple[str, Held, str]) -> dict[str, Node]:
    """key=(nodes, what they hold, value)."""
    made: dict[str, Node] = {n: {} for n in NAMES}
    for key, (nodes, held, value) in keys.items():
        for node in nodes:
            made[node][f"cp:{key}".encode()] = (held, value.encode())
    return made


OLD, LATER, NEW = cp(1, 5), cp(1, 6), cp(2, 5)


def comparison(own: Nodes, peers: Nodes) -> Comparison:
    return Comparison(planned(WEST, EAST), own, peers, 0)  # type: ignore[arg-type]


def lost(compared: Comparison) -> dict[str, tuple[str, bytes, tuple[str, ...]]]:
    found = list(compared.lost())
    assert len({one.key for one in found}) == len(found), "no key twice"
    return {one.key.decode()[3:]: (one.judged.verdict, one.value, one.judged.nodes) for one in found}


def many() -> Nodes:
    kept = {f"kept{i}": ("abc", OLD, "x") for i in range(40)}
    made = region(**kept, a=("abc", OLD, "1"), b=("c", OLD, "2"), c=("bc", OLD, "3"), d=("abc", OLD, "4"))
    made["a"][b"cp:e"], made["b"][b"cp:e"] = (OLD, b"5"), (LATER, b"6")
    return Nodes(made)


def there() -> Nodes:
    kept = {f"kept{i}": ("abc", OLD, "x") for i in range(40)}
    return Nodes(region(**kept, c=("ab", NEW, "new"), d=("ab", NEW, "4"), e=("abc", OLD, "5")), ServingUnread)


def test_each_key_is_judged_once_whoever_has_it() -> None:
    own, peers = many(), there()
    compared = comparison(own, peers)
    assert lost(compared) == {
        "a": ("safe", b"1", ("a", "b", "c")),
        "b": ("safe", b"2", ("c",)),
        "c": ("conflict", b"3", ("b", "c")),
        "e": ("safe", b"6", ("b",)),
    }
    assert compared.counts["moot"]["cp"] == 1, "d was written again with the same value"
    assert compared.unread == {}
    # The serving region is asked for each key once, and once more for the one that SCAN shows twice.
    assert (compared.keys, peers.looked_at) == (46, 46 * 3)
    # And in full only where a page of two keys has one that differs somewhere; not the 40 that are kept.
    assert peers.in_full <= 5 * 2 * 3


def test_nodes_that_agree_with_a_page_count_in_full_where_another_differs() -> None:
    """b and c of the old region say "as expected" of the page that a and the serving region differ in."""
    own = Nodes(region(x=("abc", OLD, "1"), y=("abc", OLD, "2")))
    peers = Nodes(region(x=("abc", OLD, "1"), y=("ab", NEW, "new")), ServingUnread)
    assert lost(comparison(own, peers)) == {"y": ("conflict", b"2", ("a", "b", "c"))}


@pytest.mark.parametrize("calls", [0, 1, 7, 25, 30])
def test_an_old_node_that_fails_is_named_and_the_others_are_read(calls: int) -> None:
    for victim in NAMES:
        own = many()
        own.fails[victim] = calls
        compared = comparison(own, there())
        found = lost(compared)
        assert compared.unread == {victim: "reset"}
        assert found["a"][:2] == ("safe", b"1")
        assert found["c"][:2] == ("conflict", b"3")


@pytest.mark.parametrize("calls", [0, 7])
def test_a_serving_node_that_fails_ends_it(calls: int) -> None:
    peers = there()
    peers.fails["b"] = calls
    with pytest.raises(ServingUnread):
        list(comparison(many(), peers).lost())


def test_an_old_region_that_is_still_written_to_is_not_believed() -> None:
    own = many()
    read = own.plain

    def plain(node: str, command: str, key: bytes, version: str, value: str) -> Any:
        own.nodes[node][key] = (Held(SLOW, "v"), b"later")
        return read(node, command, key, version, value)

    own.plain = plain  # type: ignore[method-assign]
    compared = comparison(own, there())
    assert lost(compared) == {}
    assert "written while it was read" in compared.unread["a"]


class Looked:
    def __init__(self, statuses: Any) -> None:
        self._statuses = statuses

    def ask(self) -> Looked:
        return self

    def wait(self) -> Any:
        return self._statuses


def looked_again(own: Any, peers: Any) -> dict[str, str]:
    unread: dict[str, str] = {}
    command = CompareCommand.__new__(CompareCommand)
    looks: Any = [Looked(own), Looked(peers)]
    command._look_again(looks, WEST, EAST, planned(WEST, EAST), unread)
    return unread


def test_what_became_of_the_nodes_meanwhile() -> None:
    assert looked_again(WEST, EAST) == {}
    assert looked_again({n: replace(s, confirmed="x") for n, s in WEST.items()}, EAST) == {}
    restarted = replace(WEST["b"], run_id="another")
    healed = replace(status("b", "west", 2, "fenced"), guard=replace(WEST["b"].guard, incarnation="new"))  # type: ignore[type-var]
    for now in (Status(False, "connect"), restarted, replace(WEST["b"], role="replica"), healed):
        assert set(looked_again({**WEST, "b": now}, EAST)) == {"b"}
        assert set(looked_again(WEST, {**EAST, "b": now})) == {"b of the other region"}

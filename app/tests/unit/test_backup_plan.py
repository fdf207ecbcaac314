"""The choice of files for a moment, against a model of a node whose rewrites, backups and clock are drawn by a seed.

The model keeps for each file which writes it holds. A plan is right if what its files hold is every write of before the
moment and none of after it; a refusal is right if the history really is not there.
"""

import random
from dataclasses import replace

import pytest

from holdfast.backup import backup_plan, backup_prune, moments
from holdfast.backup.backup_sets import Base, Piece, Set
from holdfast.backup.refusals import Refused

START = 1_777_630_000
WRITE, MARK = 10, 4


class Node:
    """Writes have numbers; ``ran``: when each ran. ``content``: per incremental file, (bytes up to its end, write)."""

    def __init__(self, rng: random.Random, watched: float) -> None:
        self.rng, self.watched, self.now = rng, watched, START + 0.5
        self.ran: list[float] = []
        self.base: str | None = None
        self.base_writes: dict[str, int] = {}
        self.made: dict[str, int] = {}
        self.content: dict[str, list[tuple[int, int]]] = {}
        self.marks: dict[str, list[tuple[int, int]]] = {}
        self.size: dict[str, int] = {}
        self.last_mark, self.count, self.rewriting = 0, 0, 0
        self.listed: list[str] = []
        self._open()
        # The backup's side.
        self.held: set[str] = set()
        self.line, self.lines = "", 0
        self.seen: list[tuple[str, str | None, tuple[str, ...]]] = []
        self.sets: list[Set] = []
        self.copied: dict[tuple[str, str], int] = {}
        self.closed: set[tuple[str, str]] = set()
        self.kept: set[tuple[str, str]] = set()
        self.look()

    def _open(self) -> None:
        self.count += 1
        name = f"a.{self.count}.incr.aof"
        self.listed.append(name)
        self.content[name], self.marks[name], self.size[name] = [], [], 0

    def write(self) -> None:
        name, second = self.listed[-1], int(self.now)
        if second > self.last_mark:
            self.marks[name].append((second, self.size[name]))
            self.size[name] += MARK
            self.last_mark = second
        self.size[name] += WRITE
        self.content[name].append((self.size[name], len(self.ran)))
        self.ran.append(self.now)

    def begin_rewrite(self) -> None:
        if not self.rewriting:
            self._open()
            self.rewriting = self.count
            self.fork = (len(self.ran), int(self.now + self.rng.random() * 0.3))
            self.maybe_look()

    def end_rewrite(self) -> None:
        if self.rewriting:
            if self.rng.random() < 0.8:
                self.base = f"a.{self.rewriting}.base.rdb"
                self.base_writes[self.base], self.made[self.base] = self.fork
                self.listed = [n for n in self.listed if int(n.split(".")[1]) >= self.rewriting]
            self.rewriting = 0
            self.maybe_look()

    def maybe_look(self) -> None:
        if self.rng.random() < self.watched:
            self.look()

    def look(self) -> None:
        """What aof_hold.Hold.take does."""
        files = {*self.listed, *([self.base] if self.base else [])}
        if not files & self.held:
            self.lines += 1
            self.line = f"{moments.stamp(self.now)}-{self.lines:06x}"
            self.held = set()
        self.held |= files
        self.kept |= {(self.line, f) for f in files}
        entry = (self.line, self.base, tuple(self.listed))
        if not self.seen or self.seen[-1] != entry:
            self.seen.append(entry)

    def collect(self) -> None:
        self.look()
        bases, pieces, closed = [], [], []
        known = {b.path for s in self.sets for b in s.bases}
        for line, name in sorted(self.kept):
            if ".base." in name:
                base = Base(line, name, 100, "", self.made[name])
                bases += [base] if base.path not in known else []
                continue
            start, end = self.copied.get((line, name), 0), self.size[name]
            if end > start:
                marks = tuple(m for m in self.marks[name] if start <= m[1] < end)
                pieces.append(Piece(line, name, start, end, "", marks))
                self.copied[line, name] = end
            if (line != self.line or name != self.listed[-1]) and (line, name) not in self.closed:
                closed.append((line, name, end))
                self.closed.add((line, name))
        listing = (self.line, self.base, tuple(self.listed))
        made = Set(
            self.now, "n", listing, self.size[self.listed[-1]], tuple(self.seen), *map(tuple, (bases, pieces, closed))
        )
        self.sets.append(made)
        self.held = {*self.listed, *([self.base] if self.base else [])}
        self.kept = {(self.line, f) for f in self.held}
        self.seen = self.seen[-1:]

    def holds(self, plan: backup_plan.Plan) -> set[int]:
        found = set(range(self.base_writes[plan.base.name])) if plan.base else set()
        for part in plan.parts:
            found |= {w for end, w in self.content[part.incr] if end <= part.take}
        return found


def lived(seed: int, watched: float = 1.0, steps: int = 300) -> Node:
    rng = random.Random(seed)
    node = Node(rng, watched)
    for _ in range(steps):
        node.now += rng.choice([0.001, 0.05, 0.2, 1.1, 4.0])
        rng.choices([node.write, node.begin_rewrite, node.end_rewrite, node.collect], [12, 2, 2, 1])[0]()
    node.now += 1.5
    node.collect()
    return node


def wrong(node: Node, to: int, strict: bool = False) -> str:
    """'' or what is wrong with the plan for ``to``. Raises Refused if there is none. A base that began to be written
    in the second of ``to`` may hold some of that second: within the promise, unless ``strict``."""
    plan = backup_plan.choose(node.sets, to)
    held = node.holds(plan)
    missing = [w for w, ran in enumerate(node.ran) if ran < to and w not in held]
    early = [w for w in held if node.ran[w] >= to + (not strict and plan.base is not None and plan.base.made == to)]
    return f"missing {missing}, too young {early}" if missing or early else ""


@pytest.mark.parametrize("seed", range(25))
def test_with_a_watch_every_moment_can_be_had(seed):
    node = lived(seed)
    for to in range(START + 1, int(node.now) + 1):
        assert wrong(node, to, strict=True) == "", f"seed {seed}, {to}"
    assert len(backup_plan.spans(node.sets)) == 1


def test_without_a_watch_a_moment_is_right_or_refused():
    told = refused = 0
    for seed in range(24):
        node = lived(seed, watched=0.3)
        for to in range(START + 1, int(node.now) + 1):
            try:
                assert wrong(node, to) == "", f"seed {seed}, {to}"
                told += 1
            except Refused as why:
                assert "Z to " in why.cure  # noqa: PT017 - both outcomes are fine, and both must occur
                refused += 1
    assert min(told, refused) > 200


@pytest.mark.parametrize("field", ["pieces", "bases", "closed", "seen"])
def test_what_is_lost_of_a_set_is_missed_and_never_jumped(field):

    differ = 0
    for seed in range(6):
        node = lived(seed, steps=80)
        for number, made in enumerate(node.sets):
            rest = getattr(made, field)[1:]
            if rest == getattr(made, field):
                continue
            node.sets[number] = replace(made, **{field: rest})
            for to in range(START + 1, int(node.now) + 1):
                try:
                    assert wrong(node, to) == ""
                except Refused:
                    differ += 1
            node.sets[number] = made
    assert differ or field in ("bases", "seen")  # an older base, or the next manifest, tells the same


def test_the_model_notices_a_wrong_cut(monkeypatch):
    """Control: with marks one second off, plans are wrong and the model says so."""
    node = lived(3)
    for number, made in enumerate(node.sets):
        later = tuple(replace(p, marks=tuple((s + 1, o) for s, o in p.marks)) for p in made.pieces)
        node.sets[number] = replace(made, pieces=later)
    assert any(wrong(node, to) for to in range(START + 1, int(node.now) - 1))


def test_a_damaged_base_is_replaced_by_an_older_one():
    node = lived(5)
    to = int(node.now) - 2
    plan = backup_plan.choose(node.sets, to)
    assert plan.base is not None
    other = backup_plan.choose(node.sets, to, frozenset({plan.base.path}))
    assert other.base != plan.base
    assert node.holds(other) == node.holds(plan)


def test_the_highest_mark_of_each_piece_is_enough_but_for_the_one_that_is_cut():
    looked: list[Piece] = []
    lost = 0
    for seed in range(6):
        node = lived(seed)
        whole = {p.path: p.marks for s in node.sets for p in s.pieces}
        brief = [
            replace(s, pieces=tuple(replace(p, marks=(max(p.marks),) if p.marks else ()) for p in s.pieces))
            for s in node.sets
        ]

        def marks(piece: Piece, whole: dict = whole) -> tuple:
            looked.append(piece)
            return whole[piece.path]

        for asked, to in enumerate(range(START + 1, int(node.now) + 1), 1):
            plan, other = backup_plan.choose(node.sets, to), backup_plan.choose(brief, to, marks=marks)
            assert plan.told() == other.told()
            assert len(looked) <= asked
            lost += plan.told() != backup_plan.choose(brief, to).told()
        looked.clear()
    assert lost  # control: without the one that is cut


def test_newest_is_all_there_is():
    node = lived(6)
    plan = backup_plan.choose(node.sets, None)
    assert plan.newest
    assert node.holds(plan) == set(range(len(node.ran)))


def test_refusals_name_the_spans():
    node = lived(7)
    for to, where in ((START - 5, "before the first"), (int(node.now) + 5, "after the last")):
        with pytest.raises(Refused, match=where) as refusal:
            backup_plan.choose(node.sets, to)
        assert backup_plan.windows(node.sets) in refusal.value.cure


def test_a_moment_in_doubt_is_refused():

    node = lived(8)
    to = int(node.now) - 2
    node.sets[-1] = replace(node.sets[-1], doubt=(to - 1, to + 1))
    with pytest.raises(Refused, match="cannot be told apart"):
        backup_plan.choose(node.sets, to)
    backup_plan.choose(node.sets, to - 1)


@pytest.mark.parametrize("seed", range(20))
def test_pruning_keeps_what_the_last_hours_need(seed):
    node = lived(seed)
    limit = START + (node.now - START) * 0.6
    before = {to: node.holds(backup_plan.choose(node.sets, to)) for to in range(int(limit) + 1, int(node.now) + 1)}
    count = sum(len(s.pieces) for s in node.sets)
    node.sets = backup_prune.left(node.sets, limit)
    assert sum(len(s.pieces) for s in node.sets) <= count
    for to, held in before.items():
        assert node.holds(backup_plan.choose(node.sets, to)) == held


def test_pruning_keeps_the_word_that_a_file_ended():
    """A set with nothing but that: a rewrite began, and failed long after the limit."""
    node = Node(random.Random(1), 1.0)
    node.write()
    node.collect()
    node.now += 10
    node.begin_rewrite()
    node.collect()
    assert [bool(s.pieces) for s in node.sets] == [True, False]
    limit = node.now + 10
    node.now += 20
    node.write()
    node.collect()
    node.sets = backup_prune.left(node.sets, limit)
    assert node.holds(backup_plan.choose(node.sets, int(node.now))) == {0}
    assert node.holds(backup_plan.choose(node.sets, None)) == {0, 1}


def _line(begins: float, made: int, marks: tuple[tuple[int, int], ...], moment: float) -> Set:
    line = f"{moments.stamp(begins)}-abcdef"
    piece = Piece(line, "i", 0, 1000, "", marks)
    return Set(moment, "n", (line, "b", ("i",)), 1000, (), (Base(line, "b", 1, "", made),), (piece,), ())


def test_a_node_restored_in_place_has_two_histories_and_each_moment_one():
    """The younger line replays marks of before it began: they tell what was restored, not what was then."""
    older = _line(START, START, ((START + 1, 0), (START + 10, 500)), START + 20)
    younger = _line(START + 30, START, ((START + 1, 0), (START + 5, 400), (START + 35, 600)), START + 40)
    sets = [older, younger]
    assert backup_plan.choose(sets, START + 5).line == older.listing[0]
    assert backup_plan.choose(sets, START + 15).parts[0].take == 1000
    assert backup_plan.choose(sets, START + 32).line == younger.listing[0]
    with pytest.raises(Refused):
        backup_plan.choose(sets, START + 25)


def test_a_mark_of_the_future_tells_nothing_once_another_line_began():
    older = _line(START, START, ((START + 1, 0), (START + 500, 500)), START + 20)
    younger = _line(START + 30, START, ((START + 35, 600),), START + 40)
    with pytest.raises(Refused):
        backup_plan.choose([older, younger], START + 100)


def test_pruning_keeps_a_doubt_that_reaches_beyond_the_limit():
    node = lived(9)
    first = node.sets[0]
    limit = node.now - 3
    assert first not in backup_prune.left(node.sets, limit)
    node.sets[0] = replace(first, doubt=(first.moment, limit + 1))
    assert node.sets[0] in backup_prune.left(node.sets, limit)


def test_pruning_takes_something():
    nodes = [lived(seed) for seed in range(20)]
    assert sum(len(n.sets) - len(backup_prune.left(n.sets, n.now - 5)) for n in nodes) > 100

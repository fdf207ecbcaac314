"""What a running probe knows to be acknowledged, and what its readers read next. Pure; memory: 8 bytes a write."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from random import Random

from .records import Layout

RECENT = 64
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """A key to read and the newest write of it that was acknowledged before: sequence number, time, version."""

    key: str
    writer: str
    acked: int
    acked_at: float
    version: str | None = None
    token: str | None = None


class Written:
    """The acknowledged writes of one writer."""

    def __init__(self, layout: Layout, writer: str) -> None:
        self._layout, self.writer = layout, writer
        self._acked_at = array("d", [0.0])
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._registers: dict[int, tuple[int, float, str | None]] = {}
        self._slots: list[int] = []
        self._session: tuple[int, str] | None = None

    def acknowledge(self, seq: int, at: float, version: str | None, token: str | None) -> None:
        missing = seq + 1 - len(self._acked_at)
        if missing > 0:
            self._acked_at.extend([0.0] * missing)
        self._acked_at[seq] = at
        if not self._layout.is_register(seq):
            self._recent.append(seq)
            if token is not None:
                self._session = (seq, token)
            return
        slot = self._layout.slot(seq)
        held = self._registers.get(slot)
        if held is None:
            self._slots.append(slot)
        if held is None or held[0] < seq:
            self._registers[slot] = (seq, at, version)

    @property
    def token(self) -> str | None:
        """The newest session token: goes into the next write, so that the session grows."""
        return self._session[1] if self._session else None

    def session(self) -> Choice | None:
        """The newest write that came with a session token."""
        return self._own(*self._session) if self._session else None

    def register(self, random: Random) -> Choice | None:
        if not self._slots:
            return None
        seq, at, version = self._registers[random.choice(self._slots)]
        return Choice(self._layout.key(self.writer, seq), self.writer, seq, at, version)

    def recent(self, random: Random) -> Choice | None:
        return self._own(random.choice(self._recent)) if self._recent else None

    def any(self, random: Random) -> Choice | None:
        """Some acknowledged write of the whole run with a key of its own."""
        for _ in range(_TRIES):
            seq = random.randrange(len(self._acked_at))
            if self._acked_at[seq] and not self._layout.is_register(seq):
                return self._own(seq)
        return self.recent(random)

    def _own(self, seq: int, token: str | None = None) -> Choice:
        return Choice(self._layout.key(self.writer, seq), self.writer, seq, self._acked_at[seq], token=token)


class Reader:
    """Chooses what one reader reads: registers, new writes, any write, and (with tokens) the session's last write."""

    def __init__(self, written: list[Written], random: Random) -> None:
        self._written, self._random, self._count = written, random, 0

    def next(self) -> Choice | None:
        """None: nothing has been acknowledged yet."""
        self._count += 1
        kind = self._count % 4
        source = self._random.choice(self._written)
        choice: Choice | None = None
        if kind == 3:
            choice = source.session()
        elif kind == 1:
            choice = source.recent(self._random)
        elif kind == 2:
            choice = source.any(self._random)
        if choice is None:
            choice = source.register(self._random) or source.recent(self._random)
        if choice is None and len(self._written) > 1:
            others = (w.recent(self._random) for w in self._written)
            choice = next((c for c in others if c is not None), None)
        return choice

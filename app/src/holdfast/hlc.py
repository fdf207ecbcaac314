"""Hybrid logical clocks and the versions of AP values.

A version is text: ``<region epoch, 8 hex>.<milliseconds, 12 hex><counter, 4 hex>.<origin node>``. It is minted on
the node that executes the write (``lua/ap_write.lua``); this module reads and compares versions.
Order: region epoch, then HLC, then origin by bytes. The HLC follows Kulkarni et al., "Logical Physical Clocks".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = re.compile(r"([0-9a-f]{8})\.([0-9a-f]{12})([0-9a-f]{4})\.([A-Za-z0-9_-]{1,64})")
ZERO = "0" * 16


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an AP value; ``milliseconds`` since the Unix epoch on the origin's hybrid clock."""

    region_epoch: int
    milliseconds: int
    counter: int
    origin: str

    @staticmethod
    def parse(text: str) -> Version:
        """Raises ValueError unless ``text`` is a version."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError(f"not a version: {text!r}")
        return Version(int(match[1], 16), int(match[2], 16), int(match[3], 16), match[4])

    @property
    def hlc(self) -> str:
        return f"{self.milliseconds:012x}{self.counter:04x}"

    def __str__(self) -> str:
        return f"{self.region_epoch:08x}.{self.hlc}.{self.origin}"

    def order(self) -> tuple[int, int, int, bytes]:
        """The sort key of last-writer-wins."""
        return (self.region_epoch, self.milliseconds, self.counter, self.origin.encode())

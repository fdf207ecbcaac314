"""Why a backup command stops: always with the cause and the cure, before anything was changed."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    OK = 0
    USAGE = 2
    NO_ANSWER = 3
    REFUSED = 4
    DAMAGED = 5
    DIFFERS = 6


class Refused(Exception):
    """``cure`` says what to do; ``code`` is the exit code."""

    def __init__(self, cause: str, cure: str, code: Code = Code.REFUSED) -> None:
        super().__init__(f"{cause}. Cure: {cure}")
        self.cause, self.cure, self.code = cause, cure, code


class Damaged(Refused):
    """A file is not what was written once. ``path``: which."""

    def __init__(self, cause: str, cure: str, path: str = "") -> None:
        super().__init__(cause, cure, Code.DAMAGED)
        self.path = path

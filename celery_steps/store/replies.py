"""What the store answers. Plain values: the engine reads them without knowing of Redis."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Entry(NamedTuple):
    """One record of a journal."""

    id: str
    kind: str
    data: bytes


class Claim(NamedTuple):
    """The answer to CLAIM and BORROW.

    `verdict` is OK, or why not: SETTLED, SETTLING, FINISHED, LOST, STALE_MESSAGE, LEASELOST, UNKNOWN, EARLY, HELD.
    """

    verdict: str
    fence: int = 0
    uid: str = ""
    now: int = 0  # Redis time in ms
    crashes: int = 0
    attempts: int = 0
    detail: str = ""  # SETTLED: the state; FINISHED: the outcome's entry id
    wait: int = 0  # SETTLING, EARLY, HELD (of a borrow): ms until it is worth looking again


class Append(IntEnum):
    """The answer to everything that appends to a journal as its owner."""

    OK = 1
    STALE = 0  # the tip moved, or another owns the namespace
    LOST = -1  # the journal is gone
    DONE = 2  # FINISH: another attempt finished the run


class Verdict(NamedTuple):
    """The answer to VERDICT: CELERY, NOTHING, OPEN, or TAKEN with the fence and claim uid under which to finish."""

    verdict: str
    fence: int = 0
    uid: str = ""

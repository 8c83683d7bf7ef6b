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
    cancelled: bool = False  # before it began
    wait: int = 0  # SETTLING, EARLY, HELD (of a borrow): ms until it is worth looking again
    told: str = ""  # how far the body's own log lines and progress are written


class Event(NamedTuple):
    """Something in a namespace's inbox."""

    id: str  # of the inbox; its milliseconds are when it came
    name: str  # "": the end of a child
    data: bytes
    to: str  # "": whoever of the namespace waits first; else one wait of one run
    event_id: str

    @property
    def came_at_ms(self) -> int:
        return int(self.id.partition("-")[0])


class Await(NamedTuple):
    """A wait for an event: the event's name, the wait's own name within its run, and its encoded match."""

    event: str
    wait: str
    match: bytes


class Append(IntEnum):
    """The answer to everything that appends to a journal as its owner."""

    OK = 1
    STALE = 0  # the tip moved, or another owns the namespace
    LOST = -1  # the journal is gone
    DONE = 2  # FINISH: another attempt finished the run
    NEWS = 3  # SUSPEND: something came that the attempt has not read
    SHORT = 4  # COMMIT: written, though Redis is out of memory


class Verdict(NamedTuple):
    """The answer to VERDICT: CELERY, NOTHING, OPEN, or TAKEN with the fence and claim uid under which to finish."""

    verdict: str
    fence: int = 0
    uid: str = ""

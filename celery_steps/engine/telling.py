"""What an attempt tells of its run while it executes: lines of its log, and its progress.

A replay says nothing again: what the body says has a place, and how far the body's words are written is kept with the run.
What a handler says is always new, as a replay calls none.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery_steps.codec import PLAIN, Codec
from celery_steps.errors import StepsError

if TYPE_CHECKING:
    from celery_steps.engine.attempt import Attempt

logger = logging.getLogger("celery_steps")

#: Verbs so far, how often the last one had failed before, and the number of the word since then.
Place = tuple[int, ...]

#: Seconds between two writes of a run's progress.
_PACE = 0.5
#: A value that takes more bytes is kept as the beginning of its repr, which has at most so many characters.
_LARGEST = 10_000
#: Characters of a longer message that are kept.
LONGEST = 10_000


class Telling:
    """One attempt's way to tell. Branches of the body may speak at once."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._lock = threading.RLock()
        self._written: Place = ()
        self._verbs: Place = ()
        self._words = 0
        self._sent = 0
        self._progress: dict[str, Any] | None = None  # not written yet
        self._packed = b""
        self._wrote_at = float("-inf")
        self._failed_at = float("-inf")
        self._open = True

    def carry_on(self, told: str) -> None:
        """How far an earlier attempt's words are written, as the store keeps it."""
        self._written = tuple(int(number) for number in told.partition(" ")[0].split(".") if number)

    def new_word(self) -> bool:
        """The body says something: whether it says it for the first time."""
        attempt = self._attempt
        failures = 0 if attempt.at is None else attempt.journal.started.get(attempt.at, 0)
        if self._verbs != (attempt.verbs, failures):
            self._verbs, self._words = (attempt.verbs, failures), 0
        self._words += 1
        place = (*self._verbs, self._words)
        # Branches become fresh in their own time: what the body says beside them has its place only.
        if place <= self._written and (attempt.in_block or not attempt.fresh):
            return False
        self._written = place
        return True

    def line(self, packed: bytes) -> None:
        """Write a line of the log, and the progress that waits to be written."""
        with self._lock:
            self._send(packed)

    def progress(self, packed: bytes, info: dict[str, Any]) -> None:
        """Write progress, or keep it for a moment: the last value counts."""
        with self._lock:
            self._packed, self._progress = packed, info
            if time.monotonic() - self._wrote_at >= _PACE:
                self._send(b"")

    def leave(self) -> None:
        """The attempt leaves the body: the last word, so that none lies over what Celery stores next."""
        with self._lock:
            if self._progress is not None:
                self._send(b"")
            self._open = False

    def stay(self) -> None:
        """It does not leave after all."""
        self._open = True

    def _send(self, line: bytes) -> None:
        """One round trip. What goes wrong here never fails the run: it is said once, and not tried again before Redis answers."""
        attempt = self._attempt
        if not (self._open and attempt.owner) or self._failed_at > attempt.heard:
            return
        progress, info, self._progress = self._packed if self._progress is not None else b"", self._progress, None
        self._sent += 1
        id, place = f"{attempt.journal.fence}-{self._sent}", ".".join(map(str, self._written))
        interrupt: BaseException | None = None
        while True:
            try:
                owner = attempt.store.tell(id, place, line, progress)
                break
            except StepsError as error:
                self._failed_at, self._progress = attempt.timer.monotonic(), info
                complain(f"What run {attempt.run_id} tells could not be written: {error}")
                owner = False
                break
            except BaseException as error:  # a signal in the middle: once more, so that it is written, and only once
                if interrupt is not None:
                    raise
                interrupt = error
        if owner and info is not None:
            self._wrote_at = time.monotonic()
            attempt.show(info)
        if interrupt is not None:
            raise interrupt


def kept(codec: Codec, data: dict[str, Any]) -> dict[str, Any]:
    """Data as it is kept: what cannot be encoded or is large, as the beginning of its repr."""
    return {name: _kept(codec, value) for name, value in data.items()}


def _kept(codec: Codec, value: Any) -> Any:
    try:
        encoded = codec.encode(value, hint=PLAIN)
        if len(encoded) <= _LARGEST:
            return codec.decode(encoded, hint=PLAIN)  # as others will read it; what the body does to it later is not shown
    except Exception:  # whatever an object of the user's raises
        pass
    return beginning(value)


def beginning(value: Any, most: int = LONGEST) -> str:
    """The first characters of a repr, which may be anybody's."""
    try:
        text = repr(value)
        return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
    except Exception as error:
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"


_complained: set[str] = set()


def complain(text: str, error: BaseException | None = None) -> None:
    """Say what went wrong beside a run; the logger itself may be what is wrong, which is said once."""
    try:
        logger.warning("%s", text, exc_info=error)
    except Exception as error:
        if type(error).__name__ not in _complained:
            _complained.add(type(error).__name__)
            with suppress(Exception):
                print(f"celery_steps: a logging handler raised {error!r}", file=sys.__stderr__)

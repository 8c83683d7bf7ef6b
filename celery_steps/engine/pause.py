"""A run leaves its worker, and comes back later."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_steps.engine import entries as fmt
from celery_steps.engine import news
from celery_steps.errors import AttemptEnded, Suspended
from celery_steps.store.replies import Append, Await

if TYPE_CHECKING:
    from celery_steps.engine.attempt import Attempt


class Pause(NamedTuple):
    """A time for which the run must leave its worker. `about` and `told` say what for; `wake` is in ms by the store's clock."""

    about: str
    wake: int
    told: dict[str, Any]
    status: str = "suspended"


class Pausing(AttemptEnded):
    """A branch must pause: the run leaves when its parallel block joins."""

    def __init__(self, pause: Pause) -> None:
        super().__init__(f"The branch waits for {pause.about}.")
        self.pause = pause


def rest(attempt: Attempt, pause: Pause) -> None:
    """Leave the worker: raises Suspended. In a branch, where others may run, raises Pausing."""
    if attempt.thread != threading.get_ident():
        raise Pausing(pause)
    suspend(attempt, pause.about, pause.wake, pause.told, status=pause.status)


def suspend(
    attempt: Attempt,
    about: str,
    wake: int,
    info: dict[str, Any],
    begins: Sequence[tuple[str, bytes]] = (),
    awaits: Sequence[Await] = (),
    seen: str = "",
    status: str = "suspended",
) -> None:
    """Leave the worker until `wake` (ms by the store's clock): raises Suspended.

    `about` and `info` say what is waited for. `begins` are the entries of what begins here; `awaits` their events, which
    may have come: if there is something in the inbox after `seen`, this returns and nothing is changed.
    """
    attempt.telling.leave()
    if attempt.journal.rollback is None:  # else Celery has stored a final state
        wake = min(wake, attempt.now_ms() + attempt.announce(info, wake - attempt.now_ms()))
    entries = [*begins, ("suspend", fmt.pack_suspend(attempt.run, about, wake))]
    stored = (status, wake)

    def send(before: str, after: str, ids: list[str]) -> Append:
        nonlocal stored
        numbered = [(id, kind, data) for id, (kind, data) in zip(ids, entries, strict=True)]
        stored = (status, wake)
        if status == "paused" and not attempt.journal.paused:  # unpaused while it was leaving: nobody would wake it
            stored = ("suspended", attempt.now_ms())
        delay = max(0, stored[1] - attempt.now_ms())
        return attempt.store.suspend(before, after, numbered, delay=delay, awaits=awaits, seen=seen, status=stored[0])

    if attempt.leave(entries, send) is not Append.NEWS:
        attempt.ended = Suspended(f"The run waits for {about}.")
        news.of_waiting(attempt, *stored, info)
        raise attempt.ended
    attempt.telling.stay()

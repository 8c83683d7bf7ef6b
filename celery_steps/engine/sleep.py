"""`step.sleep` and `step.sleep_until`: the wake time is fixed at the first call, and the store's clock decides."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from celery_steps.codec import PLAIN
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.waiting import Ended, Wait
from celery_steps.store.replies import Event
from celery_steps.times import duration, epoch_ms


class Sleep(Wait):
    """Over when its time has come."""

    verb = "sleep"

    def look(self, now: int, inbox: Sequence[Event]) -> Ended | None:
        return Ended(True, self.attempt.codec.encode(None, hint=PLAIN, **self.where)) if now >= self.deadline else None


class SleepUntil(Sleep):
    verb = "sleep_until"


def sleep(attempt: Attempt, key: str, value: float | timedelta | str) -> Sleep:
    """A wait of that length."""
    seconds = duration(value, f"step.sleep({key!r})'s duration")
    identity = attempt.identify("sleep", key)
    return Sleep(attempt, identity, "", attempt.now_ms() + int(seconds * 1000), {"duration": seconds})


def sleep_until(attempt: Attempt, key: str, at: datetime | str | float) -> SleepUntil:
    """A wait until that time."""
    deadline = epoch_ms(at, f"step.sleep_until({key!r})'s time")
    identity = attempt.identify("sleep_until", key)
    return SleepUntil(attempt, identity, "", deadline, {"until": at if isinstance(at, (str, float, int)) else at.isoformat()})

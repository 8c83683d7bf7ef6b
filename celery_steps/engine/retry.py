"""`retry=`: a step's own retries, counted in the journal over crashes and redeliveries."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from celery_steps.errors import StepsError
from celery_steps.times import duration

Duration = float | timedelta | str


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed step is tried again.

    Args:
        max_retries: so many times after the first try, as in Celery.
        delay: before the first retry: seconds, a timedelta, or text such as "30s".
        backoff: each delay is this many times the one before; 1: all are the same.
        max_delay: no delay is longer.
        jitter: each delay is drawn from its upper half, so that what failed together does not come back together.
        on: exception classes that are retried; `unless`: those of them that are not.

    Raises StepsError for a policy that makes no sense.
    """

    max_retries: int = 3
    delay: Duration = 1.0
    backoff: float = 2.0
    max_delay: Duration = 60.0
    jitter: bool = True
    on: tuple[type[Exception], ...] = (Exception,)
    unless: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise StepsError(f"RetryPolicy's max_retries must be a whole number from 0, not {self.max_retries!r:.80}.")
        if type(self.backoff) not in (int, float) or not 1 <= self.backoff < 1000:
            raise StepsError(f"RetryPolicy's backoff must be a number from 1, not {self.backoff!r:.80}.")
        first, longest = duration(self.delay, "RetryPolicy's delay"), duration(self.max_delay, "RetryPolicy's max_delay")
        if first > longest:
            raise StepsError(f"RetryPolicy's delay ({first:g} s) is longer than its max_delay ({longest:g} s).")
        for name in ("on", "unless"):
            classes = getattr(self, name)
            if not isinstance(classes, tuple) or not all(isinstance(c, type) and issubclass(c, Exception) for c in classes):
                raise StepsError(f"RetryPolicy's {name} must be a tuple of exception classes, not {classes!r:.80}.")

    @classmethod
    def of(cls, value: Any) -> RetryPolicy:
        """What `retry=` says: a policy, or how many retries."""
        if isinstance(value, cls):
            return value
        if type(value) is int:
            return cls(max_retries=value)
        raise StepsError(f"retry must be how many retries, or a RetryPolicy, not {value!r:.80}.")

    def pause(self, tries: int, error: Exception) -> float | None:
        """Seconds until the next try after so many have failed, the last with `error`. None: it is the outcome."""
        if tries > self.max_retries or not isinstance(error, self.on) or isinstance(error, self.unless):
            return None
        longest = duration(self.max_delay, "max_delay")
        # The exponent is cut where any delay has long reached the longest one.
        whole = min(longest, duration(self.delay, "delay") * self.backoff ** min(tries - 1, 300 if self.backoff < 2 else 60))
        return random.uniform(whole / 2, whole) if self.jitter else whole

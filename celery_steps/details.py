"""What receivers of signals, and monitors, are told: plain values that nobody can change."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import datetime, timezone

#: Characters of a message and of a traceback that are kept.
_LONGEST = 10_000
#: What begins here is no date any more (the year 10,000), in ms since 1970.
_NEVER = 253_402_300_800_000


@dataclass(frozen=True, slots=True)
class Problem:
    """An exception, as text.

    `type` is its qualified name, `message` its text, `traceback` as Python prints it.
    """

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Problem:
        """Describe an exception, whatever its own methods raise."""
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        try:
            message = str(error)
        except Exception as trouble:
            message = f"<its text raised {type(trouble).__name__}>"
        try:
            lines = "".join(traceback.format_exception(kind, error, error.__traceback__))
        except Exception:
            lines = ""
        return cls(name, message[:_LONGEST], lines[-_LONGEST:])


@dataclass(frozen=True, slots=True)
class Awaited:
    """One thing that a suspended run waits for.

    `waiting_for` says what in words, as in Celery's state `SUSPENDED`; `until` is its deadline, None: it has none.
    """

    key: str
    waiting_for: str
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDetails:
    """One step of one attempt.

    Attributes:
        task, run_id: the task's name, and the task id.
        namespace: whose journal has the record: the run's, or the one that `step.run(namespace=)` names.
        attempt: the number of the run's attempt, from 1.
        key, sequence: the step's key, and which use of it this is, from 1.
        verb: `run`, `sleep`, `sleep_until`, `wait_for_event`, `emit`, `run_task`, `patched`.
        began_at, took_ms: when the handler, or this attempt's look at a wait, began, and how long that took; of a replayed step,
            when it was executed.
        error: what it failed with, None if it did not.
        recorded: whether this outcome stands: a replay comes to it again. False of a failed try that another may follow.
        next_try: when a failed try is followed by the next, by the step's own `retry=`; else None.
    """

    task: str
    run_id: str
    namespace: str
    attempt: int
    key: str
    sequence: int
    verb: str
    began_at: datetime
    took_ms: int
    error: Problem | None = None
    recorded: bool = True
    next_try: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetails:
    """One run, as one attempt begins or leaves it.

    Attributes:
        task, run_id: the task's name, and the task id.
        namespace: the run's.
        attempt: the number of the attempt, from 1.
        retries: how often Celery has retried the task.
        status: `running`, or as what the run leaves its worker: `suspended`, `retrying`, `paused`, `in_doubt` or `rolling_back`;
            finished it is `succeeded`, `failed`, `cancelled`, or `ignored`, `rejected`, `replaced` where the body ended it so.
        took_ms: how long the attempt had the run.
        waits: what a suspended run waits for.
        until: when a suspended run wakes at the latest, or when the retry begins; None: something must wake it.
        error: why the run has failed, or is retried.
    """

    task: str
    run_id: str
    namespace: str
    attempt: int
    retries: int
    status: str
    took_ms: int = 0
    waits: tuple[Awaited, ...] = ()
    until: datetime | None = None
    error: Problem | None = None


def at(ms: int) -> datetime | None:
    """A time in ms since 1970; None for one that does not come."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc) if 0 < ms < _NEVER else None

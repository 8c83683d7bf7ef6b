"""Everything that this package raises: one root for errors, one for leaving a body.

The first line of a class's docstring is its default message.
"""

from __future__ import annotations


def _first_line(cls: type[BaseException]) -> str:
    # `python -OO` strips docstrings: the class name is better than "None".
    return (cls.__doc__ or cls.__name__).strip().splitlines()[0]


class StepsError(Exception):
    """Something went wrong in celery-steps."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(_first_line(type(self)) if message is None else message)


class InputMismatch(StepsError):
    """A recorded step was called again with another input."""


class StepFailed(StepsError):
    """A step's recorded failure is of an exception class that is not there any more."""


class InDoubt(StepsError):
    """A step was begun at most once, and nobody knows what became of it."""


class NotDone(StepsError):
    """Raised by a `reconcile`: the step in doubt had no effect, its handler may run."""


class ResultError(StepsError):
    """A value cannot be recorded, or a record cannot be read."""


class StepTimeout(StepsError):
    """A step was not over in time."""


class ChildFailed(StepsError):
    """A child task failed.

    Attributes:
        task, task_id: what of it failed.
        error: its exception, also this one's `__cause__`.
    """

    task = ""
    task_id = ""
    error: Exception | None = None

    def __init__(self, message: str | None = None, *, task: str = "", task_id: str = "", error: Exception | None = None) -> None:
        super().__init__(message)
        self.task, self.task_id, self.error = task, task_id, error


class NoActiveRun(StepsError):
    """There is no active run here: call steps inside the body of a DurableTask."""


class JournalLost(StepsError):
    """The run's journal is gone or was rolled back in Redis."""


class TooManyCrashes(StepsError):
    """The run crashed too often in a row without recording anything new."""


class RunRefused(StepsError):
    """The run cannot be begun or changed in its present state."""


class SettingsError(StepsError):
    """A `steps_*` setting is missing or wrong."""


class StoreUnavailable(StepsError):
    """Redis cannot be reached."""


class AttemptEnded(BaseException):
    """The attempt is over: this leaves the body and is never swallowed by `except Exception`."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(_first_line(type(self)) if message is None else message)


class Suspended(AttemptEnded):
    """The run has left the worker and comes back later."""


class RunCancelled(AttemptEnded):
    """The run was cancelled."""


class RollingBack(AttemptEnded):
    """The run is over: what it executed is being undone, and nothing new begins."""


class LeaseLost(AttemptEnded):
    """Another attempt owns the namespace now: this one records nothing more."""


class StoreLost(AttemptEnded):
    """Redis cannot be reached in the middle of a run: the attempt stops, the run carries on later."""

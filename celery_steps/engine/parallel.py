"""A branch of `step.parallel`, and the future that tells what it came to.

Journals name `Dropped` by this module: it has to stay here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from contextvars import Context
from typing import Any, Generic, TypeVar

from celery_steps.engine.entries import Step
from celery_steps.engine.execution import Call
from celery_steps.engine.failure import Failure
from celery_steps.engine.once import recorded_result
from celery_steps.engine.pause import Pausing
from celery_steps.engine.waiting import Wait

R = TypeVar("R")


class Dropped(CancelledError):
    """The branch was given up, as its parallel block was left by an exception."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or "The branch was given up, as its parallel block was left by an exception.")


class Future(Generic[R]):
    """What a branch comes to, as in concurrent.futures. It is known when the block is over; asked before: InvalidStateError."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._over = False  # the branch
        self._joined = False  # the block
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether `result` and `exception` can be asked."""
        return self._over and self._joined

    def cancelled(self) -> bool:
        """Whether the branch was given up: the block was left by an exception."""
        return self.done() and isinstance(self._error, Dropped)

    def result(self, timeout: float | None = None) -> R:
        """The branch's result; its exception is raised. A `timeout` changes nothing: after the block nothing is waited for."""
        error = self._known()
        if error is not None:
            raise error
        value: R = self._value
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The branch's exception, None if it has a result. Raises CancelledError if it was given up."""
        error = self._known()
        if isinstance(error, Dropped):
            raise error
        return error

    def _known(self) -> BaseException | None:
        if not self._joined:
            raise InvalidStateError(f"The branch {self._name} is not over: ask its future after the parallel block.")
        if not self._over:
            raise InvalidStateError(f"The branch {self._name} was still running when its parallel block was left.")
        return self._error


class Branch:
    """One operation of a block."""

    def __init__(self, work: Call | Wait) -> None:
        key, sequence = work.identity
        self.work = work
        self.future: Future[Any] = Future(f"{key!r} (occurrence {sequence})")
        self.context: Context | None = None
        self.failure: Failure | None = None  # not recorded yet
        self.is_recorded = False

    @property
    def is_over(self) -> bool:
        return self.future._over

    @property
    def error(self) -> BaseException | None:
        return self.future._error

    def has_failed(self) -> bool:
        return self.error is not None and not isinstance(self.error, (Dropped, Pausing))

    def settle(self, ask: Callable[[], Any]) -> None:
        """Take what `ask` returns or raises as what this branch came to."""
        try:
            self.future._value = ask()
        except BaseException as error:
            self.future._error = error
        self.future._over = True

    def replay(self, step: Step) -> None:
        self.is_recorded = True
        work = self.work
        if isinstance(work, Call):
            self.settle(lambda: recorded_result(work, step))
        else:
            self.settle(lambda: work.value_of(step))

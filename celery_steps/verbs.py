"""What users call: `self.step`, and `celery_steps.step` for code that has no `self`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

from celery_steps.engine.attempt import active_attempt
from celery_steps.engine.event import emit as _emit
from celery_steps.engine.event import wait_for_event as _wait_for_event
from celery_steps.engine.identity import NO_INPUT
from celery_steps.engine.inspection import inspect_namespace
from celery_steps.engine.once import CurrentStep, current_step, run_step
from celery_steps.engine.retry import RetryPolicy
from celery_steps.engine.sleep import sleep as _sleep
from celery_steps.engine.sleep import sleep_until as _sleep_until
from celery_steps.engine.waiting import wait
from celery_steps.errors import StepsError

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CurrentStep", "RetryPolicy", "Step", "current_step", "step"]

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
_EMPTY: Any = object()


class RunOptions(TypedDict, total=False):
    """Options of `step.run`; it says what they mean."""

    namespace: str
    returns: Any
    retry: int | RetryPolicy | None
    timeout: float | timedelta | str | None
    at_most_once: bool
    reconcile: Callable[[Any, str], Any] | None
    rollback: Callable[[Any], Any] | None
    record_input: bool
    on_input_change: Literal["raise", "warn"]


class Step:
    """The steps of the run whose body is executing. Outside a run every verb raises NoActiveRun."""

    @overload
    def run(self, key: str, handler: Callable[[], Awaitable[R]], /, **options: Unpack[RunOptions]) -> R: ...
    @overload
    def run(self, key: str, handler: Callable[[], R], /, **options: Unpack[RunOptions]) -> R: ...
    @overload
    def run(self, key: str, input: I, handler: Callable[[I], Awaitable[R]], /, **options: Unpack[RunOptions]) -> R: ...
    @overload
    def run(self, key: str, input: I, handler: Callable[[I], R], /, **options: Unpack[RunOptions]) -> R: ...
    @overload
    def run(self, key: str, input: Any, handler: Callable[[], R], /, **options: Unpack[RunOptions]) -> R: ...

    def run(self, key: str, /, *arguments: Any, **options: Any) -> Any:
        """Call `handler` once, ever, for this step of this run, and return its result.

        `step.run(key, handler)` or `step.run(key, input, handler)`.

        The first time, the handler is called and its result recorded; afterwards the recorded result is returned and nothing is
        called. Between a handler's effect and the record lies a window in which a crash repeats it: hand
        `current_step().idempotency_key` to the service that it calls.

        Args:
            key: the step's name. The nth use of a key in an attempt is its nth occurrence.
            input: hashed, and recorded unless `record_input=False`. On replay another input raises InputMismatch.
            handler: called with the input, if there is one. An async handler is awaited. A functools.partial without input has
                its bound arguments as input.
            namespace: record this one step in another namespace's journal.
            returns: the class to rebuild the result as; by default the handler's return annotation.
            retry: how often the step itself is tried again, or a RetryPolicy; counted over crashes, long pauses free the worker.
                Exhausted, the last error is the outcome.
            timeout: seconds, a timedelta or text: after that the handler is given up, not stopped, and StepTimeout raised.
            at_most_once: an intent is recorded before the handler is called, so that no crash leads to a second call: the run
                waits in doubt until somebody resolves it.
            reconcile: asked instead, with the input and the idempotency key: returns the result, or raises NotDone.
            rollback: called with the result if the run ends failed or cancelled: newest step first, each recorded and retried.
            record_input: keep the input with the record (default: the setting steps_record_input).
            on_input_change: "raise", or "warn" to keep the recorded result.

        Returns:
            The recorded result; equal in value and type on every attempt.

        Raises:
            InputMismatch: the step was recorded with another input.
            ResultError: the result cannot be recorded; the message names the path.
            StepFailed: a failure was recorded whose class is not there any more.
            NoActiveRun: there is no run here.

        An exception of the handler propagates unchanged, and the step runs again on the next attempt; if the body catches it and
        goes on, it is the step's recorded outcome.
        """
        if len(arguments) == 1:
            return run_step(active_attempt(), key, NO_INPUT, arguments[0], options)
        if len(arguments) == 2:
            return run_step(active_attempt(), key, arguments[0], arguments[1], options)
        raise StepsError(f"step.run takes a key, an optional input and a handler, not {len(arguments) + 1} arguments.")

    def sleep(self, key: str, duration: float | timedelta | str) -> None:
        """Wait without a worker for seconds, a timedelta, or text such as "1h30m".

        The wake time is fixed at the first call and recorded; the store's clock decides. Rests below a second may stay in the
        worker. Raises StepsError for a duration that is negative or cannot be read.
        """
        wait(_sleep(active_attempt(), key, duration))

    def sleep_until(self, key: str, at: datetime | str | float) -> None:
        """Wait without a worker until an aware datetime, ISO 8601 text with an offset, or seconds since 1970.

        Returns at once if that is past. Raises StepsError for a naive datetime and what cannot be read.
        """
        wait(_sleep_until(active_attempt(), key, at))

    def wait_for_event(
        self,
        key: str,
        event: str | None = None,
        timeout: float | timedelta | str | None = None,
        until: datetime | str | float | None = None,
        match: Mapping[str, Any] | None = None,
    ) -> Any:
        """Wait without a worker for an event.

        Args:
            event: its name, by default the key.
            timeout: seconds, a timedelta, or text; `until`: a point in time. Neither: for ever. The first one recorded holds.
            match: what the event's data must equal, name by name at the top level.

        Returns the event's data, which is recorded; None at the deadline. An event that was sent to this namespace before is
        taken; a broadcast reaches the run only while it waits. What came before the deadline counts, whenever the run looks.
        """
        return wait(_wait_for_event(active_attempt(), key, event, timeout, until, match))

    def emit(self, key: str, event: str, data: Any = _EMPTY, to: str | None = None, app: str | None = None) -> int:
        """Send an event, durably: recorded like a step, and counted once however often a crash repeats it.

        Args:
            event: its name; `data`: anything that a step may return, but None.
            to: a namespace, which keeps the event until one of its runs waits for it. Without: everyone waiting for it now.
            app: start only tasks of the Celery app with this name; tasks subscribe with `triggers=("name",)`.

        Returns how many waits and tasks it reached.
        """
        return _emit(active_attempt(), key, event, {} if data is _EMPTY else data, to, app)

    @property
    def cancelled(self) -> bool:
        """Whether a cancel of this run has been asked for, also inside a handler, which may end early then.

        Known from the last commit, and from the heartbeat a third of a lease later at the latest. No command of its own.
        """
        return active_attempt().is_cancelled()

    def inspect(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """The completed records of this run's namespace, or of another: no command for one's own, one round trip for another.

        Returns a list in the order of the journal, each with `event_id`, `namespace`, `key`, `sequence`,
        `deterministic_inputs_hash`, `result`, `occurred_at_ms`, `error` (None unless the recorded outcome is a failure), `input`.
        """
        attempt = active_attempt()
        attempt.enter("inspect")
        return inspect_namespace(attempt, namespace)


#: The current run's step object for code that has no `self`.
step = Step()

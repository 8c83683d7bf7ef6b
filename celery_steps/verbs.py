"""What users call: `self.step`, and `celery_steps.step` for code that has no `self`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery_steps.engine.attempt import active_attempt
from celery_steps.engine.block import Block
from celery_steps.engine.child import run_task as _run_task
from celery_steps.engine.event import emit as _emit
from celery_steps.engine.event import wait_for_event as _wait_for_event
from celery_steps.engine.execution import CurrentStep, current_step
from celery_steps.engine.identity import NO_INPUT
from celery_steps.engine.inspection import inspect_namespace
from celery_steps.engine.log import log as _log
from celery_steps.engine.once import run_step
from celery_steps.engine.patched import patched as _patched
from celery_steps.engine.progress import progress as _progress
from celery_steps.engine.retry import RetryPolicy
from celery_steps.engine.sleep import sleep as _sleep
from celery_steps.engine.sleep import sleep_until as _sleep_until
from celery_steps.engine.waiting import wait
from celery_steps.errors import StepsError
from celery_steps.parallel import BranchOptions, Parallel

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CurrentStep", "RetryPolicy", "Step", "current_step", "step"]

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
_EMPTY: Any = object()


class RunOptions(BranchOptions, total=False):
    """Options of `step.run`; it says what they mean."""

    namespace: str


class Log:
    """`step.log`: lines that are kept with the run, about the last 10,000 of a namespace, and go to Python logging at once.

    In Python logging they come from the logger "celery_steps.run", with the data behind the message and `run_id`, `namespace`,
    `attempt`, `key`, `sequence` and `data` as attributes of the log record. From outside they are read by `Runs.logs`.

    A replay does not repeat what the body has said; what a handler says is always kept, with its step. A line is no step: it can
    be said inside handlers, and a caught exception that is raised again after it is still on its way. But it is durable, so in
    the body it begins the run as a step does. Data may be anything: what cannot be recorded, or takes more than 10,000 bytes, is
    kept as the beginning of its repr. When Redis cannot be reached, or another attempt owns the run by now, the line goes to
    Python logging only. Raises StepsError for a message that is not text.
    """

    def debug(self, message: str, /, **data: Any) -> None:
        _log(active_attempt(), "debug", message, data)

    def info(self, message: str, /, **data: Any) -> None:
        _log(active_attempt(), "info", message, data)

    def warning(self, message: str, /, **data: Any) -> None:
        _log(active_attempt(), "warning", message, data)

    def error(self, message: str, /, **data: Any) -> None:
        _log(active_attempt(), "error", message, data)


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

    @property
    def log(self) -> Log:
        """Durable lines: `step.log.info("charged", cents=100)`; also `debug`, `warning` and `error`."""
        return _the_log

    def progress(self, current: float, total: float | None = None, message: str | None = None, **data: Any) -> None:
        """Say how far the run is: the last value is kept with it, and is the `info` of the Celery state PROGRESS.

        At most two values a second are written: one that comes sooner is written with the next value or log line, or when the
        attempt leaves. Silent on replay, and allowed inside handlers; in the body it begins the run, as `log` does.

        Args:
            current, total: finite numbers of any unit; `total` may be unknown.
            message: text for people. `data`: more for programs, kept as that of `log` is.

        Raises StepsError for anything else.
        """
        _progress(active_attempt(), current, total, message, data)

    @property
    def run_id(self) -> str:
        """The run's Celery task id."""
        return active_attempt().run_id

    @property
    def namespace(self) -> str:
        """The namespace whose journal the run writes."""
        return active_attempt().namespace

    @property
    def attempt(self) -> int:
        """Which of the run's attempts this is, from 1; also before the first verb of a first delivery, which asks nothing."""
        return active_attempt().number

    @property
    def resumed(self) -> bool:
        """Whether the run had an attempt before this one."""
        return active_attempt().number > 1

    @property
    def replaying(self) -> bool:
        """Whether outcomes are recorded that this attempt has not met yet; False from its first verb that is new."""
        return active_attempt().replaying

    def run_task(
        self,
        key: str,
        task: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | timedelta | str | None = None,
        returns: Any = None,
        **options: Any,
    ) -> Any:
        """Send another task, wait without a worker until it has ended, and return its result, which is recorded.

        Args:
            task: a task, its registered name, a signature or any canvas. A name that is registered elsewhere needs `queue=`.
            args, kwargs: of the call; a signature's own come after them, as for apply_async.
            timeout: seconds, timedelta or text such as "2h", from the first call. After that the child is cancelled.
            returns: the class to rebuild the result as, where Celery's serializer brings an object of it.
            options: as for apply_async (queue, priority, countdown, headers, link …), and `namespace` for a durable child.

        Returns:
            The child's result; of a group a list, of a chain or a chord what its last task returned.

        Raises:
            ChildFailed: the child, or a task of it, failed or was revoked; `error` is its exception.
            StepTimeout: it had not ended in time.
            StepsError: it cannot be sent; SettingsError: its result could not be read. Nothing is recorded or sent then.
            ResultError: its result cannot be recorded.

        The child's id is made of this step, and it is sent again with that id when it seems lost: a durable child runs once,
        another may run twice, as in Celery.
        """
        return wait(_run_task(active_attempt(), key, task, args, kwargs, timeout, returns, options))

    def parallel(self, max_workers: int = 8, return_exceptions: bool = False) -> Parallel:
        """Branches that go on side by side: `with step.parallel() as p:`, then `p.run(...)` and the other calls of `Parallel`.

        The end of the block joins: handlers are waited for in the worker, then sleeps, events and child tasks without one, all
        together. After it the futures that the calls returned are known; before, they raise InvalidStateError. Inside the block
        no verb but those of the block can be called.

        Args:
            max_workers: how many handlers of the block run at once.
            return_exceptions: let all branches finish; a failure is recorded as what its branch came to, and its future has it.

        If a branch fails, no handler is started any more and those running end and are recorded; waits are given up and child
        tasks cancelled. Then the first failure in the order of the calls is raised: what the body does with it counts as for
        `step.run`, and what was given up raises CancelledError from its future. When the run is retried, all of the block that
        has no result is tried again. An exception raised inside the block gives up the other branches as well.

        A soft time limit is raised at once: handlers that still run are not stopped, and recorded if they end while this attempt
        still owns the run.
        """
        return Parallel(Block(active_attempt(), max_workers, return_exceptions))

    def patched(self, name: str) -> bool:
        """Whether this run began with the code that has this change: True for new runs, False for those that were under way.

        The answer is recorded when it is asked for first, so it holds for the run: `if self.step.patched("fraud check"): ...`.
        Take it out again when `Runs.list` has no run left from before.
        """
        return _patched(active_attempt(), name)

    def inspect(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """The completed records of this run's namespace, or of another: no command for one's own, one round trip for another.

        Returns a list in the order of the journal, each with `event_id`, `namespace`, `key`, `sequence`,
        `deterministic_inputs_hash`, `result`, `occurred_at_ms`, `error` (None unless the recorded outcome is a failure), `input`,
        `verb` (run, sleep, wait_for_event, ...).
        """
        attempt = active_attempt()
        attempt.enter("inspect")
        return inspect_namespace(attempt, namespace)


_the_log = Log()
#: The current run's step object for code that has no `self`.
step = Step()

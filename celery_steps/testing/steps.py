"""Durable tasks run in this process, at virtual time: what the fixture `steps` is."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from celery import Celery
from celery.canvas import Signature

from celery_steps.engine.event import check_data, check_event
from celery_steps.engine.identity import check_key
from celery_steps.errors import StepsError
from celery_steps.runs import Runs
from celery_steps.testing import crashes
from celery_steps.testing.crashes import Report
from celery_steps.testing.handle import Handle
from celery_steps.testing.world import World
from celery_steps.times import duration
from celery_steps.worker import canvas


class Steps(World):
    """Runs durable tasks in this process. Their app's store, result backend and broker are in memory, and they do not know it.

    Time stands still until it is advanced. Children run here too, durable or not, if their task belongs to an app that is in use:
    the apps of the tasks that were started, and those given to `use`.
    """

    # -- running ----------------------------------------------------------------------------------------------------

    def start(self, task: Any, *args: Any, **kwargs: Any) -> Handle:
        """Send a durable task, and execute what is due now: no time passes. `task` is a task, or a signature with options.

        Returns its run. StepsError if the task is not durable.
        """
        signature = self._signature(task, args, kwargs)
        app = signature.app
        self.use(app)
        result = signature.apply_async()
        handle = Handle(self, app, self.sent[result.id])
        self._since = self.deliveries
        self.work()
        return handle

    def run(self, task: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a durable task to its end; time passes as it needs it. Returns its result, raises its failure.

        StepsError if it waits for ever: it says for what.
        """
        handle = self.start(task, *args, **kwargs)
        handle.finish()
        return handle.result

    def advance(self, time: float | timedelta | str) -> None:
        """Let time pass: seconds, a timedelta or text such as "1h30m". What falls due meanwhile is executed at its time."""
        if self._working:
            raise StepsError("advance inside a task: it would have to wait for itself. Advance time from the test.")
        seconds = time.total_seconds() if isinstance(time, timedelta) else time
        if isinstance(seconds, (int, float)) and seconds < 0:
            raise StepsError(f"advance: time goes forward only, not by {time!r}.")
        until = self.clock.now_ms + round(duration(time, "advance") * 1000)
        self.pass_until(lambda: False, until)
        self.clock.now_ms = until
        self._renew()
        self.work()

    # -- from outside -----------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time here, in UTC."""
        return datetime.fromtimestamp(self.clock.now_ms / 1000, timezone.utc)

    def stub(self, key: str, value: Any, *, run_id: str = "") -> None:
        """Put something in the place of a step's handler, in every run: its result; an exception, which is raised; or a callable.

        A callable is called as the handler would be: with the step's input, if it has one.
        """
        check_key(key)
        self._stubs[run_id, key] = value

    def answer(self, event: str, data: Any) -> None:
        """Whenever a run waits for this event and nothing else is due, it gets this."""
        check_event(event, "answer")
        check_data(data, "answer")
        self._answers[event] = data

    def emit(self, event: str, data: Any, *, to: str | None = None, id: str | None = None) -> int:
        """As `Runs.emit`, from outside; what it wakes or starts is executed. Returns how many waits and tasks it reached."""
        if not self._sandboxes:
            raise StepsError("emit before anything was started: name the app first, with steps.use(app).")
        reached = self.runs().emit(event, data, to=to, id=id)
        self.work()
        return reached

    def runs(self, app: Celery | None = None) -> Runs:
        """`Runs` of an app in use, by default the first. After what it changes, `work` executes what is due."""
        if app is None:
            if not self._sandboxes:
                raise StepsError("No app is in use: start a task, or name the app with steps.use(app).")
            app = next(iter(self._sandboxes.values())).app
        return Runs(app)

    def crash_everywhere(self, task: Any, *args: Any, **kwargs: Any) -> Report:
        """Run a task again and again, each time with one crash or one duplicate delivery, at every boundary there is.

        Stubs and answers are those given here; each time begins with an empty store. Returns what was done; AssertionError where
        the outcome is not that of the undisturbed run: it says after what, and how they differ.
        """
        signature = self._signature(task, args, kwargs)

        def again() -> Steps:
            other = Steps(*(sandbox.app for sandbox in self._sandboxes.values()), start=self.clock.start_ms / 1000)
            other._stubs, other._answers = dict(self._stubs), dict(self._answers)
            return other

        return crashes.crash_everywhere(again, signature)

    # -- the machinery ----------------------------------------------------------------------------------------------

    def _signature(self, task: Any, args: Any, kwargs: Any) -> Signature:
        if isinstance(task, Signature):
            signature, name = task.clone(args, kwargs), task.task
            task = signature.app.tasks.get(name)
        elif hasattr(task, "s") and hasattr(task, "app"):
            signature, name = task.s(*args, **kwargs), task.name
        else:
            raise StepsError(f"{task!r:.80} is no task: give a task of a base DurableTask, or a signature of one.")
        if task is None or not canvas.is_durable(task):
            raise StepsError(f"The task {name!r} is not durable: give it base=DurableTask, or call it directly in the test.")
        return signature


def crash_everywhere(task: Any, *args: Any, **kwargs: Any) -> Report:
    """`Steps.crash_everywhere`, for a task that needs neither stubs nor events from outside."""
    with Steps() as steps:
        return steps.crash_everywhere(task, *args, **kwargs)

"""A run that the testing kit started: looked at, waited for, and acted on."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery import Celery, states
from celery.result import AsyncResult

from celery_steps.errors import RunRefused, StepsError
from celery_steps.lookup import Lookup
from celery_steps.past import Line, Record, Run, Waiting
from celery_steps.store.keys import FINAL
from celery_steps.testing.delivery import Message

if TYPE_CHECKING:
    from celery_steps.testing.steps import Steps

#: What Celery's state says of a task that called no step, and so left no trace.
_STATUS = {states.SUCCESS: "succeeded", states.FAILURE: "failed", states.REVOKED: "cancelled", states.RETRY: "retrying"}


class Handle:
    """One run. What it says is as of the moment when it is asked."""

    def __init__(self, steps: Steps, app: Celery, message: Message) -> None:
        self._steps = steps
        self._app = app
        self._task = message.task
        self.id = message.id

    def __repr__(self) -> str:
        return f"<run {self.id} of {self._task}: {self.status}>"

    # -- looking ----------------------------------------------------------------------------------------------------

    @property
    def run(self) -> Run | None:
        """As `Runs.get` has it; None while it has called no step."""
        try:
            return self._steps.runs(self._app).get(self.id)
        except RunRefused:
            return None

    @property
    def namespace(self) -> str:
        run = self.run
        return self.id if run is None else run.namespace

    @property
    def status(self) -> str:
        """As in `Runs`: suspended, retrying, succeeded, …; "queued" while nobody has begun it."""
        lookup = Lookup(self._app)
        namespace, ids = lookup.find(self.id)  # not its run: that would read its journal
        found = lookup.store.status(namespace, max(ids, key=lambda id: id.nesting)) if ids else None
        return found or _STATUS.get(self.state, "queued")

    @property
    def state(self) -> str:
        """Celery's state of the task; of one whose result nobody wants stored, what it would be."""
        stored = str(self._result.state)
        return self._steps.states.get(self.id, stored) if stored == states.PENDING else stored

    @property
    def finished(self) -> bool:
        return self.status in FINAL

    @property
    def result(self) -> Any:
        """What the task returned. Raises its failure; StepsError while it is not over, which says what it waits for."""
        self._check_over()
        if self.status == "cancelled":
            raise StepsError(f"Run {self.id} of {self._task} was cancelled: it has no result.")
        error = self.error
        if error is not None:
            raise error
        return self._result.result  # None where it was not stored: get() would wait for it

    @property
    def error(self) -> BaseException | None:
        """What the task raised, None if it did not fail. StepsError while it is not over."""
        self._check_over()
        if self.status != "failed":
            return None
        found, run = self._result.result, self.run
        if not isinstance(found, BaseException):  # not stored: the journal has it
            found = None if run is None else run.error
        return found or StepsError(f"Run {self.id} of {self._task} failed, and its result was not stored.")

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """What it waits for."""
        run = self.run
        return () if run is None else run.waits

    @property
    def records(self) -> list[Record]:
        """The recorded steps of its namespace, as `Runs.records` has them, without waits that are not over."""
        if self.run is None:
            return []
        return [record for record in self._steps.runs(self._app).records(self.namespace) if record.status != "waiting"]

    @property
    def logs(self) -> list[Line]:
        """What it said with `step.log`."""
        return [] if self.run is None else self._steps.runs(self._app).logs(self.id)

    @property
    def calls(self) -> Counter[str]:
        """How often the handler of each step was called, a stub counts too; by key."""
        calls: Counter[str] = Counter()
        for (run_id, key, _), count in self._steps.calls.items():
            if run_id == self.id:
                calls[key] += count
        return calls

    # -- acting -----------------------------------------------------------------------------------------------------

    def advance(self, time: float | timedelta | str) -> Handle:
        """Let time pass, for everything that runs here: seconds, a timedelta or text such as "1h30m"."""
        self._steps.advance(time)
        return self

    def finish(self) -> Handle:
        """Let time pass until it is over. StepsError where it waits for ever: it says for what."""
        self._steps.pass_until(lambda: self.finished)
        self._check_over()
        return self

    def emit(self, event: str, data: Any) -> Handle:
        """Send it an event for which it waits. StepsError if it does not: to send one early, `steps.emit(..., to=namespace)`."""
        awaited = sorted({wait.about for wait in self.waiting if wait.verb == "wait_for_event"})
        if event not in awaited:
            for_what = f"the events {', '.join(awaited)}" if awaited else "no event"
            raise StepsError(f"Run {self.id} of {self._task} waits for {for_what}, not for {event!r}: {self.tells()}.")
        self._steps.emit(event, data, to=self.namespace)
        return self

    def stub(self, key: str, value: Any) -> Handle:
        """As `steps.stub`, for this run alone, from now on."""
        self._steps.stub(key, value, run_id=self.id)
        return self

    def cancel(self) -> Handle:
        """Cancel it, as `Runs.cancel`. RunRefused if it is over."""
        self._steps.runs(self._app).cancel(self.id)
        self._steps.work()
        return self

    # -- machinery --------------------------------------------------------------------------------------------------

    @property
    def _result(self) -> AsyncResult:
        return AsyncResult(self.id, app=self._app)

    def _check_over(self) -> None:
        if not self.finished:
            raise StepsError(f"Run {self.id} of {self._task} is not over: {self.tells()}.")

    def tells(self) -> str:
        """In which state it is, and what would bring it on, in words."""
        run = self.run
        if run is None:
            return f"it is {self.status}"
        if run.status == "in_doubt":
            return f"it is in_doubt, {run.waiting}: steps.runs().resolve(...) says what became of the step"
        if run.status == "paused":
            return "it is paused until steps.runs().unpause(...)"
        told = []
        for wait in run.waits:
            what = (
                f"step.{wait.verb}({wait.key!r}) waits for {wait.about}"
                if wait.about
                else f"step.{wait.verb}({wait.key!r}) waits"
            )
            told.append(f"{what}, {f'until {wait.until.isoformat()}' if wait.until else 'for ever'}")
        if not told and run.wake_at is not None:
            told.append(f"{run.waiting or 'it waits'}, until {run.wake_at.isoformat()}")
        return f"it is {run.status}" + (f"; {'; '.join(told)}" if told else "")

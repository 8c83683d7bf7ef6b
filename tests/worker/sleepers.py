"""The tasks that wait, for the tests of waiting; `worker.app` includes them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery_steps import DurableTask
from celery_steps.store.binding import Binding
from worker.app import Noting, app, effect, lines_of, note

durable: Callable[..., Any] = partial(app.task, bind=True, base=DurableTask)

#: Seconds by which the clock of this worker is wrong.
_AHEAD = float(os.environ.get("CLOCK_AHEAD", "0"))
if _AHEAD:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _AHEAD
    time.time_ns = lambda: _time_ns() + int(_AHEAD * 1e9)

#: What the runs of this process wait at their gates for, by task id.
_gates: dict[str, str] = {}


def _watched(suspend: Callable[..., Any]) -> Callable[..., Any]:
    """The moments before and after the run is suspended in Redis are effects too."""

    def wrapper(self: Binding, *arguments: Any, **options: Any) -> Any:
        gate = _gates.get(self.run.id)
        if gate in ("suspending", "suspended"):
            effect(self.run.id, "suspending", gate)
        reply = suspend(self, *arguments, **options)
        if gate in ("suspending", "suspended"):
            effect(self.run.id, "suspended", gate)
        return reply

    return wrapper


Binding.suspend = _watched(Binding.suspend)  # type: ignore[method-assign]


def _enter(task: DurableTask, gate: str) -> str:
    """The beginning of a body: from its second time on it is a resume."""
    id = task.request.id
    _gates[id] = gate
    effect(id, "resumed" if lines_of(id, "body") else "body", gate)
    return id


def _nap(self: DurableTask, seconds: float, gate: str = "") -> list[str]:
    id = _enter(self, gate)
    one = self.step.run("one", lambda: effect(id, "one", gate))
    self.step.sleep("nap", seconds)
    effect(id, "awake", gate)
    return [one, self.step.run("two", lambda: effect(id, "two", gate))]


@durable(base=Noting)
def nap(self: DurableTask, seconds: float, gate: str = "") -> list[str]:
    """A step, a sleep, a step; one of its moments waits at the gate."""
    return _nap(self, seconds, gate)


@durable(track_started=True)
def tracked_nap(self: DurableTask, seconds: float, gate: str = "") -> list[str]:
    return _nap(self, seconds, gate)


@durable(autoretry_for=(Exception,), max_retries=5, default_retry_delay=0)
def broken_nap(self: DurableTask, seconds: float) -> int:
    """Fails once after its sleep."""
    _enter(self, "")
    self.step.sleep("nap", seconds)
    if not self.request.retries:
        raise ConnectionError("not now")
    return int(self.request.retries)


@durable()
def await_event(self: DurableTask, event: str, timeout: float | None = None, gate: str = "") -> Any:
    """An event's data, and what the branch that follows from it did."""
    id = _enter(self, gate)
    data = self.step.wait_for_event("wait", event, timeout=timeout)
    effect(id, "awake", gate)
    branch = "timeout" if data is None else "event"
    return [data, self.step.run(branch, lambda: effect(id, branch, gate))]


@durable()
def await_twice(self: DurableTask, event: str, timeout: float) -> list[Any]:
    return [self.step.wait_for_event("wait", event), self.step.wait_for_event("wait", event, timeout=timeout)]


@durable()
def forgetful(self: DurableTask, first: float, later: float) -> Any:
    """Asks for another timeout each time, as code that was changed would."""
    resumed = bool(lines_of(self.request.id, "body"))
    _enter(self, "")
    return self.step.wait_for_event("wait", timeout=later if resumed else first)


@durable()
def swallowing(self: DurableTask) -> str:
    """Does not let the suspension through."""
    id = _enter(self, "")
    try:
        self.step.sleep("nap", 1.2)
    except BaseException:
        note(id, "swallowed")
    for verb in (
        lambda: self.step.run("never", lambda: note(id, "never")),
        lambda: self.step.sleep("again", 1),
        lambda: self.step.wait_for_event("never"),
        lambda: self.step.emit("never", "never"),
        self.step.inspect,
    ):
        try:
            verb()
        except BaseException as error:
            note(id, type(error).__name__)
    return note(id, "end")


@durable()
def waits_in_a_handler(self: DurableTask) -> None:
    self.step.run("outer", lambda: self.step.sleep("inner", 60))


@durable()
def past(self: DurableTask) -> str:
    _enter(self, "")
    self.step.sleep_until("past", "2020-01-01T00:00:00+00:00")
    return "on time"


@durable()
def retry_and_nap(self: DurableTask, countdown: float) -> int:
    """Retries once after a while."""
    _enter(self, "")
    self.step.run("one", lambda: effect(self.request.id, "one"))
    if not self.request.retries:
        raise self.retry(countdown=countdown)
    return int(self.request.retries)


def _sleep_and_die(self: DurableTask, seconds: float, dies: bool) -> str:
    """Sleep; the first process that resumes is killed."""
    id = _enter(self, "")
    self.step.sleep("nap", seconds)
    note(id, "awake")
    if dies and len(lines_of(id, "awake")) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return id


@durable()
def napping(self: DurableTask, value: int, seconds: float, dies: bool = False) -> int:
    """A member of a canvas."""
    id = _sleep_and_die(self, seconds, dies)
    return self.step.run("two", lambda: int(bool(effect(id, "two"))) * value)


@durable()
def nap_and_fail(self: DurableTask, seconds: float, dies: bool = False) -> None:
    _sleep_and_die(self, seconds, dies)
    raise ValueError("it fails")

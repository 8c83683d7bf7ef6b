"""Signals, in the style of Celery's: `@step_executed.connect def on_step(sender, details, **kwargs)`; `sender` is the task.

They are sent in the process that executes, after what they tell of is recorded. Receivers are called one after the other, in the
thread of the body or of the branch. What one raises is logged, and changes nothing for the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

from celery.utils.dispatch import Signal

from celery_steps.details import Awaited, Problem, RunDetails, StepDetails

__all__ = [
    "Awaited",
    "Problem",
    "RunDetails",
    "StepDetails",
    "lease_lost",
    "run_finished",
    "run_resumed",
    "run_started",
    "run_suspended",
    "step_executed",
    "step_failed",
    "step_replayed",
]


Receiver = TypeVar("Receiver", bound=Callable[..., Any])


class Connectable(Protocol):
    """What is used of Celery's `Signal`, which has no types."""

    name: str

    @overload
    def connect(self, receiver: Receiver, /, *, sender: Any = None, weak: bool = True, dispatch_uid: Any = None) -> Receiver: ...
    @overload
    def connect(self, *, sender: Any = None, weak: bool = True, dispatch_uid: Any = None) -> Callable[[Receiver], Receiver]: ...
    def disconnect(self, receiver: Any = None, sender: Any = None, *, dispatch_uid: Any = None) -> bool: ...


def _signal(name: str) -> Connectable:
    signal: Connectable = Signal(name=name, providing_args={"details"})
    return signal


#: A step was executed and its result is recorded; a wait is over. Details: StepDetails.
step_executed = _signal("step_executed")
#: A step's recorded outcome was returned, or raised. StepDetails.
step_replayed = _signal("step_replayed")
#: A step has failed, which is recorded: as its outcome, as one try of several, or with the end of the attempt. StepDetails.
step_failed = _signal("step_failed")
#: A run has begun its first attempt. RunDetails.
run_started = _signal("run_started")
#: A run has begun another attempt: awake, retried, or after a crash. RunDetails.
run_resumed = _signal("run_resumed")
#: A run has left its worker and comes back; `status` says why. RunDetails.
run_suspended = _signal("run_suspended")
#: A run is over; `status` says how. RunDetails.
run_finished = _signal("run_finished")
#: An attempt has noticed that another one owns its namespace: it records nothing more. RunDetails.
lease_lost = _signal("lease_lost")

SIGNALS: dict[str, Any] = {
    signal.name: signal
    for signal in (
        step_executed,
        step_replayed,
        step_failed,
        run_started,
        run_resumed,
        run_suspended,
        run_finished,
        lease_lost,
    )
}

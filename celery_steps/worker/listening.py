"""Who hears of an attempt: receivers of signals, and monitors by Celery's events. None of them can change the run."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, NamedTuple

from celery import signals as celery_signals
from celery.app.task import Task
from celery.utils.dispatch import Signal

from celery_steps.details import RunDetails, StepDetails
from celery_steps.engine.attempt import current, handling
from celery_steps.engine.execution import executing
from celery_steps.engine.telling import beginning, complain
from celery_steps.signals import SIGNALS
from celery_steps.worker import monitoring
from celery_steps.worker.beside import PROMPT

#: The body is about to begin: an attempt may follow, and its message is not stored yet. All receivers of task_prerun were called.
about_to_begin = Signal(name="about_to_begin")


class Ear(NamedTuple):
    """What an attempt is handed."""

    listener: Callable[[str, StepDetails | RunDetails], None]
    hears: frozenset[str]


def _deaf(name: str, details: StepDetails | RunDetails) -> None:
    """Nobody listens."""


_DEAF = Ear(_deaf, frozenset())


def of(task: Task, *, in_worker: bool) -> Ear:
    """Who hears of an attempt that begins now. A receiver that is connected later hears of the next one."""
    about_to_begin.send(sender=task)
    events = monitoring.EVENTS if in_worker and monitoring.is_wanted(task) else frozenset[str]()
    hears = events.union(name for name, signal in SIGNALS.items() if signal.receivers)
    return Ear(Listener(task, events), hears) if hears else _DEAF


class Listener:
    """Sends what one attempt tells to everyone who wants it."""

    def __init__(self, task: Task, events: frozenset[str]) -> None:
        self._task = task
        self._events = events
        self._reported: set[tuple[str, str]] = set()

    def __call__(self, name: str, details: StepDetails | RunDetails) -> None:
        # In a context of its own: what a receiver sets there is not the body's, and a verb says that it is not in a run.
        copy_context().run(self._send, name, details)

    def _send(self, name: str, details: StepDetails | RunDetails) -> None:
        current.set(None)
        handling.set(None)
        executing.set(None)
        signal = SIGNALS[name]
        for receiver in signal._live_receivers(self._task) if signal.receivers else ():
            self._call(name, receiver, signal=signal, sender=self._task, details=details)
        if name in self._events:
            monitoring.send(self._task, name, details)

    def _call(self, name: str, receiver: Callable[..., Any], **named: Any) -> None:
        try:
            receiver(**named)
        except (KeyboardInterrupt, *PROMPT):  # the process's own, and the task's
            raise
        except BaseException as error:
            if _ends_a_greenlet(error):
                raise
            # Once an attempt: it may be called thousands of times.
            who = getattr(receiver, "__qualname__", None) or beginning(receiver, 80)
            if (who, type(error).__qualname__) not in self._reported:
                self._reported.add((who, type(error).__qualname__))
                complain(f"The receiver {who} of {name} raised {beginning(error, 200)}: the run goes on", error)


def _ends_a_greenlet(error: BaseException) -> bool:
    """Whether a pool of greenlets ends the task with it."""
    return not isinstance(error, Exception) and type(error).__module__.partition(".")[0] in ("gevent", "greenlet", "eventlet")


@celery_signals.celeryd_after_setup.connect
def _know_the_worker(instance: Any = None, **_: Any) -> None:
    monitoring.worker_sends = bool(getattr(instance, "task_events", False))

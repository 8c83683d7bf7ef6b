"""Durable steps for Celery tasks: a task that is retried, redelivered or killed carries on after its last completed step."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_steps.errors import (
    ChildFailed,
    InDoubt,
    InputMismatch,
    JournalLost,
    LeaseLost,
    NoActiveRun,
    NotDone,
    ResultError,
    RunCancelled,
    RunRefused,
    SettingsError,
    StepFailed,
    StepsError,
    StepTimeout,
    StoreUnavailable,
    TooManyCrashes,
)

if TYPE_CHECKING:
    from celery_steps.runs import Runs
    from celery_steps.task import DurableTask
    from celery_steps.verbs import CurrentStep, RetryPolicy, current_step, step

__all__ = [
    "ChildFailed",
    "CurrentStep",
    "DurableTask",
    "InDoubt",
    "InputMismatch",
    "JournalLost",
    "LeaseLost",
    "NoActiveRun",
    "NotDone",
    "ResultError",
    "RetryPolicy",
    "RunCancelled",
    "RunRefused",
    "Runs",
    "SettingsError",
    "StepFailed",
    "StepTimeout",
    "StepsError",
    "StoreUnavailable",
    "TooManyCrashes",
    "current_step",
    "step",
]

#: Imported when they are asked for: every `celery` command imports this package for its subcommand, most need no more.
_HOMES = {
    "CurrentStep": "verbs",
    "DurableTask": "task",
    "RetryPolicy": "verbs",
    "Runs": "runs",
    "current_step": "verbs",
    "step": "verbs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found

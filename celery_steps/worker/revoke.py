"""Celery's `revoke` means cancel: also for a run that no worker holds at the moment."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.utils.functional import maybe_list
from celery.worker.control import Panel

from celery_steps.engine.entries import pack_control
from celery_steps.errors import StepsError
from celery_steps.store.keys import OPEN, RunId
from celery_steps.store.store import Store
from celery_steps.worker import messages, runtime

logger = logging.getLogger("celery_steps")


def cancel(store: Store, namespace: str, run: RunId) -> bool:
    """Ask an open run to end as cancelled; the same request from every worker counts once.

    Returns whether the store knows the run.
    """
    entry = pack_control(str(run), "revoked")
    answer, _ = store.control(namespace, run, what="cancel", nonce=f"revoke:{run.id}", entry=entry)
    return answer != "UNKNOWN"


def cancel_open_runs(app: Celery, task_id: str) -> None:
    """Cancel the open runs of this task id: at once where they wait, after the handler in progress where they run."""
    store = runtime.of(app).main_store
    namespace = store.namespace_of(task_id)
    for field, value in store.fields(namespace).items():
        text, _, name = field.rpartition(":")
        if name == "status" and value in OPEN and RunId.parse(text).id == task_id:
            run = RunId.parse(text)
            cancel(store, namespace, run)
            messages.publish_if_due(app, store, namespace, run)


def extend_commands() -> None:
    """Let the remote control commands `revoke` and `terminate` cancel durable runs too."""
    for name in ("revoke", "terminate"):
        if not hasattr(Panel.data[name], "cancels_runs"):
            Panel.data[name] = _cancelling(Panel.data[name])


def _cancelling(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def wrapper(state: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return command(state, *args, **kwargs)
        finally:  # also where the pool cannot terminate
            for task_id in maybe_list(kwargs.get("task_id")) or ():
                try:
                    cancel_open_runs(state.app, task_id)
                except StepsError as error:
                    logger.error("Task %s is revoked, but its run could not be cancelled: %s", task_id, error)
                except Exception as error:  # the broker is away: the ticket is due
                    logger.warning("Task %s is cancelled and could not be published yet: %s", task_id, error)

    wrapper.cancels_runs = True  # type: ignore[attr-defined]
    return wrapper

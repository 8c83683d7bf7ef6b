"""Telling parents that a child has ended: they look at it then, instead of at their next look."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from celery import Celery, signals, states
from celery.app.task import Context, Task

from celery_steps.engine.child import Parent
from celery_steps.store.keys import FINAL, RunId
from celery_steps.store.store import Store
from celery_steps.worker import messages, runtime
from celery_steps.worker.canvas import CHILD, PARENT, is_durable

logger = logging.getLogger("celery_steps")

_BAD = (states.FAILURE, states.REVOKED)


def connect() -> None:
    """Watch the tasks of this worker."""
    signals.task_prerun.connect(_begun, dispatch_uid="celery-steps-child")
    signals.task_postrun.connect(_ended, dispatch_uid="celery-steps-child")
    signals.task_revoked.connect(_revoked, dispatch_uid="celery-steps-child")


def _tell_parents(task: Task, request: Context, state: str, *, in_main_process: bool = False) -> None:
    """A task has ended: the runs whose child it is look at it now, instead of at their next look."""
    for parent, id in _parents(task, request, state):
        try:
            parts = runtime.of(task.app)
            _tell(task.app, parts.main_store if in_main_process else parts.store, parent, id)
        except Exception as error:  # the parent finds it by looking
            logger.warning("%s[%s]: its parent run %s could not be told of its end: %r", task.name, request.id, parent.run, error)


def _tell(app: Celery, store: Store, parent: Parent, id: str) -> None:
    delivered = store.deliver(parent.namespace, "", id, b"", run=RunId.parse(parent.run), wait=parent.wait)
    for due in delivered.due if delivered is not None else ():
        messages.publish_if_due(app, store, parent.namespace, due)


def _parents(task: Task, request: Context, state: str) -> Iterator[tuple[Parent, str]]:
    own = messages.header(request, PARENT)
    if own:
        yield Parent(*own), request.id
    # What never runs because this one has failed has ended too.
    chain = (request.chain or ()) if state in _BAD else ()
    for later in [*chain, *([request.chord] if request.chord else ())]:
        options = later.get("options") or {}
        parent = (options.get("headers") or {}).get(PARENT)
        if parent and task.backend.get_state(options.get("task_id")) in _BAD:
            yield Parent(*parent), options["task_id"]


def _begun(task_id: str, task: Task, **_: Any) -> None:
    """A plain child shows that it runs: one that runs for long must not be taken for lost."""
    request = task.request
    if not messages.header(request, CHILD) or is_durable(task) or task.track_started or request.is_eager:
        return
    if task.backend.get_state(task_id) == states.PENDING:  # never over what another delivery has stored
        info = {"pid": os.getpid(), "hostname": request.hostname}
        task.backend.store_result(task_id, info, states.STARTED, request=request)


def _ended(task_id: str, task: Task, state: str | None = None, **_: Any) -> None:
    request = task.request
    if request.is_eager:
        return
    if state in states.READY_STATES or (messages.header(request, PARENT) and state != states.RETRY and _is_over(task, request)):
        _tell_parents(task, request, str(state))


def _is_over(task: Task, request: Context) -> bool:
    """Whether a durable task that raised Ignore or Reject was at its run's end: it does so too when it suspends."""
    if not is_durable(task):
        return False
    store = runtime.of(task.app).store
    run = RunId(task.name, request.id, request.replaced_task_nesting)
    return store.status(task.namespace_of(request), run) in FINAL


def _revoked(sender: Any = None, request: Any = None, **_: Any) -> None:
    """In the main process: a queued child was discarded, or a running one ended."""
    context = getattr(request, "_context", request)
    if context is not None and messages.header(context, PARENT):
        _tell_parents(sender, context, states.REVOKED, in_main_process=True)

"""A direct call, `apply()` and eager mode: the engine of the workers, over a journal that is kept nowhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from celery.app.task import Context, Task
from celery.exceptions import Ignore, Reject, Retry

from celery_steps.engine import rollback
from celery_steps.engine.attempt import Attempt, current
from celery_steps.engine.memory import MemoryStore, deliver
from celery_steps.store.keys import RunId
from celery_steps.worker import listening, messages, runtime
from celery_steps.worker.beside import PROMPT, beside
from celery_steps.worker.children import EagerChildren

#: Journals of eager runs between an attempt and its eager retry, by task id.
_eager: dict[str, MemoryStore] = {}


def execute(task: Task, request: Context, body: Callable[..., Any], args: Any, kwargs: Any, outer: Attempt | None) -> Any:
    """Run the body. `outer` is the attempt in whose body this is called, if there is one."""
    if request.called_directly and outer is not None and outer.active and outer.task == task.name and outer.request is request:
        return body(*args, **kwargs)
    run_id = request.id or str(uuid4())
    namespace = messages.header(request, messages.NAMESPACE) or task.namespace_for(args, kwargs) or run_id
    store = _eager.pop(run_id, None) or MemoryStore(str(namespace))
    nested = outer.task if outer is not None and outer.active and request.called_directly else ""
    codec = runtime.codec_of(task.app)
    ear = listening.of(task, in_worker=False)
    attempt = Attempt(
        store=store,
        run=str(RunId(task.name, run_id)),
        run_id=run_id,
        task=task.name,
        token="memory",
        codec=codec,
        before_commit=task.before_commit,
        listener=ear.listener,
        hears=ear.hears,
        emit=functools.partial(deliver, codec),
        children=EagerChildren(task.app),
        retries=request.retries,
        passing=(Retry, Ignore, Reject),
        prompt=PROMPT,
        beside=functools.partial(beside, task, request),
        nested_in=nested,
        request=request,
    )
    token = current.set(attempt)
    try:
        value = body(*args, **kwargs)
        if attempt.owner:
            attempt.finish("succeeded", b"")
        return value
    except Retry as retry:
        if attempt.owner:
            attempt.retry(0, request.retries + 1, b"", retry)
            _eager[run_id] = store
        raise
    except (Ignore, Reject) as end:
        if attempt.owner:
            attempt.finish("ignored" if isinstance(end, Ignore) else "rejected", b"")
        raise
    except Exception as error:
        if attempt.journal.undoable:
            rollback.begin(attempt, "failed", b"")
            rollback.undo(attempt)
        if attempt.owner:
            attempt.finish("failed", b"", error=error)
        raise
    finally:
        attempt.active = False
        current.reset(token)

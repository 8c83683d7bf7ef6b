"""What a branch's thread needs of its task: Celery keeps the current task and its request by thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import _task_stack
from celery.app.task import Context, Task

#: What leaves a parallel block without waiting for its branches.
PROMPT = (SoftTimeLimitExceeded,)


@contextmanager
def beside(task: Task, request: Context) -> Iterator[None]:
    """`self.request` and `current_task` in this thread are those of the body."""
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        _task_stack.pop()

"""Tasks that have children, and their children. A child's `mark` names its effects and its gate."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import Task
from celery.exceptions import Ignore

from celery_steps import ChildFailed, DurableTask, StepTimeout
from celery_steps.engine.attempt import current
from worker.app import app, effect, lines_of, note, wait_at_gate


@app.task(bind=True, base=DurableTask)
def parent(self: DurableTask, child: Any, *args: Any, **options: Any) -> Any:
    """Returns what its child does; it is replayed once more after that."""
    note(self.request.id, "attempt")
    value = self.step.run_task("child", child if isinstance(child, str) else app.signature(child), args, **options)
    self.step.sleep("after", 1.5)
    return value


@app.task(bind=True, base=DurableTask)
def catching(self: DurableTask, child: str, *args: Any, **options: Any) -> list[Any]:
    """What its child failed with, at first and on each replay."""
    try:
        self.step.run_task("child", child, args, **options)
    except ChildFailed as failed:
        error = failed.__cause__
        note(self.request.id, f"{type(error).__name__}{failed.error.args if failed.error else ()}".replace(" ", ""))
        self.step.sleep("after", 1.5)
        return [failed.task, failed.task_id, str(error)]
    raise AssertionError("the child did not fail")


@app.task(bind=True, base=DurableTask)
def timed(self: DurableTask, child: str, mark: str) -> str:
    """What a child comes to that takes longer than is waited for, at first and on each replay."""
    try:
        self.step.run_task("child", child, [mark], timeout=1.5)
    except StepTimeout as error:
        name = type(error).__name__
        self.step.sleep("after", 1.5)
        return name
    raise AssertionError("the child was in time")


@app.task(bind=True, base=DurableTask, autoretry_for=(ChildFailed,), max_retries=2, retry_backoff=False, default_retry_delay=0)
def trying_again(self: DurableTask, mark: str) -> Any:
    return self.step.run_task("child", failing_once, [mark])


@app.task(bind=True, base=DurableTask)
def killed(self: DurableTask, when: str, child: str, mark: str) -> Any:
    """The first attempt is killed before or after it has sent its child."""
    note(self.request.id, "attempt")
    self.step.run("one", lambda: None)
    attempt = current.get()
    assert attempt is not None
    if len(lines_of(self.request.id, "attempt")) == 1:
        send = attempt.children.send

        def killing(*args: Any) -> None:
            if when == "after":
                send(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        attempt.children.send = killing
    return self.step.run_task("child", child, [mark, 5])


@app.task(bind=True, base=DurableTask)
def busy(self: DurableTask, mark: str) -> None:
    """It is at work while its child sleeps."""
    with self.step.parallel() as p:
        p.run("work", lambda: effect(self.request.id, "busy", "busy"))
        p.run_task("child", sleeping, [mark])


@app.task(bind=True, base=DurableTask)
def many(self: DurableTask, number: int) -> int:
    with self.step.parallel() as p:
        futures = [p.run_task("child", add, [i, 1]) for i in range(number)]
    return sum(future.result() for future in futures)


@app.task(bind=True, base=DurableTask)
def durable(self: DurableTask, mark: str, value: int, gate: bool = False) -> int:
    self.step.run("work", lambda: effect(mark, "durable", "durable" if gate else ""))
    return value + 1


@app.task(bind=True, base=DurableTask)
def sleeping(self: DurableTask, mark: str) -> None:
    self.step.run("work", lambda: note(mark, "asleep"))
    self.step.sleep("long", "1h")


@app.task(bind=True, base=DurableTask)
def ignoring(self: DurableTask) -> None:
    self.step.run("work", lambda: None)
    raise Ignore


@app.task(base=Task)
def plain(mark: str, value: int, gate: bool = False) -> int:
    note(mark, "plain")
    if gate:
        wait_at_gate(mark)
    return value + 1


@app.task(base=Task)
def add(*numbers: int) -> int:
    return sum(numbers)


@app.task(base=Task)
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(base=Task)
def broken(*_: Any) -> None:
    raise ConnectionError(7, "refused")


@app.task(bind=True, base=DurableTask)
def broken_durably(self: DurableTask) -> None:
    self.step.run("work", lambda: None)
    raise ConnectionError(7, "refused")


@app.task(base=Task)
def failing_once(mark: str) -> str:
    note(mark, "tried")
    if len(lines_of(mark, "tried")) == 1:
        raise ConnectionError(7, "refused")
    return "done"

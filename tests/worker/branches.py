"""The tasks with parallel branches, for test_parallel; `worker.app` includes them."""

from __future__ import annotations

import time
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from celery_steps import DurableTask
from worker.app import app, effect, lines_of, note, wait_at_gate


@app.task(bind=True, base=DurableTask)
def three_at_once(self: DurableTask, gate: str = "", max_workers: int = 8) -> list[str]:
    """Three branches; the one named by `gate` waits at the gate. The handlers ask for the task's id in their threads."""
    with self.step.parallel(max_workers) as p:
        futures = p.map("branch", ["one", "two", "three"], lambda what: effect(self.request.id, what, gate))
    return [*(future.result() for future in futures), self.step.run("after", lambda: effect(self.request.id, "after"))]


@app.task(bind=True, base=DurableTask)
def mixed(self: DurableTask) -> list[Any]:
    """A handler at the gate, a rest, an event and another task."""
    id = self.request.id
    note(id, "body")
    with self.step.parallel() as p:
        futures = [
            p.sleep("nap", 1.2),
            p.run("charge", lambda: effect(id, "charged", "charged")),
            p.wait_for_event("paid"),
            p.run_task("sum", "worker.app.add", [1, 2]),
        ]
    return [future.result() for future in futures]


@app.task(bind=True, base=DurableTask, max_retries=3)
def failing_branch(self: DurableTask, fails: int, catches: bool) -> list[str]:
    """The second of three branches fails so often; its sibling, which runs meanwhile, ends after it."""
    id = self.request.id

    def two() -> str:
        note(id, "two")
        if self.request.retries < fails:
            raise ConnectionError("not now")
        return "two"

    try:
        with self.step.parallel(max_workers=2) as p:
            p.run("one", lambda: effect(id, "one", "one"))
            futures = [p.run("two", two), p.run("three", lambda: effect(id, "three")), p.sleep("nap", 3600 if catches else 0.1)]
    except ConnectionError as error:
        if not catches:
            raise self.retry(countdown=0, exc=error) from error
    self.step.sleep("rest", 1.2)
    return ["given up" if future.cancelled() else repr(future.exception() or future.result()) for future in futures]


@app.task(bind=True, base=DurableTask, soft_time_limit=1)
def soft_limited_block(self: DurableTask) -> list[str]:
    """A branch that nothing can stop; the body goes on without it."""
    id = self.request.id
    try:
        with self.step.parallel(max_workers=1) as p:
            p.run("long", lambda: effect(id, "long", "long"))
            dropped = p.run("dropped", lambda: effect(id, "dropped"))
    except SoftTimeLimitExceeded:
        note(id, "limited")
    self.step.run("next", lambda: wait_at_gate(id))
    return [str(dropped.cancelled()), *sorted(record["key"] for record in self.step.inspect())]


@app.task(bind=True, base=DurableTask)
def child(self: DurableTask, parent: str) -> str:
    """What it does is an effect of its parent."""
    self.step.run("begin", lambda: effect(parent, "child-began", "child-began"))
    return self.step.run("end", lambda: note(parent, "child-ended"))


@app.task(bind=True, base=DurableTask, max_retries=1)
def parent_of_a_child(self: DurableTask, catches: bool) -> str:
    """Once the child has begun, the branch beside it fails, the first time."""
    id = self.request.id

    def fail_once() -> None:
        while not lines_of(id, "child-began"):
            time.sleep(0.02)
        if not self.request.retries:
            raise ConnectionError("not now")

    try:
        with self.step.parallel() as p:
            future = p.run_task("child", "worker.branches.child", [id])
            p.run("fail once", fail_once)
    except ConnectionError as error:
        if not catches:
            raise self.retry(countdown=0, exc=error) from error
    return self.step.run("after", lambda: "given up" if future.cancelled() else future.result())

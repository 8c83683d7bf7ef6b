"""Tasks that go wrong on purpose; a worker of `worker.troubles` has them."""

from __future__ import annotations

from typing import Any

from celery_steps import DurableTask, NotDone, RetryPolicy, current_step
from worker.app import app, effect

__all__ = ["app"]


@app.task(bind=True, base=DurableTask)
def travel(self: DurableTask, gate: str = "", end: str = "fails") -> str:
    id = self.request.id
    for what in ("flight", "hotel", "car"):
        self.step.run(what, what, lambda what: effect(id, what, gate), rollback=lambda what: effect(id, f"undo-{what}", gate))
    if end == "fails":
        raise ValueError("no passport")
    self.step.wait_for_event("go")
    return "there"


@app.task(bind=True, base=DurableTask)
def pay(self: DurableTask, gate: str = "", asks: bool = False) -> str:
    id = self.request.id

    def find(input: Any, key: str) -> str:
        effect(id, "asked")
        raise NotDone

    self.step.run("before", lambda: effect(id, "before"))
    return self.step.run("charge", lambda: effect(id, "charge", gate), at_most_once=True, reconcile=find if asks else None)


@app.task(bind=True, base=DurableTask)
def flaky(self: DurableTask, gate: str = "") -> int:
    id = self.request.id

    def call() -> int:
        number = current_step().try_number
        effect(id, f"try-{number}", gate)
        if number < 3:
            raise ConnectionError("no route")
        return number

    return self.step.run("call", call, retry=RetryPolicy(max_retries=3, delay=1.1, backoff=1, jitter=False))


@app.task(bind=True, base=DurableTask)
def poison(self: DurableTask) -> None:
    import os
    import signal

    effect(self.request.id, "began")
    self.step.run("before", lambda: 1)
    self.step.run("poison", lambda: os.kill(os.getpid(), signal.SIGKILL))


@app.task
def harmless(number: int) -> int:
    return number

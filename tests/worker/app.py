"""The tasks that the workers of these tests have. What they do outside is a line in the ledger."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from celery import Celery, Task, chain, shared_task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from pydantic import BaseModel

from celery_steps import DurableTask

_stage = json.loads(os.environ["STAGE"])
_folder = Path(_stage["folder"])
app = Celery("worker-tests", include=["worker.sleepers", "worker.family", "worker.branches", "worker.talkers"])
app.conf.update(broker_connection_retry_on_startup=True, **_stage["settings"])


def note(id: str, what: str) -> str:
    """One effect: a line that is written as a whole."""
    ledger = os.open(_folder / "ledger", os.O_WRONLY | os.O_APPEND)
    os.write(ledger, f"{id} {what} {os.getpid()}\n".encode())
    os.close(ledger)
    return what


def wait_at_gate(id: str) -> None:
    """Wait until the test opens this task's gate; a test that forgets to must not hang for ever."""
    end = time.monotonic() + 60
    while not (_folder / f"gate-{id}").exists():
        if time.monotonic() > end:
            raise TimeoutError(f"nobody opened the gate of {id}")
        time.sleep(0.02)


def effect(id: str, what: str, gate: str = "") -> str:
    note(id, what)
    if what == gate:
        wait_at_gate(id)
    return what


class Noting(DurableTask):
    """Its hooks are effects."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id, "on_success")

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, "on_failure")

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, "on_retry")

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, "after_return")


# -- kills and verdicts -------------------------------------------------------------------------------------------------


def _three(self: DurableTask, gate: str = "") -> list[str]:
    id = self.request.id
    return [self.step.run(key, lambda key=key: effect(id, key, gate)) for key in ("one", "two", "three")]


@app.task(bind=True, base=Noting)
def three(self: DurableTask, gate: str = "") -> list[str]:
    """Three steps; the one named by `gate` waits at the gate."""
    return _three(self, gate)


@app.task(bind=True, base=DurableTask, acks_late=False)
def three_early(self: DurableTask, gate: str = "") -> list[str]:
    return _three(self, gate)


@app.task(bind=True, base=DurableTask, ignore_result=True)
def three_silent(self: DurableTask, gate: str = "") -> list[str]:
    return _three(self, gate)


@app.task(bind=True, base=DurableTask, autoretry_for=(Exception,), max_retries=3, retry_backoff=True)
def three_retried(self: DurableTask, gate: str = "") -> list[str]:
    return _three(self, gate)


@app.task(bind=True, base=Noting, time_limit=1)
def three_limited(self: DurableTask, gate: str = "") -> list[str]:
    return _three(self, gate)


@app.task(bind=True, base=DurableTask)
def no_steps(self: DurableTask) -> str:
    return effect(self.request.id, "body", "body")


@app.task(bind=True, base=DurableTask)
def between(self: DurableTask) -> list[str]:
    """Waits at the gate in its body, between two steps."""
    one = self.step.run("one", lambda: effect(self.request.id, "one"))
    effect(self.request.id, "body", "body")
    return [one, self.step.run("two", lambda: effect(self.request.id, "two"))]


@app.task(bind=True, base=DurableTask)
def borrowing(self: DurableTask, namespace: str) -> list[str]:
    """Its second step is recorded elsewhere."""
    id = self.request.id
    one = self.step.run("one", lambda: effect(id, "one"))
    return [one, self.step.run("two", lambda: effect(id, "two", "two"), namespace=namespace)]


@app.task(bind=True, base=DurableTask, autoretry_for=(Exception,), max_retries=3)
def poison(self: DurableTask) -> None:
    self.step.run("good", lambda: effect(self.request.id, "good"))
    self.step.run("bad", lambda: (effect(self.request.id, "bad"), os.kill(os.getpid(), 9)))


@app.task(bind=True, base=DurableTask)
def plain_poison(self: DurableTask) -> None:
    effect(self.request.id, "body")
    os.kill(os.getpid(), 9)


@app.task(bind=True, base=DurableTask, soft_time_limit=1)
def soft_limited(self: DurableTask, catches: bool) -> str:
    id = self.request.id
    self.step.run("one", lambda: effect(id, "one"))
    try:
        self.step.run("two", lambda: effect(id, "two", "two"))
    except SoftTimeLimitExceeded:
        if not catches:
            raise
    return self.step.run("three", lambda: effect(id, "three"))


@app.task(bind=True, base=DurableTask, soft_time_limit=1, autoretry_for=(SoftTimeLimitExceeded,), default_retry_delay=0)
def soft_busy(self: DurableTask) -> int:
    """Steps without a pause, so that the signal comes in the middle of an exchange; the second attempt ends."""
    for number in range(100 if self.request.retries else 10**6):
        self.step.run("count", number, lambda n: note(self.request.id, f"count-{n}"))
    return len(self.step.inspect())


# -- retries ------------------------------------------------------------------------------------------------------------


@app.task(bind=True, base=Noting, max_retries=5)
def retrying(self: DurableTask, times: int, countdown: float = 0, changed: bool = False) -> list[Any]:
    """Retries by hand so often."""
    one = self.step.run("one", lambda: effect(self.request.id, "one"))
    note(self.request.id, f"attempt-{self.request.retries}")
    if self.request.retries < times:
        if changed:
            raise self.retry(args=(times, countdown), kwargs={}, queue="other", countdown=countdown)
        raise self.retry(countdown=countdown)
    return [one, self.request.retries, self.request.delivery_info["routing_key"]]


@app.task(bind=True, base=DurableTask)
def retrying_at(self: DurableTask) -> int:
    self.step.run("one", lambda: effect(self.request.id, "one"))
    if not self.request.retries:
        raise self.retry(eta=datetime.now(timezone.utc) + timedelta(seconds=0.5))
    return self.request.retries


@app.task(bind=True, base=DurableTask)
def retrying_once(self: DurableTask) -> int:
    if not self.step.run("one", lambda: 1) or not self.request.retries:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True, base=DurableTask)
def retrying_at_gate(self: DurableTask) -> int:
    """Its second attempt waits at the gate."""
    self.step.run("one", lambda: effect(self.request.id, "one"))
    effect(self.request.id, f"attempt-{self.request.retries}", "attempt-1")
    if not self.request.retries:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True, base=DurableTask)
def unthrown(self: DurableTask) -> str:
    self.step.run("one", lambda: effect(self.request.id, "one"))
    if not self.request.retries:
        self.retry(throw=False, countdown=0)
        return "is not the result"
    return "done"


@app.task(bind=True, base=DurableTask)
def raising_retry(self: DurableTask) -> str:
    """Sends its own next message and raises Retry itself."""
    self.step.run("one", lambda: effect(self.request.id, "one"))
    if not self.request.retries:
        self.signature_from_request(self.request, retries=1, countdown=1).apply_async()
        raise Retry("by hand")
    return "done"


@app.task(bind=True, base=Noting, autoretry_for=(ConnectionError,), retry_backoff=1, retry_jitter=False, max_retries=2)
def autoretrying(self: DurableTask, fails: int) -> str:
    self.step.run("one", lambda: effect(self.request.id, "one"))

    def two() -> str:
        note(self.request.id, "two")
        if self.request.retries < fails:
            raise ConnectionError("not now")
        return "done"

    return self.step.run("two", two)


# -- endings ------------------------------------------------------------------------------------------------------------


@app.task(bind=True, base=DurableTask)
def ending(self: DurableTask, how: str) -> str:
    self.step.run("one", lambda: effect(self.request.id, "one"))
    note(self.request.id, "body")
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("not wanted", requeue=False)
    if how == "requeue" and len([1 for _ in lines_of(self.request.id, "body")]) == 1:
        raise Reject("once more", requeue=True)
    return how


def lines_of(id: str, what: str) -> list[str]:
    """What the ledger says of this task and this effect."""
    return [line for line in (_folder / "ledger").read_text().splitlines() if line.startswith(f"{id} {what} ")]


@app.task(bind=True, base=DurableTask)
def looping(self: DurableTask, rounds: int) -> str:
    """Begins anew with an empty journal, as an endless loop would."""
    self.step.run("one", lambda: effect(self.request.id, "one"))
    assert len(self.step.inspect()) == 1
    if rounds > 1:
        raise self.replace(self.s(rounds - 1))
    return "done"


@app.task(bind=True, base=DurableTask)
def replaced_by_chain(self: DurableTask) -> None:
    self.step.run("one", lambda: effect(self.request.id, "one"))
    raise self.replace(chain(add.s(1, 2), add.s(3)))


@app.task(bind=True, base=DurableTask, track_started=True)
def tracked(self: DurableTask) -> str:
    return self.step.run("one", lambda: effect(self.request.id, "one", "one"))


@app.task(bind=True, base=DurableTask, track_started=True)
def tracked_no_steps(self: DurableTask) -> str:
    return effect(self.request.id, "body", "body")


# -- callbacks ----------------------------------------------------------------------------------------------------------


@app.task(base=Task)
def add(x: int, y: int) -> int:
    return x + y


@app.task(base=Task)
def tell(result: Any, about: str) -> Any:
    """A callback: that it was called is an effect of the task that it is about."""
    note(about, "callback")
    return result


@app.task(base=Task)
def tell_error(request: Any, error: Any, traceback: Any) -> None:
    note(request.id, "errback")


@app.task(base=Task)
def collect(results: list[Any], about: str) -> Any:
    note(about, "callback")
    return results


@app.task(bind=True, base=DurableTask)
def passing_on(self: DurableTask, value: int = 1, gate: str = "") -> int:
    """Two steps, the second at the gate."""
    self.step.run("one", lambda: effect(self.request.id, "one"))
    self.step.run("two", lambda: effect(self.request.id, "two", gate))
    return value + 1


@app.task(bind=True, base=DurableTask)
def failing(self: DurableTask) -> None:
    self.step.run("one", lambda: effect(self.request.id, "one"))
    self.step.run("two", lambda: effect(self.request.id, "two", "two"))
    raise ValueError("it fails")


# -- kinds of tasks -----------------------------------------------------------------------------------------------------


class Counted(DurableTask):
    """A task made of a class, whose `__call__` is overridden as Flask's recipe does."""

    name = "worker.app.class_based"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(self.request.id, "context")
        return super().__call__(*args, **kwargs)

    def run(self, value: int) -> int:
        return self.step.run("one", value, lambda n: len(effect(self.request.id, "one", "one")) + n)


class Derived(Counted):
    name = "worker.app.derived"

    def run(self, value: int) -> int:
        return super().run(value) + 100


app.register_task(Counted())
app.register_task(Derived())


@shared_task(bind=True, base=DurableTask)
def shared(self: DurableTask, value: int) -> int:
    return self.step.run("one", value, lambda n: len(effect(self.request.id, "one", "one")) + n)


class Order(BaseModel):
    value: int


@app.task(bind=True, base=DurableTask, pydantic=True)
def with_model(self: DurableTask, order: Order) -> int:
    return self.step.run("one", order, lambda o: len(effect(self.request.id, "one", "one")) + o.value)

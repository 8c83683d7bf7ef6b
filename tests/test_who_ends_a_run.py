"""Who may end a run or let it begin again, and that what comes too late changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, RunRefused, Runs
from celery_steps.engine.entries import pack_call
from celery_steps.store.binding import Binding
from celery_steps.store.keys import RunId
from celery_steps.worker import runtime
from delivering import close, deliver, make_app
from servers import RedisServer

TICKET = {"steps_ticket": True}


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server)
    yield app
    close(app)


def claimed(app: Celery, namespace: str, run: RunId, token: str) -> Binding:
    """An attempt of a run in a process that is not this one."""
    binding = runtime.of(app).main_store.bind(namespace, run, token, app.main or "")
    claim, _ = binding.claim(token.ljust(32), pack_call(token, str(run), run.task, None, 0), retries=0, message=b"")
    assert claim.verdict == "OK"
    return binding


def test_a_refused_retry_does_not_forget_that_the_run_was_cancelled(app: Celery) -> None:
    paid: list[int] = []

    @app.task(bind=True, base=DurableTask, name="pay", namespace="shared")
    def pay(self: DurableTask) -> Any:
        return self.step.run("pay", lambda: paid.append(1))

    runs = Runs(app)
    other = claimed(app, "shared", RunId("other", "id-0"), "worker@there/7/1/1/")
    runs.cancel("id-1")
    deliver(pay, id="id-1", headers={"steps_namespace": "shared"})
    with pytest.raises(RunRefused):
        runs.retry("id-1")
    other.release(0)
    deliver(pay, id="id-1", headers={"steps_namespace": "shared", **TICKET})
    assert (runs.get("id-1").status, paid) == ("cancelled", [])

"""Who may end a run or let it begin again, and that what comes too late changes nothing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from celery_steps import DurableTask, JournalLost, RunRefused, Runs
from celery_steps.engine.entries import pack_call, pack_rollback
from celery_steps.past import Worker, worker_of
from celery_steps.store.binding import Binding
from celery_steps.store.keys import RunId
from celery_steps.worker import process, runtime
from celery_steps.worker.process import token, token_prefix
from delivering import close, deliver, make_app
from servers import RedisServer

TICKET = {"steps_ticket": True}


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server)
    yield app
    close(app)


def claimed(app: Celery, namespace: str, run: RunId, token: str) -> Binding:
    """An attempt of a run that somebody else makes."""
    binding = runtime.of(app).main_store.bind(namespace, run, token, app.main or "")
    claim, _ = binding.claim(uuid4().hex, pack_call(token, str(run), run.task, None, 0), retries=0, message=b"")
    assert claim.verdict == "OK"
    return binding


def test_a_refused_retry_does_not_forget_that_the_run_was_cancelled(app: Celery) -> None:
    paid: list[int] = []

    @app.task(bind=True, base=DurableTask, name="pay", namespace="shared")
    def pay(self: DurableTask) -> Any:
        return self.step.run("pay", lambda: paid.append(1))

    runs = Runs(app)
    other = claimed(app, "shared", RunId("other", "id-0"), token("worker@there"))
    runs.cancel("id-1")
    deliver(pay, id="id-1", headers={"steps_namespace": "shared"})
    with pytest.raises(RunRefused):
        runs.retry("id-1")
    other.release(0)
    deliver(pay, id="id-1", headers={"steps_namespace": "shared", **TICKET})
    assert (runs.get("id-1").status, paid) == ("cancelled", [])


def test_an_attempt_that_was_replaced_is_not_taken_for_a_later_one_of_its_process(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_serial", itertools.count(1))
    tokens = [token("worker@here") for _ in range(12)]
    run, store = RunId("pay", "id-1"), runtime.of(app).main_store
    old = claimed(app, run.id, run, tokens[0])
    old.release(0)
    claimed(app, run.id, run, tokens[-1])
    old.begin_rollback(uuid4().hex, pack_rollback(str(run), "failed", b""))
    assert (store.status(run.id, run), old.release(0)) == ("running", False)
    assert store.fields(run.id)["owner"] == tokens[-1]
    assert worker_of(tokens[-1]) == Worker("worker@here", os.getpid())
    assert all(one.startswith(token_prefix("worker@here", os.getpid())) for one in tokens)


def test_a_reopened_run_whose_hash_is_gone_fails_once_as_lost(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask, name="pay")
    def pay(self: DurableTask) -> Any:
        self.step.run("pay", lambda: 1)
        raise ValueError("no")

    runs, store = Runs(app), runtime.of(app).main_store
    deliver(pay, id="id-1")
    runs.retry("id-1")
    store.client.call("DEL", store.keys.namespace("id-1").run)
    lost = deliver(pay, id="id-1", headers={**TICKET, "steps_reopened": 1})
    assert type(lost.retval.exception) is JournalLost
    assert (runs.get("id-1").status, app.AsyncResult("id-1").state) == ("failed", "FAILURE")
    assert deliver(pay, id="id-1", headers=TICKET).info.state == "IGNORED"

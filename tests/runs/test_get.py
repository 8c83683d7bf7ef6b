"""Runs.get: one run, its attempts, and what it is doing."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, JournalLost, RunRefused, Runs
from celery_steps.past import Worker
from delivering import deliver
from runs.outside import crash, every_key, store_of
from servers import wait_until


def test_a_run_is_found_by_task_id_and_by_namespace(runs: Runs, greet: Any) -> None:
    deliver(greet, id="id-1", headers={"steps_namespace": "order 42/é"})
    assert runs.get("id-1") == runs.get("order 42/é")
    assert runs.get("id-1").namespace == "order 42/é"


def test_a_namespace_with_several_runs_says_so_and_lists_them(runs: Runs, greet: Any) -> None:
    for id in ("id-1", "id-2"):
        deliver(greet, id=id, headers={"steps_namespace": "order-42"})
    with pytest.raises(
        RunRefused,
        match=r"(?s)'order-42' has 2 runs: name one by its task id\.\n  id-[12]  shop\.greet  succeeded\n  id-[12]  shop\.greet",
    ):
        runs.get("order-42")
    assert runs.get("id-1").id == "id-1"


def test_a_run_that_nobody_knows_is_refused(runs: Runs) -> None:
    with pytest.raises(RunRefused, match="There is no run 'nothing'"):
        runs.get("nothing")
    with pytest.raises(RunRefused, match="no journal of 'nothing'"):
        runs.records("nothing")


def test_a_namespace_that_was_only_borrowed_has_records_and_no_run(app: Celery, runs: Runs) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("paid", lambda: True, namespace="order-42")

    deliver(task, id="id-1")
    with pytest.raises(RunRefused, match=r"no run of its own.*see its records"):
        runs.get("order-42")
    (record,) = runs.records("order-42")
    assert (record.key, record.result, record.run_id, record.attempt) == ("paid", True, "id-1", 0)


def test_what_took_a_runs_place_is_the_run(runs: Runs, greet: Any) -> None:
    deliver(greet, id="id-1")
    wait_until(lambda: datetime.now(timezone.utc) > runs.get("id-1").changed_at + timedelta(milliseconds=2))
    deliver(greet, id="id-1", replaced_task_nesting=1)
    newest, oldest = runs.list().runs
    assert newest.created_at > oldest.created_at
    assert runs.get("id-1").created_at == newest.created_at


def test_attempts_say_who_made_them_and_how_they_ended(app: Celery, runs: Runs, waiting: Any) -> None:
    crash(app, waiting, "id-1")
    deliver(waiting, 0, id="id-1", redelivered=True)
    deliver(waiting, 0, id="id-1", retries=1)
    run = runs.get("id-1")
    assert [(a.number, a.ended, a.recorded, a.retries) for a in run.history] == [
        (1, "interrupted", 0, 0),
        (2, "retrying", 1, 0),
        (3, "retrying", 0, 1),
    ]
    assert run.history[0].worker == Worker("gone@there", 77)
    assert run.history[1].worker.hostname == "worker@here"
    assert run.history[0].began_at < run.history[1].began_at
    assert run.attempts == 3


def test_a_running_run_has_an_owner_a_lease_and_after_a_crash_a_step_in_flight(app: Celery, runs: Runs) -> None:
    seen = []

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("charge", lambda: seen.append(runs.get("id-1")))

    crash(app, task, "id-1")
    assert runs.get("id-1").crashes == 0  # nobody has noticed yet
    deliver(task, id="id-1", redelivered=True)
    (run,) = seen
    assert (run.status, run.crashes, run.in_flight) == ("running", 1, ("charge", 1))
    assert run.owner is not None
    assert run.owner.hostname == "worker@here"
    assert run.lease_until is not None
    assert run.lease_until > run.changed_at
    assert [attempt.ended for attempt in run.history] == ["interrupted", "running"]
    assert runs.get("id-1").in_flight is None
    assert runs.get("id-1").owner is None


def test_a_suspended_run_says_what_it_waits_for(app: Celery, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_steps.engine.borrow._PATIENCE", 0)

    @app.task(bind=True, base=DurableTask)
    def busy(self: DurableTask) -> None:
        self.step.run("hold", lambda: deliver(waits, id="waits"))

    @app.task(bind=True, base=DurableTask)
    def waits(self: DurableTask) -> None:
        self.step.run("paid", lambda: True, namespace="busy")

    deliver(busy, id="busy")
    run = runs.get("waits")
    assert (run.status, run.waiting) == ("suspended", "namespace 'busy'")
    assert run.history[-1].ended == "suspended"


def test_a_run_whose_journal_was_lost_says_so(app: Celery, runs: Runs, waiting: Any) -> None:
    deliver(waiting, 0, id="id-1")
    store_of(app).client.call("DEL", store_of(app).keys.namespace("id-1").journal)
    deliver(waiting, 0, id="id-1", retries=1)
    run = runs.get("id-1")
    assert run.status == "failed"
    assert isinstance(run.error, JournalLost)
    assert run.history == ()
    assert runs.purge(namespace="id-1") == 1
    assert every_key(app) == set()

"""Runs.cancel, pause and unpause: whatever the run does at that time."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from celery_steps import DurableTask, RunRefused, Runs
from celery_steps.codec import Codec
from celery_steps.engine.attempt import active_attempt
from celery_steps.engine.event import encode_data
from celery_steps.store.store import Store
from celery_steps.worker import runtime
from celery_steps.worker.result import Result
from delivering import deliver, published
from runs.outside import every_key, store_of

Task = Any


@pytest.fixture
def sleeper(app: Celery) -> Task:
    @app.task(name="shop.sleeper", base=DurableTask, bind=True)
    def sleeper(self: DurableTask, asked: str = "") -> str:
        self.step.run("before", lambda: done.append("before"))
        if asked:
            getattr(Runs(app), asked)(self.request.id)
        self.step.run("during", lambda: done.append("during"))
        self.step.wait_for_event("go")
        self.step.run("after", lambda: done.append("after"))
        return "done"

    done: list[str] = []
    sleeper.done = done
    return sleeper


def status(runs: Runs, id: str) -> str:
    return runs.get(id).status


def redeliver(app: Celery, task: Task, id: str, *args: Any) -> Any:
    """What was published comes to a worker."""
    assert [message.headers["id"] for message in published(app)] == [id]
    return deliver(task, *args, id=id, headers={"steps_ticket": True})


def test_a_suspended_run_is_cancelled_at_once(app: Celery, runs: Runs, sleeper: Task) -> None:
    deliver(sleeper, id="id-1")
    runs.cancel("id-1")
    redeliver(app, sleeper, "id-1")
    assert status(runs, "id-1") == "cancelled"
    assert sleeper.AsyncResult("id-1").state == "REVOKED"
    assert sleeper.done == ["before", "during"]


def test_after_a_cancel_no_further_step_starts(app: Celery, runs: Runs, sleeper: Task) -> None:
    deliver(sleeper, "cancel", id="id-1")
    assert sleeper.done == ["before", "during"]  # it was about to start the second
    assert status(runs, "id-1") == "cancelled"


def test_a_task_that_has_not_begun_is_cancelled_at_its_first_step(runs: Runs, sleeper: Task) -> None:
    runs.cancel("id-1")
    deliver(sleeper, id="id-1")
    assert sleeper.done == []
    assert status(runs, "id-1") == "cancelled"


def test_also_while_the_broker_is_away_for_the_mark_is_what_counts(
    app: Celery, runs: Runs, sleeper: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("no broker")

    with monkeypatch.context() as outage:
        outage.setattr(app.control, "revoke", away)
        runs.cancel("id-1")
    assert "workers could not be told to drop it before: no broker" in caplog.text
    deliver(sleeper, id="id-1")
    assert (sleeper.done, status(runs, "id-1")) == ([], "cancelled")


def test_also_if_its_worker_dies_before_it_has_ended(
    app: Celery, runs: Runs, sleeper: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Result) -> None:
        raise KeyboardInterrupt

    runs.cancel("id-1")
    with monkeypatch.context() as dying:
        dying.setattr(Result, "revoke", die)
        with pytest.raises(KeyboardInterrupt):
            deliver(sleeper, id="id-1")
    store_of(app).client.call("HSET", store_of(app).keys.namespace("id-1").run, "lease", "0")
    deliver(sleeper, id="id-1", redelivered=True)
    assert sleeper.done == []
    assert status(runs, "id-1") == "cancelled"


def test_what_was_asked_before_it_began_is_forgotten_once_it_is_cancelled(app: Celery, runs: Runs, sleeper: Task) -> None:
    runs.cancel("id-1")
    deliver(sleeper, id="id-1")
    assert not [key for key in every_key(app) if "cancel:" in key]
    runs.purge(namespace="id-1")
    deliver(sleeper, id="id-1")
    assert sleeper.done == ["before", "during"], "sent anew, it is another run"


def test_a_cancel_in_the_moment_in_which_a_run_begins_is_not_lost(
    app: Celery, runs: Runs, sleeper: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = Store.mark_cancelled

    def late(self: Store, task_id: str) -> None:
        deliver(sleeper, id=task_id)
        mark(self, task_id)

    monkeypatch.setattr(Store, "mark_cancelled", late)
    runs.cancel("id-1")
    redeliver(app, sleeper, "id-1")
    assert status(runs, "id-1") == "cancelled"
    runs.retry("id-1")
    redeliver(app, sleeper, "id-1")
    assert status(runs, "id-1") == "suspended", "the mark is for what was not retried"


def test_a_refused_retry_leaves_the_index_of_a_finished_run_to_expire(app: Celery, runs: Runs, greet: Task) -> None:
    deliver(greet, id="id-1", headers={"steps_namespace": "order-1"})
    with pytest.raises(RunRefused):
        runs.retry("order-1")
    store = store_of(app)
    assert store.client.call("PTTL", store.keys.index("id-1")) > 0


@pytest.mark.parametrize("asked", ["cancel", "pause", "unpause"])
def test_a_finished_run_refuses(app: Celery, runs: Runs, greet: Task, asked: str) -> None:
    deliver(greet, id="id-1")
    with pytest.raises(RunRefused, match=f"is succeeded, so it cannot be asked to {asked}. It is finished."):
        getattr(runs, asked)("id-1")


@pytest.mark.parametrize("asked", ["pause", "unpause"])
def test_what_has_not_begun_can_only_be_cancelled(runs: Runs, asked: str) -> None:
    with pytest.raises(RunRefused, match="There is no run 'id-1'"):
        getattr(runs, asked)("id-1")


def test_a_paused_run_starts_no_step_until_it_is_unpaused(app: Celery, runs: Runs, sleeper: Task) -> None:
    deliver(sleeper, "pause", id="id-1")
    assert status(runs, "id-1") == "paused"
    store = runtime.of(app).store
    assert store.deliver("id-1", "go", "event-1", encode_data(Codec(), "go", {"by": "ann"}, "data")) is not None
    assert published(app) == [], "an event does not wake a paused run"
    deliver(sleeper, "", id="id-1", headers={"steps_ticket": True})
    assert "after" not in sleeper.done
    runs.unpause("id-1")
    assert [message.headers["id"] for message in published(app)] == ["id-1"]
    deliver(sleeper, "", id="id-1", headers={"steps_ticket": True})
    assert status(runs, "id-1") == "succeeded", "the event was kept"


def test_a_suspended_run_is_paused_where_it_is_and_comes_back_as_it_was(app: Celery, runs: Runs, sleeper: Task) -> None:
    deliver(sleeper, id="id-1")
    runs.pause("id-1")
    runs.pause("id-1")
    assert status(runs, "id-1") == "paused"
    assert published(app) == []
    runs.unpause("id-1")
    redeliver(app, sleeper, "id-1")
    assert status(runs, "id-1") == "suspended"
    with pytest.raises(RunRefused, match=r"is suspended, so it cannot be asked to unpause\. It waits already"):
        runs.unpause("id-1")


def test_a_paused_run_can_be_cancelled(app: Celery, runs: Runs, sleeper: Task) -> None:
    deliver(sleeper, id="id-1")
    runs.pause("id-1")
    runs.cancel("id-1")
    redeliver(app, sleeper, "id-1")
    assert status(runs, "id-1") == "cancelled"


def test_a_namespace_with_several_open_runs_is_no_name_for_one(runs: Runs, sleeper: Task) -> None:
    for id in ("id-1", "id-2"):
        deliver(sleeper, id=id, headers={"steps_namespace": "order-42"})
    with pytest.raises(RunRefused, match="has 2 runs: name one by its task id"):
        runs.cancel("order-42")
    runs.cancel("id-2")


def test_step_cancelled_tells_a_handler(app: Celery, runs: Runs) -> None:
    told: list[bool] = []

    @app.task(name="shop.long", base=DurableTask, bind=True)
    def long(self: DurableTask) -> None:
        def work() -> None:
            told.append(self.step.cancelled)
            runs.cancel("id-1")
            attempt.saw(attempt.store.renew())  # as the heartbeat does
            told.append(self.step.cancelled)

        self.step.inspect()
        attempt = active_attempt()
        self.step.run("work", work)
        self.step.run("more", lambda: told.append(True))

    deliver(long, id="id-1")
    assert told == [False, True]
    assert [(record.key, record.status) for record in runs.records("id-1")] == [("work", "done")]
    assert status(runs, "id-1") == "cancelled"

"""What a suspended run leaves in Celery's result backend: its state, and the groups that wait for it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.app.task import Context

from celery_steps import DurableTask
from celery_steps.store.keys import RunId
from celery_steps.worker import runtime
from celery_steps.worker.chords import at_least, groups_of
from celery_steps.worker.process import token_prefix
from celery_steps.worker.revoke import cancel
from delivering import close, deliver, make_app, namespace_fields
from servers import RedisServer

_DAY = 86_400


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server, steps_lease_ttl=600)  # no heartbeat comes in between
    yield app
    close(app)


@pytest.mark.parametrize("end", ["SUCCESS", "FAILURE", "REVOKED"])
def test_an_attempt_that_stalled_leaves_no_suspended_over_the_final_state(app: Celery, end: str) -> None:
    run = RunId("order", str(uuid4()))
    attempts = []

    def replaced(task: Any) -> None:
        """The lease runs out, and another attempt goes to its end."""
        store = runtime.of(app).store
        assert store.release(run.id, run, token_prefix("worker@here", os.getpid()), 0)
        if end == "REVOKED":
            assert cancel(store, run.id, run)
        other = threading.Thread(target=deliver, args=(task,), kwargs={"id": run.id, "redelivered": True})
        other.start()
        other.join()
        assert app.AsyncResult(run.id).state == end

    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> str:
        self.step.run("one", lambda: 1)
        attempts.append(self.request.id)
        if len(attempts) == 1:
            replaced(order)
            self.step.sleep("nap", 3600)
        if end == "FAILURE":
            raise ValueError("it fails")
        return "done"

    deliver(order, id=run.id)
    assert app.AsyncResult(run.id).state == end
    assert namespace_fields(app, run.id)[f"{run}:status"] in ("succeeded", "failed", "cancelled")


def test_a_run_leaves_even_where_its_state_cannot_be_stored(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.sleep("nap", 3600)

    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("the result backend is down")

    monkeypatch.setattr(app.backend, "store_result", down)
    deliver(order, id="no-state")
    assert namespace_fields(app, "no-state")["order/no-state/0:status"] == "suspended"
    assert "order[no-state] is suspended, which could not be stored as its state" in caplog.text


# -- groups and chords --------------------------------------------------------------------------------------------------


def test_the_groups_that_wait_are_those_of_what_follows_too() -> None:
    outer = {"task": "collect", "options": {"group_id": "outer"}}
    inner = {"task": "collect", "options": {"group_id": "middle", "chord": outer}}
    assert groups_of(Context(group="mine", chord=inner)) == ["mine", "middle", "outer"]
    assert groups_of(Context(chain=[inner, {"task": "add", "options": {}}])) == ["middle", "outer"]
    assert groups_of(Context()) == []


def test_what_is_kept_longer_or_for_ever_stays_so(app: Celery) -> None:
    client = app.backend.client
    client.set("short", 1, ex=10)
    client.set("long", 1, ex=1000)
    client.set("for ever", 1)
    at_least(app.backend, ["short", "long", "for ever", "missing"], 100_000)
    assert [client.ttl(key) for key in ("for ever", "missing")] == [-1, -2]
    assert 90 < client.ttl("short") <= 100
    assert client.ttl("long") > 900


def test_a_member_comes_back_in_time_to_keep_its_group(app: Celery) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.sleep("nap", 10 * _DAY)

    client = app.backend.client
    client.set("celery-taskset-meta-the-group.s", 3, ex=10)
    deliver(order, id="member", group="the-group")
    assert client.ttl("celery-taskset-meta-the-group.s") > _DAY - 100
    deliver(order, id="alone")
    wakes = {id: int(namespace_fields(app, id)[f"order/{id}/0:wake"]) for id in ("member", "alone")}
    assert 9.4 * _DAY * 1000 < wakes["alone"] - wakes["member"] < 9.6 * _DAY * 1000


@pytest.mark.parametrize(("seconds", "warns"), [(2 * _DAY, True), (3600, False)])
def test_other_result_backends_get_a_warning(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, seconds: float, warns: bool
) -> None:
    app = make_app(redis_server, result_backend="cache+memory://")
    app.backend_cls = "cache+memory://"

    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.sleep("nap", seconds)

    with caplog.at_level(logging.WARNING, "celery_steps"):
        deliver(order, id="member", group="the-group")
    assert ("Raise result_expires, or use the Redis result backend" in caplog.text) == warns
    close(app)

"""The brokers: Redis and RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_steps.engine.event import Emission
from celery_steps.store.triggers import Triggers
from celery_steps.worker import events
from servers import RabbitServer, wait_until
from worker.workers import STORE, Stage


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_stage(request: pytest.FixtureRequest, make_stage: Callable[..., Stage]) -> Stage:
    if request.param == "redis":
        return make_stage(steps_lease_ttl=8)
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    return make_stage(broker=server.url(), steps_lease_ttl=8, task_default_queue=request.node.name)  # one node for all tests


def test_a_run_survives_kills_retries_and_duplicates(broker_stage: Stage) -> None:
    stage = broker_stage
    stage.start()
    killed = stage.send("three", "two")
    stage.kill_in(killed, "two")
    stage.open_gate(killed)
    retried = stage.send("retrying", 2)
    assert stage.get(killed) == ["one", "two", "three"]
    assert stage.get(retried)[:2] == ["one", 2]
    stage.wait_for(killed, "on_success")
    assert [stage.did(killed).count(what) for what in ("one", "two", "three", "on_success")] == [1, 2, 1, 1]
    assert stage.did(retried).count("one") == 1


def test_a_task_without_steps_that_is_killed_is_delivered_once_more(broker_stage: Stage) -> None:
    stage = broker_stage
    stage.start()
    result = stage.send("no_steps")
    stage.kill_in(result, "body")
    stage.wait_for(result, "body", times=2)
    stage.open_gate(result)
    assert stage.get(result) == "body"
    assert stage.did(result) == ["body", "body"]


def test_a_worker_that_is_killed_as_a_whole_loses_nothing(broker_stage: Stage) -> None:
    stage = broker_stage
    first = stage.start(steps_lease_ttl=3)
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    first.kill()
    stage.open_gate(result)
    stage.start(steps_lease_ttl=3)
    assert stage.get(result) == ["one", "two", "three"]
    stage.wait_for(result, "on_success")
    assert [stage.did(result).count(what) for what in ("one", "two", "three", "on_success")] == [1, 2, 1, 1]


def test_reject_with_requeue_goes_through_the_broker(broker_stage: Stage) -> None:
    stage = broker_stage
    stage.start()
    result = stage.send("ending", "requeue")
    assert stage.get(result) == "requeue"
    assert stage.did(result) == ["one", "body", "body"]


def test_what_one_app_emits_starts_a_durable_task_of_another_once(broker_stage: Stage) -> None:
    stage = broker_stage
    stage.app.conf.steps_backend = stage.server.url(STORE)
    depot = stage.start(app="worker.apps:depot", steps_lease_ttl=3)
    wait_until(lambda: [task.task for task in Triggers(stage.store).of("order.sold")] == ["ship"])
    stage.start(app="worker.apps:shop", steps_lease_ttl=3)
    assert stage.get(stage.app.send_task("sell", args=(7,), queue="shop-queue")) == 1
    assert stage.get(stage.app.send_task("sell", args=(8, "another app"), queue="shop-queue")) == 0
    order = stage.app.AsyncResult("7")  # under this id the ledger has what the depot did
    stage.wait_for(order, "packed")
    depot.kill()
    stage.start(app="worker.apps:depot", steps_lease_ttl=3)
    assert events.emit(stage.app, Emission("paid", {"by": "ann"}, "event-1", to="order-7")) in (0, 1)
    stage.wait_for(order, "shipped")
    assert stage.did(order) == ["packed", "shipped"]

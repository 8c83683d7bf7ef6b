"""Warm, soft and cold shutdown: no run is lost, and none is counted as crashed."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from celery.result import AsyncResult

from servers import wait_until
from worker.workers import CELERY, Stage

_soft_shutdown = pytest.mark.skipif(CELERY < (5, 5), reason="Celery has a soft shutdown since 5.5")


def test_at_a_warm_shutdown_a_run_leaves_at_its_next_step_boundary(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=600)
    worker = stage.start()
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    worker.send(signal.SIGTERM)
    wait_until(lambda: "control" in stage.fields(result), 20, worker.text)
    stage.open_gate(result)
    wait_until(worker.has_ended, 20)
    assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 1, 0], "the handler ended, no other began"
    stage.start()
    assert stage.get(result) == ["one", "two", "three"]
    assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 1, 1]
    stage.wait_until_settled(result, "succeeded")
    assert stage.fields(result).get("crashes", "0") == "0"
    assert stage.fields(result)["attempts"] == "2"


def _assert_carried_on_elsewhere(stage: Stage, result: AsyncResult) -> None:
    """The first worker has ended with the task in its second step; a new one carries on long before any lease ends."""
    (worker,) = stage.workers
    wait_until(worker.has_ended, 30, worker.text)
    stage.open_gate(result)
    stage.start()
    assert stage.get(result) == ["one", "two", "three"]
    assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 2, 1]
    stage.wait_until_settled(result, "succeeded")
    assert stage.fields(result).get("crashes", "0") == "0"
    assert stage.fields(result)["attempts"] == "2"


@pytest.mark.parametrize("task", ["three", "three_early"])
def test_after_a_cold_shutdown_another_worker_carries_on_at_once(make_stage: Callable[..., Stage], task: str) -> None:
    stage = make_stage(steps_lease_ttl=600)
    worker = stage.start()
    result = stage.send(task, "two")
    stage.wait_for(result, "two")
    worker.send(signal.SIGQUIT)
    _assert_carried_on_elsewhere(stage, result)


def test_a_cold_shutdown_in_the_middle_of_a_warm_one_frees_the_run_too(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=600)
    worker = stage.start()
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in worker.text(), 10)
    worker.send(signal.SIGQUIT)
    _assert_carried_on_elsewhere(stage, result)


@_soft_shutdown
def test_a_soft_shutdown_that_is_too_short_frees_the_run(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=600, worker_soft_shutdown_timeout=1.0)
    worker = stage.start()
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    worker.send(signal.SIGQUIT)
    _assert_carried_on_elsewhere(stage, result)


@_soft_shutdown
def test_a_soft_shutdown_that_is_long_enough_lets_the_task_end(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(worker_soft_shutdown_timeout=3.0)
    worker = stage.start()
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    worker.send(signal.SIGQUIT)
    wait_until(lambda: "Soft Shutdown" in worker.text(), 10)
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two", "three"]
    wait_until(worker.has_ended, 30)
    assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 1, 1]
    stage.wait_until_settled(result, "succeeded")


def test_a_retry_that_waits_outlives_every_worker(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    worker = stage.start()
    result = stage.send("retrying", 1, 2)
    stage.wait_until_known(result, "retrying")
    worker.kill()
    stage.start()
    assert stage.get(result)[:2] == ["one", 1]
    assert stage.did(result).count("one") == 1

"""The pools of Celery: where tasks are processes, threads and greenlets, and where they are in the main process itself."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from celery.concurrency.base import BasePool
from celery.concurrency.gevent import TaskPool as GreenletPool
from celery.exceptions import TaskRevokedError, TimeLimitExceeded

from servers import wait_until
from worker.workers import Stage

POOLS = ("prefork", "threads", "gevent", "solo")


@pytest.mark.parametrize("pool", POOLS)
def test_a_killed_worker_of_any_pool_is_replaced_by_another(make_stage: Callable[..., Stage], pool: str) -> None:
    stage = make_stage()
    first = stage.start(pool=pool)
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    first.kill()
    stage.open_gate(result)
    stage.start(pool=pool)
    assert stage.get(result) == ["one", "two", "three"]
    stage.wait_for(result, "on_success")
    assert [stage.did(result).count(what) for what in ("one", "two", "three", "on_success")] == [1, 2, 1, 1]
    stage.wait_until_settled(result, "succeeded")


@pytest.mark.parametrize("pool", POOLS)
def test_retries_carry_on_in_any_pool(make_stage: Callable[..., Stage], pool: str) -> None:
    stage = make_stage()
    stage.start(pool=pool)
    results = [stage.send("retrying", 2) for _ in range(4)]
    for result in results:
        assert stage.get(result) == ["one", 2, "celery"]
        assert stage.did(result).count("one") == 1


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_runs_side_by_side_in_one_process_do_not_mix(make_stage: Callable[..., Stage], pool: str) -> None:
    stage = make_stage()
    stage.start(pool=pool, concurrency=4)
    results = [stage.send("three", "two") for _ in range(4)]
    for result in results:
        stage.wait_for(result, "two")
    for result in results:
        stage.open_gate(result)
    for result in results:
        assert stage.get(result) == ["one", "two", "three"]
        assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 1, 1]


def test_the_hard_time_limit_of_a_greenlet_ends_the_run(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=60)
    stage.start(pool="gevent")
    result = stage.send("three_limited", "two", namespace="limited", link_error=stage.task("tell_error"))
    with pytest.raises(TimeLimitExceeded):
        stage.get(result)
    stage.wait_until_settled(result, "failed", "limited")
    assert stage.did(result)[:2] == ["one", "two"]
    assert "three" not in stage.did(result)
    stage.wait_for(result, "errback")


def test_after_a_cold_shutdown_of_greenlets_another_worker_carries_on(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()  # no blocking call is allowed where Celery handles the signal: the lease must run out
    first = stage.start(pool="gevent")
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    first.send(signal.SIGQUIT)
    wait_until(first.has_ended, 30, first.text)
    stage.open_gate(result)
    stage.start(pool="gevent")
    assert stage.get(result) == ["one", "two", "three"]
    assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 2, 1]


@pytest.mark.skipif(GreenletPool.terminate_job is BasePool.terminate_job, reason="this Celery cannot end a greenlet")
def test_terminate_ends_a_greenlet_and_its_run(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=60)
    stage.start(pool="gevent")
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        stage.get(result)
    stage.wait_until_settled(result, "cancelled")
    assert stage.did(result) == ["one", "two"]


def test_terminate_cancels_a_run_in_a_thread_after_its_handler(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.start(pool="threads")
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    result.revoke(terminate=True)
    wait_until(lambda: stage.fields(result).get("control"), 10)
    stage.open_gate(result)
    with pytest.raises(TaskRevokedError):
        stage.get(result)
    stage.wait_until_settled(result, "cancelled")
    assert stage.did(result) == ["one", "two"]

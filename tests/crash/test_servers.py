"""Servers are flushed, killed and started again while runs run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery.result import AsyncResult

from servers import RedisServer, wait_until
from worker.workers import BROKER, Stage

THREE = ["one", "two", "three"]


def steps(stage: Stage, *results: AsyncResult) -> list[str]:
    """What the handlers of `three` did, in order."""
    return [what for result in results for what in stage.did(result) if what in THREE]


def test_runs_that_are_running_held_and_retrying_survive_a_flushed_broker(
    stage_on: Callable[..., Stage], start_redis: Callable[..., RedisServer]
) -> None:
    stage = stage_on(start_redis())
    stage.start(concurrency=2)
    running = stage.send("three", "two", namespace="order")
    stage.wait_for(running, "two")
    held = stage.send("three", "two", namespace="order")
    wait_until(lambda: stage.fields(held, "order").get("status") == "held")
    retrying = stage.send("retrying", 1, 2.5)
    stage.wait_until_known(retrying, "retrying")
    stage.server.flushdb(BROKER)
    stage.kill_in(running, "two")
    for result in (running, held):  # either may be the next to have the namespace
        stage.open_gate(result)
    for result in (running, held):
        assert stage.get(result) == THREE
        stage.wait_until_settled(result, "succeeded", "order")
    assert sorted(steps(stage, running, held)) == ["one", "three", "two", "two"]
    assert stage.get(retrying)[1] == 1
    assert stage.did(retrying).count("one") == 1
    stage.wait_until_settled(retrying, "succeeded")


@pytest.mark.parametrize("sync", ["always", "everysec"])
def test_runs_carry_on_over_a_killed_redis_with_an_append_only_file(
    stage_on: Callable[..., Stage], start_redis: Callable[..., RedisServer], sync: str
) -> None:
    server, others = start_redis(appendonly=True, options=("--appendfsync", sync)), start_redis()
    stage = stage_on(server, broker=others.url(0), backend=others.url(1), steps_lease_ttl=30)
    stage.start(concurrency=3)
    at_gate = stage.send("three", "two")
    stage.wait_for(at_gate, "two")
    retrying = stage.send("retrying", 1, 1)
    stage.wait_until_known(retrying, "retrying")
    busy = [stage.send("three") for _ in range(100)]
    wait_until(lambda: sum("three" in stage.did(result) for result in busy) > 5)
    server.restart(kill=True)
    stage.open_gate(at_gate)
    for result in [at_gate, *busy]:
        assert stage.get(result) == THREE
        stage.wait_until_settled(result, "succeeded")
        # No process died and no lease ended, so each handler was called once.
        assert steps(stage, result) == THREE
    assert stage.get(retrying)[1] == 1
    stage.wait_until_settled(retrying, "succeeded")


@pytest.mark.parametrize("only_the_store", [True, False], ids=["the store's", "the only one"])
def test_a_redis_away_for_longer_than_the_lease_stops_the_attempt_and_the_run_carries_on_when_it_is_back(
    stage_on: Callable[..., Stage], start_redis: Callable[..., RedisServer], only_the_store: bool
) -> None:
    server = start_redis(appendonly=True)
    others = start_redis() if only_the_store else server
    stage = stage_on(server, broker=others.url(0), backend=others.url(1))
    worker = stage.start(concurrency=2)
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    server.stop(kill=True)
    stage.open_gate(result)
    wait_until(lambda: f"[{result.id}]: Redis at" in worker.text(), message="the attempt stops")
    server.restart(kill=True)
    if not only_the_store:  # kombu's Redis transport does not survive its broker: a supervisor starts another worker
        worker.kill()
        stage.start()
    assert stage.get(result) == THREE
    stage.wait_until_settled(result, "succeeded")
    # The outcome of two could not be recorded.
    assert steps(stage, result) == ["one", "two", "two", "three"]

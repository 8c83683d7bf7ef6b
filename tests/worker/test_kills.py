"""Processes are killed; the runs go on, and no recorded step is executed again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery.exceptions import WorkerLostError

from celery_steps import TooManyCrashes
from servers import wait_until
from worker.workers import Stage


@pytest.mark.parametrize("task", ["three", "three_early", "three_retried"])
def test_a_task_whose_process_is_killed_in_a_step_carries_on_with_that_step(stage: Stage, task: str) -> None:
    result = stage.send(task, "two")
    stage.kill_in(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two", "three"]
    assert [what for what in stage.did(result) if not what.startswith(("on_", "after_"))] == ["one", "two", "two", "three"]
    stage.wait_until_settled(result, "succeeded")


def test_a_killed_process_is_noticed_long_before_its_lease_is_over(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=600)
    stage.start()
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    stage.wait_until_accepted(result)
    stage.kill_in(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two", "three"]


def test_a_crash_is_counted_until_something_new_is_recorded(stage: Stage) -> None:
    result = stage.send("three", "two")
    stage.kill_in(result, "two")
    stage.wait_for(result, "two", times=2)
    assert stage.fields(result)["crashes"] == "1"
    stage.open_gate(result)
    stage.get(result)
    stage.wait_until_settled(result, "succeeded")
    assert stage.fields(result)["crashes"] == "0"


def test_a_task_killed_between_two_steps_carries_on_after_the_first(stage: Stage) -> None:
    result = stage.send("between")
    stage.kill_in(result, "body")
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two"]
    assert stage.did(result) == ["one", "body", "body", "two"]


def test_a_task_killed_again_and_again_still_ends(stage: Stage) -> None:
    result = stage.send("three", "three")
    for times in (1, 2, 3):
        stage.kill_in(result, "three", times)
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two", "three"]
    assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 1, 4]


def test_a_step_in_another_namespace_is_carried_on_when_its_lease_is_over(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.start()
    result = stage.send("borrowing", "elsewhere")
    stage.kill_in(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two"]
    assert stage.did(result) == ["one", "two", "two"]


def test_a_task_without_steps_that_is_killed_is_delivered_once_more(stage: Stage) -> None:
    result = stage.send("no_steps")
    stage.kill_in(result, "body")
    stage.wait_for(result, "body", times=2)
    stage.open_gate(result)
    assert stage.get(result) == "body"
    assert stage.fields(result) == {}


def test_a_task_without_steps_that_kills_its_process_each_time_fails(stage: Stage) -> None:
    result = stage.send("plain_poison")
    with pytest.raises(WorkerLostError):
        stage.get(result)
    assert stage.did(result) == ["body", "body"]


def test_a_step_that_kills_its_process_each_time_fails_the_run_and_is_named(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_max_crashes=2)
    stage.start()
    result = stage.send("poison")
    with pytest.raises(TooManyCrashes, match=r"crashed 2 times in a row .* in step 'bad' \(occurrence 1\)"):
        stage.get(result)
    assert stage.did(result) == ["good", "bad", "bad"]
    stage.wait_until_settled(result, "failed")


def test_a_worker_that_is_killed_as_a_whole_is_replaced_by_another(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    first = stage.start()
    results = [stage.send("three", "two") for _ in range(2)]
    for result in results:
        stage.wait_for(result, "two")
    stage.start()
    first.kill()
    for result in results:
        stage.open_gate(result)
    for result in results:
        assert stage.get(result) == ["one", "two", "three"]
        assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 2, 1]


def test_a_task_without_result_is_carried_on_too(stage: Stage) -> None:
    result = stage.send("three_silent", "two", ignore_result=True)
    stage.kill_in(result, "two")
    stage.open_gate(result)
    stage.wait_until_settled(result, "succeeded")
    assert stage.did(result) == ["one", "two", "two", "three"]
    assert result.state == "PENDING"


def test_who_waits_for_the_namespace_of_a_killed_task_gets_its_turn(stage: Stage) -> None:
    first = stage.send("three", "two", namespace="shared")
    stage.wait_for(first, "two")
    second = stage.send("three", "two", namespace="shared")
    wait_until(lambda: stage.fields(second, "shared").get("status") == "held", 30)
    stage.kill_in(first, "two")
    stage.open_gate(first)
    stage.open_gate(second)
    assert stage.get(first) == stage.get(second) == ["one", "two", "three"]
    together = stage.did(first) + stage.did(second)
    assert [together.count(what) for what in ("one", "three")] == [1, 1]

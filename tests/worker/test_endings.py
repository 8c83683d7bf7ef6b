"""Ends that are neither success nor failure, and what surrounds a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery.exceptions import TaskRevokedError

from servers import wait_until
from worker.workers import CELERY, Stage


def test_ignore_ends_the_run_and_stores_no_result(stage: Stage) -> None:
    result = stage.send("ending", "ignore")
    stage.wait_until_settled(result, "succeeded")
    assert result.state == "PENDING"
    assert stage.did(result) == ["one", "body"]


def test_reject_without_requeue_ends_the_run_as_failed(stage: Stage) -> None:
    result = stage.send("ending", "reject")
    stage.wait_until_settled(result, "failed")
    stage.wait_until_idle()
    assert stage.did(result) == ["one", "body"]


def test_reject_with_requeue_brings_the_run_back(stage: Stage) -> None:
    result = stage.send("ending", "requeue")
    assert stage.get(result) == "requeue"
    stage.wait_until_settled(result, "succeeded")
    assert stage.did(result) == ["one", "body", "body"]
    assert stage.fields(result).get("crashes", "0") == "0"


def test_a_run_replaced_by_itself_starts_with_an_empty_journal_each_time(stage: Stage) -> None:
    result = stage.send("looping", 3)
    assert stage.get(result) == "done"
    assert stage.did(result) == ["one", "one", "one"]
    stage.wait_until_settled(result, "succeeded")
    entries = [entry.kind for entry in stage.store.entries(result.id)]
    assert entries.count("step") == 3
    assert entries.count("finish") == 3


def test_a_run_replaced_by_a_chain_has_the_chains_result(stage: Stage) -> None:
    result = stage.send("replaced_by_chain")
    assert stage.get(result) == 6
    stage.wait_until_settled(result, "succeeded")
    assert stage.did(result) == ["one"]


def test_a_task_that_has_expired_before_its_first_delivery_is_celerys(stage: Stage) -> None:
    result = stage.send("three", expires=-1)
    with pytest.raises(TaskRevokedError, match="expired"):
        stage.get(result)
    assert stage.did(result) == []
    assert stage.fields(result) == {}


def test_an_open_run_does_not_expire(stage: Stage) -> None:
    result = stage.send("three", "two", expires=3)
    stage.wait_for(result, "two")
    # A duplicate of its message that has expired meanwhile, as the broker would deliver it late.
    stage.send("three", "two", task_id=result.id, expires=-1)
    wait_until(lambda: f"Discarding revoked task: worker.app.three[{result.id}]" in stage.workers[0].text(), 20)
    stage.kill_in(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two", "three"]
    assert result.state == "SUCCESS"
    stage.wait_until_settled(result, "succeeded")


def test_started_is_shown_while_the_run_is_running(stage: Stage) -> None:
    result = stage.send("tracked")
    pid = stage.wait_for(result, "one")
    assert result.state == "STARTED"
    assert result.info["pid"] == pid
    stage.open_gate(result)
    assert stage.get(result) == "one"


def test_started_is_shown_for_a_task_without_steps(stage: Stage) -> None:
    result = stage.send("tracked_no_steps")
    stage.wait_for(result, "body")
    assert result.state == "STARTED"
    stage.open_gate(result)
    assert stage.get(result) == "body"


def test_the_setting_for_started_counts_for_durable_tasks(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(task_track_started=True)
    stage.start()
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    assert result.state == "STARTED"
    stage.open_gate(result)
    stage.get(result)


def test_a_late_duplicate_never_turns_success_back_into_started(stage: Stage) -> None:
    result = stage.send("tracked")
    stage.open_gate(result)
    stage.get(result)
    stage.wait_until_settled(result, "succeeded")
    stage.send("tracked", task_id=result.id)
    wait_until(lambda: f"tracked[{result.id}] ignored" in stage.workers[0].text(), 20)
    assert result.state == "SUCCESS"
    assert stage.did(result) == ["one"]


def test_a_duplicate_of_a_running_task_does_not_run_beside_it(stage: Stage) -> None:
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    stage.send("three", "two", task_id=result.id)
    wait_until(lambda: f"three[{result.id}] ignored" in stage.workers[0].text(), 20)
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two", "three"]
    stage.wait_for(result, "on_success")
    assert [stage.did(result).count(what) for what in ("one", "two", "three", "on_success")] == [1, 1, 1, 1]


def test_hooks_of_the_user_are_called_once(stage: Stage) -> None:
    result = stage.send("three", "two")
    stage.kill_in(result, "two")
    stage.open_gate(result)
    stage.get(result)
    stage.wait_for(result, "after_return")
    assert [stage.did(result).count(hook) for hook in ("on_success", "on_failure", "on_retry", "after_return")] == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("task", "argument", "outcome"),
    [
        ("class_based", 4, 7),
        ("derived", 4, 107),
        ("shared", 4, 7),
        pytest.param(
            *("with_model", {"value": 4}, 7),
            marks=pytest.mark.skipif(CELERY < (5, 5), reason="Celery knows pydantic models since 5.5"),
        ),
    ],
)
def test_each_kind_of_task_carries_on(stage: Stage, task: str, argument: object, outcome: int) -> None:
    result = stage.send(task, argument)
    stage.kill_in(result, "one")
    stage.open_gate(result)
    assert stage.get(result) == outcome
    assert stage.did(result).count("one") == 2
    stage.wait_until_settled(result, "succeeded")

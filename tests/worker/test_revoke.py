"""Celery's revoke cancels the run, wherever it is."""

from __future__ import annotations

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from servers import wait_until
from worker.workers import Stage


def _assert_revoked(stage: Stage, result: AsyncResult) -> None:
    with pytest.raises(TaskRevokedError):
        stage.get(result)
    stage.wait_until_settled(result, "cancelled")
    stage.wait_until_idle()
    assert result.state == "REVOKED"


def test_revoke_with_terminate_ends_the_run_in_its_step(stage: Stage) -> None:
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    result.revoke(terminate=True)
    _assert_revoked(stage, result)
    assert stage.did(result) == ["one", "two"]


def test_revoke_with_sigkill_ends_the_run_too(stage: Stage) -> None:
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    result.revoke(terminate=True, signal="SIGKILL")
    _assert_revoked(stage, result)
    assert stage.did(result) == ["one", "two"]


def test_the_terminate_command_ends_the_run_too(stage: Stage) -> None:
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    stage.app.control.terminate(result.id)
    _assert_revoked(stage, result)


def test_terminate_frees_the_namespace(stage: Stage) -> None:
    first = stage.send("three", "two", namespace="revoked")
    stage.wait_for(first, "two")
    second = stage.send("three", namespace="revoked")
    wait_until(lambda: stage.fields(second, "revoked").get("status") == "held", 30)
    first.revoke(terminate=True)
    stage.wait_until_settled(first, "cancelled", "revoked")
    # Other arguments in the same namespace: that it is told so shows that it had its turn.
    stage.wait_until_settled(second, "failed", "revoked")


def test_revoke_lets_the_handler_end_and_starts_no_further_step(stage: Stage) -> None:
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    result.revoke()
    wait_until(lambda: f"{result.id}/0:control" in "".join(stage.store.fields(result.id)), 10)
    stage.open_gate(result)
    _assert_revoked(stage, result)
    assert stage.did(result) == ["one", "two"]
    assert [entry.kind for entry in stage.store.entries(result.id)].count("step") == 2


def test_revoke_cancels_a_run_that_waits_for_its_retry_at_once(stage: Stage) -> None:
    result = stage.send("retrying", 1, 3600)
    stage.wait_until_known(result, "retrying")
    result.revoke()
    _assert_revoked(stage, result)
    assert stage.did(result)[:2] == ["one", "attempt-0"]
    assert "attempt-1" not in stage.did(result)


def test_revoke_of_a_task_killed_in_a_step_ends_it_where_it_comes_back(stage: Stage) -> None:
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    result.revoke()
    wait_until(lambda: f"{result.id}/0:control" in "".join(stage.store.fields(result.id)), 10)
    stage.kill_in(result, "two")
    _assert_revoked(stage, result)
    assert stage.did(result) == ["one", "two"]


def test_revoke_of_a_queued_task_is_celerys(stage: Stage) -> None:
    busy = [stage.send("three", "one") for _ in range(3)]
    for result in busy:
        stage.wait_for(result, "one")
    queued = stage.send("three")
    queued.revoke()
    wait_until(lambda: f"Tasks flagged as revoked: {queued.id}" in stage.workers[0].text(), 10)
    for result in busy:
        stage.open_gate(result)
    with pytest.raises(TaskRevokedError):
        stage.get(queued)
    for result in busy:
        assert stage.get(result) == ["one", "two", "three"]
    assert stage.did(queued) == []
    assert stage.fields(queued) == {}


def test_revoke_of_a_finished_run_changes_nothing(stage: Stage) -> None:
    result = stage.send("three")
    stage.get(result)
    stage.wait_until_settled(result, "succeeded")
    result.revoke(terminate=True)
    wait_until(lambda: f"{result.id}" in "".join(stage.app.control.inspect(timeout=2).revoked()["worker1@test"]), 10)
    # A duplicate of its message is not discarded as revoked, which would change its state.
    stage.send("three", task_id=result.id)
    wait_until(lambda: f"three[{result.id}] ignored" in stage.workers[0].text(), 20)
    assert result.state == "SUCCESS"
    assert stage.fields(result)["status"] == "succeeded"


def test_revoke_by_a_stamp_ends_the_run_too(stage: Stage) -> None:
    result = stage.send("three", "two", stamped_headers=["customer"], customer="ann")
    stage.wait_for(result, "two")
    stage.app.control.revoke_by_stamped_headers({"customer": ["ann"]}, terminate=True)
    _assert_revoked(stage, result)

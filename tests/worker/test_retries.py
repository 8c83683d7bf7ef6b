"""Celery's retries: the retry of a run is a ticket, and what is recorded stays recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from servers import wait_until
from worker.workers import BROKER, Stage


def test_retry_by_hand_carries_on_with_the_recorded_steps(stage: Stage) -> None:
    result = stage.send("retrying", 2)
    assert stage.get(result) == ["one", 2, "celery"]
    stage.wait_for(result, "on_success")
    done = stage.did(result)
    assert [what for what in done if not what.startswith(("on_", "after_"))] == ["one", "attempt-0", "attempt-1", "attempt-2"]
    assert [done.count(hook) for hook in ("on_retry", "on_success", "on_failure")] == [2, 1, 0]
    stage.wait_until_settled(result, "succeeded")


def test_while_it_waits_for_a_retry_its_state_is_celerys_and_the_broker_is_empty(stage: Stage) -> None:
    result = stage.send("retrying", 1, 2)
    stage.wait_until_known(result, "retrying")
    assert result.state == "RETRY"
    stage.wait_until_idle()
    assert stage.get(result) == ["one", 1, "celery"]


def test_a_retry_with_eta_waits_until_then(stage: Stage) -> None:
    assert stage.get(stage.send("retrying_at")) == 1


def test_a_retry_with_other_arguments_and_queue_goes_there(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.start()
    result = stage.send("retrying", 1, 0, True)
    with stage.server.client(BROKER) as client:
        wait_until(lambda: client.llen("other") == 1, 20)
        # A worker of that queue: this one, from now on.
        stage.app.control.add_consumer("other", reply=True, timeout=2)
    assert stage.get(result) == ["one", 1, "other"]
    assert stage.did(result).count("one") == 1


def test_an_unthrown_retry_is_the_outcome_all_the_same(stage: Stage) -> None:
    result = stage.send("unthrown")
    assert stage.get(result) == "done"
    assert stage.did(result) == ["one"]


def test_a_retry_that_the_body_raises_itself_carries_on(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()  # its lease is short: the ticket stands behind the message that the body has sent
    stage.start()
    result = stage.send("raising_retry")
    assert stage.get(result) == "done"
    assert stage.did(result) == ["one"]
    stage.wait_until_settled(result, "succeeded")


def test_autoretry_with_backoff_executes_only_the_failed_step_again(stage: Stage) -> None:
    result = stage.send("autoretrying", 2)
    assert stage.get(result) == "done"
    stage.wait_for(result, "on_success")
    done = stage.did(result)
    assert [done.count(what) for what in ("one", "two", "on_retry", "on_success")] == [1, 3, 2, 1]
    stage.wait_until_settled(result, "succeeded")


def test_when_retries_are_exhausted_the_run_has_failed_with_the_last_error(stage: Stage) -> None:
    result = stage.send("autoretrying", 99)
    with pytest.raises(ConnectionError, match="not now"):
        stage.get(result)
    stage.wait_until_settled(result, "failed")
    stage.wait_for(result, "on_failure")
    done = stage.did(result)
    assert [done.count(what) for what in ("one", "two", "on_retry", "on_failure")] == [1, 3, 2, 1]


def test_retries_by_hand_are_exhausted_too(stage: Stage) -> None:
    result = stage.send("retrying", 99)
    with pytest.raises(Exception, match="Can't retry"):
        stage.get(result)
    stage.wait_until_settled(result, "failed")
    stage.wait_for(result, "on_failure")
    assert [stage.did(result).count(what) for what in ("one", "on_retry", "on_failure")] == [1, 5, 1]


def test_a_task_killed_in_its_retry_keeps_count_of_its_retries(stage: Stage) -> None:
    result = stage.send("retrying_at_gate")
    stage.wait_for(result, "attempt-1")
    stage.kill_in(result, "attempt-1")
    stage.open_gate(result)
    assert stage.get(result) == 1
    assert stage.did(result) == ["one", "attempt-0", "attempt-1", "attempt-1"]


def test_a_retry_later_than_the_visibility_timeout_runs_once(make_stage: Callable[..., Stage]) -> None:
    # An ETA message would be delivered again each second while it waits.
    stage = make_stage(broker_transport_options={"visibility_timeout": 1})
    stage.start()
    result = stage.send("retrying", 1, 4)
    assert stage.get(result) == ["one", 1, "celery"]
    stage.wait_until_settled(result, "succeeded")
    stage.wait_until_idle()
    stage.wait_for(result, "on_success")
    done = stage.did(result)
    assert [done.count(what) for what in ("one", "attempt-0", "attempt-1", "on_success")] == [1, 1, 1, 1]

"""Time limits: the main process or a signal decides, and the run ends with the task."""

from __future__ import annotations

import pytest
from celery import chord
from celery.exceptions import ChordError, SoftTimeLimitExceeded, TimeLimitExceeded

from celery_steps import DurableTask, RunRefused
from celery_steps.engine.entries import pack_control
from celery_steps.store.keys import RunId
from celery_steps.worker import runtime
from delivering import deliver, make_app, namespace_fields
from servers import RedisServer
from worker.workers import Stage


def test_the_hard_time_limit_ends_the_run_as_failed(stage: Stage) -> None:
    result = stage.send("three_limited", "two")
    with pytest.raises(TimeLimitExceeded):
        stage.get(result)
    stage.wait_until_settled(result, "failed")
    stage.wait_until_idle()
    done = stage.did(result)
    assert [done.count(what) for what in ("one", "two", "three")] == [1, 1, 0]
    assert result.state == "FAILURE"


def test_the_hard_time_limit_of_one_call_counts_too(stage: Stage) -> None:
    result = stage.send("three", "two", time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        stage.get(result)
    stage.wait_until_settled(result, "failed")


def test_a_callback_for_errors_is_called_once_at_the_hard_time_limit(stage: Stage) -> None:
    result = stage.send("three_limited", "two", link_error=stage.task("tell_error"))
    with pytest.raises(TimeLimitExceeded):
        stage.get(result)
    stage.wait_for(result, "errback")
    stage.wait_until_settled(result, "failed")
    stage.wait_until_idle()
    assert stage.did(result).count("errback") == 1


def test_a_chord_counts_a_member_once_at_the_hard_time_limit(stage: Stage) -> None:
    body = stage.task("collect", "nobody").on_error(stage.task("tell_error"))
    result = chord([stage.task("three_limited", "two"), stage.task("add", 1, 2)], body, app=stage.app).apply_async()
    with pytest.raises(ChordError, match="TimeLimitExceeded"):
        stage.get(stage.app.AsyncResult(result.id))
    stage.wait_until_idle()
    assert stage.did(result) == ["errback"]


def test_the_hard_time_limit_of_a_task_without_steps_is_celerys(stage: Stage) -> None:
    result = stage.send("no_steps", time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        stage.get(result)
    assert stage.did(result) == ["body"]
    assert stage.fields(result) == {}


def test_a_namespace_is_free_after_the_hard_time_limit(stage: Stage) -> None:
    first = stage.send("three_limited", "two", namespace="limited")
    stage.wait_for(first, "two")
    second = stage.send("three_limited", namespace="limited")
    with pytest.raises(TimeLimitExceeded):
        stage.get(first)
    stage.wait_until_settled(first, "failed", "limited")
    stage.wait_until_settled(second, "failed", "limited")


def test_the_soft_time_limit_reaches_the_handler_and_fails_the_task(stage: Stage) -> None:
    result = stage.send("soft_limited", False)
    with pytest.raises(SoftTimeLimitExceeded):
        stage.get(result)
    stage.wait_until_settled(result, "failed")
    assert stage.did(result) == ["one", "two"]


def test_a_body_that_catches_the_soft_time_limit_goes_on(stage: Stage) -> None:
    result = stage.send("soft_limited", True)
    assert stage.get(result) == "three"
    stage.wait_until_settled(result, "succeeded")
    assert stage.did(result) == ["one", "two", "three"]


def test_the_soft_time_limit_in_the_middle_of_an_exchange_loses_no_record(stage: Stage) -> None:
    result = stage.send("soft_busy")
    assert stage.get(result) >= 100
    stage.wait_until_settled(result, "succeeded")
    done = stage.did(result)
    # At most the handler that the signal met has its effect twice.
    assert len(done) - len(set(done)) <= 1


def test_a_verdict_that_was_not_stored_any_more_fails_the_next_attempt_for_good(redis_server: RedisServer) -> None:
    app = make_app(redis_server, steps_lease_ttl=5)
    calls: list[str] = []

    @app.task(bind=True, base=DurableTask, name="t", autoretry_for=(Exception,))
    def task(self: DurableTask) -> None:
        calls.append("body")
        self.step.run("one", lambda: calls.append("one"))
        raise KeyboardInterrupt  # the process is gone

    with pytest.raises(KeyboardInterrupt):
        deliver(task, id="id-1")
    run = RunId("t", "id-1")
    entry = pack_control(str(run), "The hard time limit (1 s) was exceeded.")
    store = runtime.of(app).store
    taken = store.verdict("id-1", run, process="worker@here/", what="failed", nonce="n1", entry=entry, token="main")
    assert taken.verdict == "TAKEN"
    store.release("id-1", run, "main", 0)  # the main process is gone too

    info = deliver(task, id="id-1", redelivered=True).info
    assert isinstance(info.retval, RunRefused)
    assert "hard time limit (1 s)" in str(info.retval)
    assert calls == ["body", "one"]
    assert namespace_fields(app, "id-1")["t/id-1/0:status"] == "failed"
    assert app.AsyncResult("id-1").state == "FAILURE"

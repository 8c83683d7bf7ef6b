"""Sleeping and waiting for events on real workers: what a run does, and what others see of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from celery_steps import StepsError
from servers import wait_until
from worker.workers import BACKEND, Stage


def _asleep(stage: Stage, name: str, *args: Any, **options: Any) -> AsyncResult:
    result = stage.send(name, *args, **options)
    stage.wait_until_known(result, "suspended")
    return result


# -- sleep --------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_worker_while_it_sleeps_and_carries_on_where_it_was(stage: Stage) -> None:
    result = stage.send("sleepers.nap", 1.5)
    stage.wait_until_known(result, "suspended")
    stage.wait_until_idle()
    assert stage.get(result) == ["one", "two"]
    assert stage.did(result)[:5] == ["body", "one", "resumed", "awake", "two"]
    stage.wait_until_settled(result, "succeeded")
    assert stage.fields(result)["attempts"] == "2"


def test_its_state_says_what_is_awaited_and_until_when(stage: Stage) -> None:
    result = _asleep(stage, "sleepers.nap", 3600)
    assert result.state == "SUSPENDED"
    info = result.info
    assert (info["key"], info["waiting_for"]) == ("nap", "sleep")
    assert 3500 < datetime.fromisoformat(info["until"]).timestamp() - datetime.now().timestamp() < 3700
    result.revoke()
    stage.wait_until_settled(result, "cancelled")
    with pytest.raises(TaskRevokedError):
        stage.get(result)


def test_its_state_is_kept_for_as_long_as_it_sleeps(stage: Stage) -> None:
    day = 86_400
    result = _asleep(stage, "sleepers.nap", 7 * day)
    with stage.server.client(BACKEND) as client:
        left = client.ttl(f"celery-task-meta-{result.id}")
    assert 7 * day < left <= 8 * day
    result.revoke()
    stage.wait_until_settled(result, "cancelled")


def test_a_sleep_until_a_past_time_returns_at_once(stage: Stage) -> None:
    result = stage.send("sleepers.past")
    assert stage.get(result) == "on time"
    assert stage.did(result) == ["body"]


def test_a_retry_after_a_sleep_does_not_sleep_again(stage: Stage) -> None:
    result = stage.send("sleepers.broken_nap", 1.2)
    assert stage.get(result) == 1
    assert stage.did(result) == ["body", "resumed", "resumed"]


def test_a_wait_inside_a_handler_is_refused(stage: Stage) -> None:
    with pytest.raises(StepsError, match=r"step.sleep inside a step's handler"):
        stage.get(stage.send("sleepers.waits_in_a_handler"))


def test_a_body_that_swallows_the_suspension_neither_starts_a_step_nor_completes(stage: Stage) -> None:
    result = stage.send("sleepers.swallowing")
    stage.wait_for(result, "end")
    stage.wait_until_known(result, "suspended")
    assert stage.did(result)[:8] == ["body", "swallowed", *["Suspended"] * 5, "end"]
    # Awake, it finds the sleep over, and the second one suspends it for good.
    stage.wait_for(result, "end", times=2)
    assert stage.did(result).count("never") == 1
    result.revoke()
    stage.wait_until_settled(result, "cancelled")


def test_a_worker_whose_clock_is_wrong_neither_sleeps_too_long_nor_too_short(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.start(clock_ahead=3600)
    short, long = stage.send("sleepers.nap", 1.5), stage.send("sleepers.nap", 1800)
    assert stage.get(short) == ["one", "two"]
    stage.wait_until_known(long, "suspended")
    assert stage.did(long) == ["body", "one"]
    info = long.info
    assert 1700 < datetime.fromisoformat(info["until"]).timestamp() - datetime.now().timestamp() < 1900
    long.revoke()
    stage.wait_until_settled(long, "cancelled")


# -- events -------------------------------------------------------------------------------------------------------------


def test_an_event_wakes_the_run(stage: Stage) -> None:
    result = _asleep(stage, "sleepers.await_event", "paid")
    assert result.info == {"key": "wait", "waiting_for": "wait_for_event paid", "until": None}
    assert stage.runs.emit("paid", {"by": "ann"}, to=result.id) == 1
    assert stage.get(result) == [{"by": "ann"}, "event"]
    assert stage.did(result) == ["body", "resumed", "awake", "event"]


def test_an_event_that_came_before_is_taken_without_leaving(stage: Stage) -> None:
    id = str(uuid4())
    stage.runs.emit("paid", 1, to=id)
    result = stage.send("sleepers.await_event", "paid", task_id=id)
    assert stage.get(result) == [1, "event"]
    assert stage.did(result) == ["body", "awake", "event"]


def test_an_event_with_the_same_id_counts_once(stage: Stage) -> None:
    result = _asleep(stage, "sleepers.await_twice", "paid", 1.2)
    for _ in range(3):
        stage.runs.emit("paid", 1, to=result.id, id="the-same")
    assert stage.get(result) == [1, None]


def test_a_broadcast_reaches_everyone_who_waits(stage: Stage) -> None:
    waiting = [_asleep(stage, "sleepers.await_event", "opened") for _ in range(3)]
    assert stage.runs.emit("opened", "now") == 3
    assert [stage.get(result) for result in waiting] == [["now", "event"]] * 3


def test_the_deadline_takes_its_branch_once(stage: Stage) -> None:
    result = stage.send("sleepers.await_event", "never", 1.2)
    assert stage.get(result) == [None, "timeout"]
    assert stage.did(result) == ["body", "resumed", "awake", "timeout"]


def test_an_event_at_the_deadline_has_one_outcome_for_ever(stage: Stage) -> None:
    """The run decides, and is killed before it acts on what it has decided: the next attempt acts the same."""
    results = [stage.send("sleepers.await_event", "late", 1.5, "event" if n % 2 else "timeout") for n in range(4)]
    for result in results:
        wait_until(lambda result=result: "resumed" in stage.did(result) or stage.fields(result).get("status") == "suspended")
    untils = [(result.info or {}).get("until") for result in results]  # None: a slow machine is past it already
    deadlines = [datetime.fromisoformat(until).timestamp() if until else 0 for until in untils]
    for result, deadline in zip(results, deadlines, strict=True):
        wait_until(lambda deadline=deadline: datetime.now().timestamp() >= deadline - 0.01)
        stage.runs.emit("late", 1, to=result.id)
    for result in results:
        stage.wait_for(result, "awake")
        stage.open_gate(result)
        data, branch = stage.get(result)
        assert branch == ("event" if data == 1 else "timeout")
        assert [what for what in stage.did(result) if what in ("event", "timeout")] == [branch]


def test_the_first_deadline_holds_when_the_code_asks_for_another(stage: Stage) -> None:
    result = stage.send("sleepers.forgetful", 1.2, 3600)
    assert stage.get(result) is None
    assert stage.did(result) == ["body", "resumed"]


# -- what others see ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["sleepers.nap", "sleepers.tracked_nap"])
def test_a_duplicate_delivery_of_a_suspended_run_changes_nothing(stage: Stage, task: str) -> None:
    result = _asleep(stage, task, 3600)
    before = result.info, stage.fields(result)
    stage.send(task, 3600, task_id=result.id)
    stage.wait_for(result, "resumed")
    stage.wait_until_idle()
    assert result.state == "SUSPENDED"
    assert (result.info, stage.fields(result)) == before
    assert stage.did(result).count("one") == 1
    result.revoke()
    stage.wait_until_settled(result, "cancelled")


def test_a_duplicate_delivery_of_a_run_that_slept_leaves_its_end(stage: Stage) -> None:
    result = stage.send("sleepers.tracked_nap", 1.2)
    assert stage.get(result) == ["one", "two"]
    stage.wait_until_settled(result, "succeeded")
    stage.send("sleepers.tracked_nap", 1.2, task_id=result.id)
    stage.wait_for(result, "resumed", times=2)
    stage.wait_until_idle()
    assert result.state == "SUCCESS"
    assert [stage.did(result).count(what) for what in ("one", "two")] == [1, 1]


def _get(backend: str, task_id: str) -> Any:
    """As a caller who waits does it, with an app of its own."""
    app = Celery("caller", backend=backend, set_as_current=False)
    try:
        return AsyncResult(task_id, app=app).get(timeout=30, interval=0.1)
    finally:
        app.close()


def test_a_caller_waits_through_the_suspension(stage: Stage) -> None:
    result = stage.send("sleepers.nap", 1.5)
    assert _get(stage.backend, result.id) == ["one", "two"]


def test_a_caller_waits_through_the_suspension_with_a_database(make_stage: Callable[..., Stage], tmp_path: Path) -> None:
    stage = make_stage(backend=f"db+sqlite:///{tmp_path}/results.sqlite", steps_lease_ttl=8)
    stage.start()
    result = stage.send("sleepers.tracked_nap", 1.5)
    stage.wait_until_known(result, "suspended")
    assert result.state == "SUSPENDED"
    assert result.info["key"] == "nap"
    assert _get(stage.backend, result.id) == ["one", "two"]

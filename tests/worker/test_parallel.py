"""Parallel branches on real workers: killed, suspended, cancelled, and interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from celery_steps import Runs
from servers import wait_until
from worker.workers import STORE, Stage

POOLS = ("prefork", "threads", "gevent")


@pytest.fixture(scope="module")
def runs(module_stage: Stage) -> Iterator[Runs]:
    """From outside, as a program without the tasks has them."""
    app = Celery("worker-tests", broker=module_stage.broker, set_as_current=False)
    app.conf.update(steps_backend=module_stage.server.url(STORE), steps_lease_ttl=8)
    yield Runs(app)
    app.close()


@pytest.mark.parametrize("pool", POOLS)
def test_branches_that_were_recorded_when_the_worker_was_killed_do_not_run_again(
    make_stage: Callable[..., Stage], pool: str
) -> None:
    stage = make_stage()
    first = stage.start(pool=pool)
    result = stage.send("branches.three_at_once", "two")
    for what in ("one", "two", "three"):
        stage.wait_for(result, what)
    with stage.server.client(STORE) as client:  # the beginning of the attempt and two steps
        wait_until(lambda: client.xlen(stage.store.keys.namespace(result.id).journal) == 3)
    first.kill()
    stage.open_gate(result)
    stage.start(pool=pool)
    assert stage.get(result) == ["one", "two", "three", "after"]
    assert [stage.did(result).count(what) for what in ("one", "two", "three", "after")] == [1, 2, 1, 1]
    stage.wait_until_settled(result, "succeeded")


def test_handlers_and_waits_of_a_block_join_together(stage: Stage, runs: Runs) -> None:
    result = stage.send("branches.mixed")
    stage.wait_for(result, "charged")
    assert stage.fields(result)["status"] != "suspended"  # not before the handler is recorded
    stage.open_gate(result)
    stage.wait_until_known(result, "suspended")
    assert {wait["key"] for wait in result.info["waits"]} >= {"paid"}
    runs.emit("paid", {"cents": 5}, to=result.id)
    assert stage.get(result) == [None, "charged", {"cents": 5}, 3]
    assert stage.did(result).count("charged") == 1
    stage.wait_until_settled(result, "succeeded")


def test_a_caught_failure_of_a_branch_is_the_same_after_the_run_was_away(stage: Stage) -> None:
    result = stage.send("branches.failing_branch", 1, True)
    stage.wait_for(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["ConnectionError('not now')", "given up", "given up"]
    assert stage.did(result) == ["one", "two"]
    assert int(stage.fields(result)["attempts"]) == 2


def test_a_retry_tries_the_failed_branches_again_and_keeps_the_others(stage: Stage) -> None:
    result = stage.send("branches.failing_branch", 2, False)
    stage.wait_for(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["'two'", "'three'", "None"]
    assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 3, 1]


def test_after_a_cancel_no_branch_starts_and_those_that_run_are_recorded(stage: Stage, runs: Runs) -> None:
    result = stage.send("branches.three_at_once", "one", 1)
    stage.wait_for(result, "one")
    result.revoke()
    with stage.server.client(STORE) as client:  # the beginning of the attempt and the cancel
        wait_until(lambda: client.xlen(stage.store.keys.namespace(result.id).journal) == 2)
    stage.open_gate(result)
    stage.wait_until_settled(result, "cancelled")
    with pytest.raises(TaskRevokedError):
        stage.get(result)
    assert stage.did(result) == ["one"]
    assert [record.sequence for record in runs.records(result.id)] == [1]


def test_a_soft_time_limit_leaves_the_block_while_a_branch_still_runs(stage: Stage) -> None:
    result = stage.send("branches.soft_limited_block")
    stage.wait_for(result, "limited")
    stage.open_gate(result)
    found = stage.get(result)
    assert found[0] == "True"
    assert {"dropped", "next"} <= set(found[1:]) <= {"dropped", "next", "long"}
    assert stage.did(result) == ["long", "limited"]


def test_a_failing_branch_cancels_the_child_of_another(stage: Stage) -> None:
    result = stage.send("branches.parent_of_a_child", True)
    assert stage.get(result) == "given up"
    stage.open_gate(result)
    stage.wait_until_idle()
    assert stage.did(result) == ["child-began"]


def test_a_retry_of_the_block_sends_another_child(stage: Stage) -> None:
    result = stage.send("branches.parent_of_a_child", False)
    stage.wait_for(result, "child-began", times=2)
    stage.open_gate(result)
    assert stage.get(result) == "child-ended"
    stage.wait_until_idle()
    assert stage.did(result) == ["child-began", "child-began", "child-ended"]

"""`step.run_task` in real workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from celery_steps import ChildFailed
from celery_steps.engine.child import child_detail
from celery_steps.engine.entries import read_wait
from celery_steps.worker.canvas import Plan
from servers import wait_until
from worker.workers import BROKER, Stage


def child_ids(stage: Stage, result: AsyncResult) -> list[str]:
    """The ids of the tasks of each child that this run has begun to wait for."""
    waits = [read_wait(entry) for entry in stage.store.entries(result.id) if entry.kind == "wait"]
    details = [child_detail(wait.detail)[1] for wait in waits if wait.verb == "run_task"]
    return [node.id for detail in details for node in Plan.read(detail).nodes]


def marked(stage: Stage, mark: str) -> AsyncResult:
    """Whose effects are those with this mark."""
    return AsyncResult(mark, app=stage.app)


def _backend(name: str, folder: Path) -> str | None:
    return {"redis": None, "database": f"db+sqlite:///{folder}/results.sqlite"}[name]


@pytest.fixture(params=["redis", "database"])
def both(request: pytest.FixtureRequest, make_stage: Callable[..., Stage], tmp_path: Path) -> Stage:
    stage = make_stage(backend=_backend(request.param, tmp_path), steps_lease_ttl=60)  # looking comes too late: a notice must
    stage.start(concurrency=3)
    return stage


def test_children_of_each_kind_come_back_by_their_notice(both: Stage) -> None:
    stage = both
    add, total = (lambda *a: stage.task("family.add", *a)), stage.task("family.total")
    expected: list[tuple[Any, Any]] = [
        ("worker.family.plain", 6),
        ("worker.family.durable", 6),
        (chain(stage.task("family.durable", "chained", 1), add(2), add(3)), 7),
        (group(add(1, i) for i in range(3)), [1, 2, 3]),
        (chain(add(1), group(add(1), stage.task("family.durable", "grouped", 1).set(immutable=True))), [2, 2]),
    ]
    if "redis" in str(stage.app.conf.result_backend):
        expected.append((chord([add(1, 1), stage.task("family.durable", "chorded", 2)], total), 5))
        expected.append((chain(add(1), group(add(1), add(2)), total), 5))
    results = []
    for child, value in expected:
        args = ["mark", 5] if isinstance(child, str) else []
        results.append((stage.send("family.parent", child, *args), value))
    for result, value in results:
        assert stage.get(result) == value
        assert stage.did(result).count("attempt") >= 2
    for what in ("durable", "plain"):
        assert len(stage.effects(marked(stage, "mark"), what)) == 1
    stage.wait_until_idle()


def test_the_news_of_an_end_may_be_lost(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=2)
    stage.start()
    stage.start(app="worker.elsewhere")  # a plain worker tells nobody
    result = stage.send("family.parent", "worker.elsewhere.add", "mark", 5, kwargs={"queue": "elsewhere"})
    assert stage.get(result) == 6
    assert len(stage.effects(marked(stage, "mark"), "elsewhere")) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("child", ["durable", "plain"])
def test_a_parent_that_is_killed_as_it_sends_has_one_child(make_stage: Callable[..., Stage], when: str, child: str) -> None:
    stage = make_stage(steps_lease_ttl=2)
    stage.start()
    result = stage.send("family.killed", when, f"worker.family.{child}", "mark")
    assert stage.get(result) == 6
    stage.wait_until_idle()
    assert stage.did(result).count("attempt") >= 2
    assert len(stage.effects(marked(stage, "mark"), child)) == 1  # a plain one has ended before anybody looks
    assert len(child_ids(stage, result)) == 1


def test_a_failed_child_fails_its_parent(stage: Stage) -> None:
    for child in (
        "worker.family.broken",
        "worker.family.broken_durably",
        chain(stage.task("family.broken"), stage.task("family.add")),
    ):
        result = stage.send("family.parent", child)
        with pytest.raises(ChildFailed, match="ConnectionError") as caught:
            stage.get(result)
        assert child_ids(stage, result)[-1] in str(caught.value)
        stage.wait_until_settled(result, "failed")


@pytest.mark.parametrize("child", ["broken", "broken_durably"])
def test_a_caught_failure_is_the_same_on_each_replay(stage: Stage, child: str) -> None:
    result = stage.send("family.catching", f"worker.family.{child}")
    assert stage.get(result) == [f"worker.family.{child}", *child_ids(stage, result), "[Errno 7] refused"]
    seen = [what for what in stage.did(result) if what.startswith("ConnectionError")]
    assert seen == ["ConnectionError(7,'refused')"] * len(seen)
    assert len(seen) >= 2


def test_a_retry_of_the_parent_has_another_child(stage: Stage) -> None:
    result = stage.send("family.trying_again", f"again-{uuid4()}")
    assert stage.get(result) == "done"
    ids = child_ids(stage, result)
    assert len(ids) == len(set(ids)) == 2


def test_a_child_that_ends_without_result_is_a_failure(stage: Stage) -> None:
    result = stage.send("family.parent", "worker.family.ignoring")
    with pytest.raises(ChildFailed, match="Ignore"):
        stage.get(result)


def test_a_revoked_child_is_a_failure(stage: Stage) -> None:
    mark = f"revoked-{uuid4()}"
    result = stage.send("family.catching", "worker.family.sleeping", mark)
    stage.wait_for(marked(stage, mark), "asleep")
    (child,) = child_ids(stage, result)
    stage.wait_until_known(AsyncResult(child, app=stage.app), "suspended")
    stage.app.control.revoke(child)
    assert stage.get(result)[1] == child
    assert any(what.startswith("TaskRevokedError") for what in stage.did(result))


def test_a_child_that_takes_too_long_is_cancelled(stage: Stage) -> None:
    mark = f"late-{uuid4()}"
    result = stage.send("family.timed", "worker.family.sleeping", mark)
    assert stage.get(result) == "StepTimeout"
    (child,) = child_ids(stage, result)
    stage.wait_until_settled(AsyncResult(child, app=stage.app), "cancelled")


def test_the_cancel_of_a_parent_reaches_its_grandchildren(stage: Stage) -> None:
    mark = f"cancelled-{uuid4()}"
    result = stage.send("family.parent", "worker.family.parent", "worker.family.sleeping", mark)
    stage.wait_for(marked(stage, mark), "asleep")
    (child,) = child_ids(stage, result)
    family = [AsyncResult(id, app=stage.app) for id in (child, *child_ids(stage, AsyncResult(child, app=stage.app)))]
    for one in (*family, result):
        stage.wait_until_known(one, "suspended")
    result.revoke()
    for one in (result, *family):
        stage.wait_until_settled(one, "cancelled")
        with pytest.raises(TaskRevokedError):
            stage.get(one)


def test_the_terminated_process_of_a_parent_leaves_no_child(stage: Stage) -> None:
    mark = f"terminated-{uuid4()}"
    result = stage.send("family.busy", mark)
    stage.wait_for(result, "busy")
    stage.wait_for(marked(stage, mark), "asleep")
    (child,) = child_ids(stage, result)
    stage.wait_until_known(AsyncResult(child, app=stage.app), "suspended")
    result.revoke(terminate=True)
    for id in (child, result.id):
        stage.wait_until_settled(AsyncResult(id, app=stage.app), "cancelled")


def test_a_queued_child_survives_a_flush_of_the_broker(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=1)
    stage.start()
    results = [
        stage.send("family.parent", "worker.family.durable", "durable", 5, kwargs={"queue": "later"}),
        stage.send("family.parent", "worker.family.plain", "plain", 5, kwargs={"queue": "later"}),
    ]
    for result in results:
        stage.wait_until_known(result, "suspended")
    with stage.server.client(BROKER) as client:
        wait_until(lambda: client.llen("later") >= 2, 10)
        client.delete("later")
    stage.start(task_default_queue="later")
    for result, child in zip(results, ("durable", "plain"), strict=True):
        assert stage.get(result, timeout=60) == 6
        assert len(stage.effects(marked(stage, child), child)) == 1


def test_a_parent_has_a_thousand_children(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(steps_lease_ttl=60)
    stage.start(concurrency=3)
    result = stage.send("family.many", 1000)
    assert stage.get(result, timeout=120) == sum(range(1000)) + 1000

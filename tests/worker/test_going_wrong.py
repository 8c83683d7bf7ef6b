"""Rollback, at most once, step retry, cancel, pause and poison, with real workers and SIGKILL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import states

from celery_steps import Runs
from servers import RedisServer, wait_until
from worker.workers import Stage

UNDONE = ["undo-car", "undo-hotel", "undo-flight"]


@pytest.fixture(scope="module")
def troubled_stage(module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(module_redis, tmp_path_factory.mktemp("stage"), steps_lease_ttl=8, steps_max_crashes=3)
    stage.start(concurrency=3, app="worker.troubles")
    yield stage
    stage.end()


@pytest.fixture
def stage(troubled_stage: Stage) -> Iterator[Stage]:
    yield troubled_stage
    troubled_stage.assert_nothing_left()


@pytest.fixture
def runs(stage: Stage) -> Runs:
    return stage.runs


@pytest.mark.parametrize("where", ["", "undo-car", "undo-hotel", "undo-flight"])
def test_a_failed_run_is_undone_newest_first_whoever_is_killed_in_the_middle(stage: Stage, runs: Runs, where: str) -> None:
    result = stage.send("troubles.travel", where)
    if where:
        stage.kill_in(result, where)
        stage.open_gate(result)
    stage.wait_until_settled(result, "failed")
    undone = [what for what in stage.did(result) if what.startswith("undo")]
    assert list(dict.fromkeys(undone)) == UNDONE
    assert len(undone) == 3 + bool(where), "only the one in which its process was killed is repeated"
    assert [what for what in stage.did(result) if not what.startswith("undo")] == ["flight", "hotel", "car"]
    assert result.state == states.FAILURE
    assert runs.get(result.id).to_undo == ()


def test_a_cancelled_run_is_undone(stage: Stage, runs: Runs) -> None:
    result = stage.send("troubles.travel", "", "waits")
    stage.wait_until_known(result, "suspended")
    runs.cancel(result.id)
    stage.wait_until_settled(result, "cancelled")
    assert stage.did(result) == ["flight", "hotel", "car", *UNDONE]
    assert result.state == states.REVOKED


def test_a_run_that_is_revoked_in_a_handler_is_undone_with_that_handlers_effect(stage: Stage, runs: Runs) -> None:
    result = stage.send("troubles.travel", "hotel")
    stage.wait_for(result, "hotel")
    stage.app.control.revoke(result.id)
    wait_until(lambda: any(entry.kind == "cancel" for entry in stage.store.entries(result.id)), message="the worker hears of it")
    stage.open_gate(result)
    stage.wait_until_settled(result, "cancelled")
    did = stage.did(result)
    assert did[:2] == ["flight", "hotel"]
    done = [what for what in did if not what.startswith("undo")]
    assert did == [*done, *(f"undo-{what}" for what in reversed(done))]


def test_a_terminated_run_is_undone_by_another_process(stage: Stage, runs: Runs) -> None:
    result = stage.send("troubles.travel", "hotel")
    stage.wait_for(result, "hotel")
    stage.wait_until_accepted(result)
    stage.app.control.revoke(result.id, terminate=True)
    stage.wait_until_settled(result, "cancelled")
    assert stage.did(result) == ["flight", "hotel", "undo-flight"], "what was not recorded is not undone"
    assert result.state == states.REVOKED


def test_killed_in_an_at_most_once_step_the_run_waits_for_an_operator(stage: Stage, runs: Runs) -> None:
    result = stage.send("troubles.pay", "charge")
    stage.kill_in(result, "charge")
    stage.wait_until_known(result, "in_doubt")
    assert result.state == "SUSPENDED"
    runs.resolve(result.id, done="charged by hand")
    assert stage.get(result) == "charged by hand"
    stage.wait_until_settled(result, "succeeded")
    assert stage.did(result) == ["before", "charge"]


def test_reconcile_is_asked_by_the_next_worker(stage: Stage) -> None:
    result = stage.send("troubles.pay", "charge", True)
    stage.kill_in(result, "charge")
    stage.open_gate(result)
    assert stage.get(result) == "charge"
    stage.wait_until_settled(result, "succeeded")
    assert stage.did(result) == ["before", "charge", "asked", "charge"]


def test_tries_are_counted_over_pauses_and_kills(stage: Stage) -> None:
    result = stage.send("troubles.flaky", "try-2")
    stage.kill_in(result, "try-2")
    stage.open_gate(result)
    assert stage.get(result) == 3
    stage.wait_until_settled(result, "succeeded")
    assert stage.did(result) == ["try-1", "try-2", "try-3"]


def test_a_paused_run_goes_on_when_it_is_unpaused(stage: Stage, runs: Runs) -> None:
    result = stage.send("troubles.travel", "hotel", "waits")
    stage.wait_for(result, "hotel")
    runs.pause(result.id)
    stage.open_gate(result)
    stage.wait_until_known(result, "paused")
    assert stage.did(result) in (["flight", "hotel"], ["flight", "hotel", "car"]), "at most the step that was about to start"
    runs.unpause(result.id)
    stage.wait_until_known(result, "suspended")
    runs.cancel(result.id)
    stage.wait_until_settled(result, "cancelled")


def test_poison_fails_its_own_run_and_takes_nobody_along(stage: Stage, runs: Runs) -> None:
    others = [stage.send("troubles.harmless", number) for number in range(5)]
    result = stage.send("troubles.poison")
    others += [stage.send("troubles.harmless", number) for number in range(5, 10)]
    stage.wait_until_settled(result, "failed")
    assert "in step 'poison' (occurrence 1)" in str(runs.get(result.id).error)
    assert [stage.get(other) for other in others] == list(range(10))


def test_a_whole_worker_killed_in_a_rollback_is_no_end_of_it(stage: Stage) -> None:
    other = stage.start(concurrency=1, app="worker.troubles")
    results = [stage.send("troubles.travel", "undo-hotel") for _ in range(2)]
    pids = [stage.wait_for(result, "undo-hotel") for result in results]
    assert len(set(pids)) == 2
    other.kill()
    for result in results:
        stage.open_gate(result)
    for result in results:
        stage.wait_until_settled(result, "failed")
        undone = [what for what in stage.did(result) if what.startswith("undo")]
        assert list(dict.fromkeys(undone)) == UNDONE

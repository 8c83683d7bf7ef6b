"""The result backends: Redis, a database, none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from celery.exceptions import TaskRevokedError

from worker.workers import Stage


@pytest.fixture(params=["redis", "database", "none"])
def backend_stage(request: pytest.FixtureRequest, make_stage: Callable[..., Stage], tmp_path: Path) -> Stage:
    backends = {"redis": None, "database": f"db+sqlite:///{tmp_path}/results.sqlite", "none": ""}
    stage = make_stage(backend=backends[request.param], steps_lease_ttl=8)
    stage.start()
    return stage


def test_a_killed_run_ends_and_is_settled(backend_stage: Stage) -> None:
    stage = backend_stage
    result = stage.send("three", "two")
    stage.kill_in(result, "two")
    stage.open_gate(result)
    stage.wait_until_settled(result, "succeeded")
    stage.wait_for(result, "on_success")
    assert [stage.did(result).count(what) for what in ("one", "two", "three", "on_success")] == [1, 2, 1, 1]
    if stage.backend:
        assert stage.get(result) == ["one", "two", "three"]


def test_a_failure_is_settled(backend_stage: Stage) -> None:
    stage = backend_stage
    result = stage.send("autoretrying", 99)
    stage.wait_until_settled(result, "failed")
    assert stage.did(result).count("two") == 3
    if stage.backend:
        with pytest.raises(ConnectionError):
            stage.get(result)


def test_the_hard_time_limit_is_settled(backend_stage: Stage) -> None:
    stage = backend_stage
    result = stage.send("three_limited", "two")
    stage.wait_until_settled(result, "failed")
    assert [stage.did(result).count(what) for what in ("one", "two", "three")] == [1, 1, 0]


def test_revoke_is_settled(backend_stage: Stage) -> None:
    stage = backend_stage
    result = stage.send("retrying", 1, 3600)
    stage.wait_until_known(result, "retrying")
    result.revoke()
    stage.wait_until_settled(result, "cancelled")
    if stage.backend:
        with pytest.raises(TaskRevokedError):
            stage.get(result)

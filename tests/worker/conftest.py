"""A stage for each test module: one Redis and, where the tests can share it, one worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import RedisServer
from worker.workers import Stage


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The tests of a module share a worker: they go to one process.
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def make_stage(start_redis: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes stages without workers, each with a Redis of its own; nothing is left of their runs after the test."""
    stages: list[Stage] = []

    def make(**options: Any) -> Stage:
        folder = tmp_path / f"stage{len(stages)}"
        folder.mkdir()
        stages.append(Stage(start_redis(), folder, **options))
        return stages[-1]

    yield make
    try:
        for stage in stages:
            stage.assert_nothing_left()
    finally:
        for stage in stages:
            stage.end()


@pytest.fixture(scope="module")
def module_stage(module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with one prefork worker of three processes."""
    stage = Stage(module_redis, tmp_path_factory.mktemp("stage"), steps_lease_ttl=8)
    stage.start(concurrency=3)
    yield stage
    stage.end()


@pytest.fixture
def stage(module_stage: Stage) -> Iterator[Stage]:
    """The module's stage; after the test nothing is left of its runs."""
    yield module_stage
    module_stage.assert_nothing_left()

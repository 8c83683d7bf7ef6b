"""Real workers, on servers that the tests may stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import RedisServer
from worker.workers import Stage


@pytest.fixture
def stage_on(start_redis: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes a stage on a Redis that `start_redis` has started; nothing is left of its runs after the test."""
    stages: list[Stage] = []

    def make(server: RedisServer, **options: Any) -> Stage:
        stages.append(Stage(server, tmp_path, **{"steps_lease_ttl": 1.5, **options}))
        return stages[-1]

    yield make
    try:
        for stage in stages:
            stage.assert_nothing_left()
    finally:
        for stage in stages:
            stage.end()

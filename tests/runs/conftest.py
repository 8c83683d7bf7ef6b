"""An app of its own, with runs to look at from outside."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, Runs
from delivering import make_app
from servers import RedisServer


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    return make_app(redis_server)


@pytest.fixture
def runs(app: Celery) -> Runs:
    return Runs(app)


@pytest.fixture
def greet(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="shop.greet")
    def greet(self: DurableTask, name: str = "ann", fail: bool = False) -> str:
        said = self.step.run("say", name, lambda name: f"hello, {name}")
        if fail:
            raise ValueError("no card")
        return said

    return greet


@pytest.fixture
def waiting(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="shop.waiting", max_retries=5)
    def waiting(self: DurableTask, countdown: float = 600) -> None:
        self.step.run("first", lambda: 1)
        raise self.retry(countdown=countdown)

    return waiting

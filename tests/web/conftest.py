"""An app with runs, and its console as a browser on this machine gets it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from starlette.testclient import TestClient

from celery_steps import DurableTask, Runs
from celery_steps.web import create_app
from delivering import close, make_app
from servers import RedisServer


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server)
    yield app
    close(app)


@pytest.fixture
def runs(app: Celery) -> Runs:
    return Runs(app)


@pytest.fixture
def order(app: Celery) -> Any:
    """A task that ends as it is told, or waits: for an event, for a retry, for somebody to resolve its doubt."""

    @app.task(bind=True, base=DurableTask, name="shop.order", max_retries=5)
    def order(self: DurableTask, item: Any = "book", end: str = "") -> Any:
        price = self.step.run("price", item, lambda item: {"item": item, "cents": 500})
        self.step.log.info("priced", **price)
        if end == "wait":
            return self.step.wait_for_event("approved")
        if end == "retry":
            raise self.retry(countdown=600)
        if end:
            raise ValueError(end)
        return self.step.run("ship", lambda: "shipped")

    return order


@pytest.fixture
def console(app: Celery) -> TestClient:
    return TestClient(create_app(app), base_url="http://localhost", follow_redirects=False)

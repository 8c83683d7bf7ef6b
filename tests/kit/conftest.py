"""An app as a project has it: its Redis and its broker are not there, and are not asked."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask
from celery_steps.testing.delivery import app_of_its_own


@pytest.fixture
def app() -> Celery:
    app = app_of_its_own("shop", broker="amqp://nowhere.invalid", backend="redis://nowhere.invalid/1")
    app.conf.steps_backend = "redis://nowhere.invalid/2"
    return app


@pytest.fixture
def fulfil(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="shop.fulfil", namespace="order-{order_id}")
    def fulfil(self: DurableTask, order_id: int) -> str:
        price = self.step.run("price", order_id, lambda order: order * 100)
        self.step.sleep("cool-off", "1h")
        approval = self.step.wait_for_event("approval", timeout="1d")
        if approval is None:
            return "expired"
        self.step.log.info("approved", by=approval["by"])
        return self.step.run("ship", price, lambda cents: f"shipped for {cents}")

    return fulfil

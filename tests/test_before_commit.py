"""`before_commit`: hears of each new record, and what it returns is kept with it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_steps import CurrentStep, DurableTask, Runs
from delivering import deliver, make_app
from servers import RedisServer


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    return make_app(redis_server)


def test_it_is_called_for_new_records_only_and_its_reference_is_kept(app: Celery) -> None:
    heard: list[tuple[str, int, Any]] = []

    def snapshot(step: CurrentStep, result: Any) -> dict[str, str]:
        heard.append((step.key, step.sequence, result))
        return {"snapshot": f"s-{len(heard)}"}

    @app.task(bind=True, base=DurableTask, name="shop.order", before_commit=snapshot, max_retries=3)
    def order(self: DurableTask) -> None:
        self.step.run("load", lambda: 1)
        if not self.request.retries:
            raise self.retry(countdown=0)
        self.step.run("charge", lambda: 2)

    deliver(order, id="id-1")
    deliver(order, id="id-1", retries=1, headers={"steps_ticket": True})
    assert heard == [("load", 1, 1), ("charge", 1, 2)]
    assert [record.reference for record in Runs(app).records("id-1")] == [{"snapshot": "s-1"}, {"snapshot": "s-2"}]


def test_if_it_raises_the_step_is_not_recorded(app: Celery) -> None:
    def broken(step: CurrentStep, result: Any) -> None:
        raise OSError("disk full")

    @app.task(bind=True, base=DurableTask, name="shop.order", before_commit=broken)
    def order(self: DurableTask) -> None:
        self.step.run("load", lambda: 1)

    assert isinstance(deliver(order, id="id-1").retval.exception, OSError)
    assert Runs(app).records("id-1") == []


def test_outside_a_worker_it_is_called_too() -> None:
    heard: list[str] = []
    app = Celery("shop", set_as_current=False)

    @app.task(bind=True, base=DurableTask, before_commit=lambda step, result: heard.append(step.key), shared=False)
    def order(self: DurableTask) -> int:
        return self.step.run("load", lambda: 1)

    assert order() == 1
    assert heard == ["load"]

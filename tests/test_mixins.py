"""Durable tasks that inherit their body or their hooks from classes that know nothing of durable tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from celery_steps import DurableTask, step
from delivering import close, deliver, make_app, namespace_fields
from servers import RedisServer

RUN = "order/id-1/0"


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server)
    yield app
    close(app)


class Notes:
    noted: tuple[str, ...] = ()

    def on_success(self, *_: object) -> None:
        self.noted += ("success",)

    def on_failure(self, *_: object) -> None:
        self.noted += ("failure",)

    def on_retry(self, *_: object) -> None:
        self.noted += ("retry",)


class Noting(Notes, DurableTask):
    abstract = True


@pytest.mark.parametrize(("end", "status"), [("success", "succeeded"), ("failure", "failed"), ("retry", "retrying")])
def test_a_hook_of_a_mixin_is_called_and_the_run_ends_with_it(app: Celery, end: str, status: str) -> None:
    @app.task(name="order", base=Noting, bind=True)
    def order(self: DurableTask) -> None:
        self.step.run("charge", lambda: 100)
        if end == "failure":
            raise ValueError("no")
        if end == "retry":
            raise self.retry(countdown=60)

    deliver(order, id="id-1")
    assert order.noted == (end,)
    assert namespace_fields(app, "id-1")[f"{RUN}:status"] == status


def test_a_body_of_a_mixin_records_its_steps(app: Celery) -> None:
    class Charging:
        def run(self) -> int:
            return step.run("charge", lambda: 100)

    class Order(Charging, DurableTask):
        name = "order"

    assert deliver(app.register_task(Order()), id="id-1").retval == 100
    assert namespace_fields(app, "id-1")[f"{RUN}:settled"] == "succeeded"

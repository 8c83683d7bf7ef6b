"""`step.patched`: runs that were under way take the old way, new ones the new way, each for ever."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, InputMismatch, Runs, StepsError
from delivering import deliver, make_app
from servers import RedisServer

TICKET = {"headers": {"steps_ticket": True}}


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    return make_app(redis_server)


def deploy(app: Celery, patched: bool, done: list[str], *, first: bool = False) -> Any:
    """The task of today, with the change before its first step or before its sleep."""
    app.tasks.pop("shop.order", None)

    def change(self: DurableTask) -> None:
        if patched and self.step.patched("weigh"):
            self.step.run("weigh", lambda: done.append("weigh"))

    @app.task(bind=True, base=DurableTask, name="shop.order", max_retries=None)
    def order(self: DurableTask) -> None:
        if first:
            change(self)
        self.step.run("load", lambda: done.append("load"))
        if not first:
            change(self)
        self.step.wait_for_event("go")
        change(self)
        self.step.run("ship", lambda: done.append("ship"))

    return order


def wake(app: Celery) -> None:
    Runs(app).emit("go", {}, to="id-1")


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_was_under_way_takes_the_old_way_and_stays_on_it(app: Celery, first: bool) -> None:
    done: list[str] = []
    deliver(deploy(app, False, done, first=first), id="id-1")
    wake(app)
    deliver(deploy(app, True, done, first=first), id="id-1", **TICKET)
    assert done == ["load", "ship"]
    assert Runs(app).get("id-1").status == "succeeded"


@pytest.mark.parametrize("first", [True, False])
def test_a_new_run_takes_the_new_way_and_stays_on_it(app: Celery, first: bool) -> None:
    done: list[str] = []
    order = deploy(app, True, done, first=first)
    deliver(order, id="id-1")
    wake(app)
    deliver(order, id="id-1", **TICKET)
    assert done == (["weigh", "load", "weigh", "ship"] if first else ["load", "weigh", "weigh", "ship"])
    assert [record.verb for record in Runs(app).records("id-1") if record.key == "patched weigh"] == ["patched"]


def test_a_change_needs_a_name(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.blank")
    def blank(self: DurableTask) -> None:
        self.step.patched(" ")

    assert isinstance(deliver(blank, id="id-1").retval.exception, StepsError)


def test_its_record_is_no_step_of_another_verb(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.clash")
    def clash(self: DurableTask) -> None:
        self.step.run("patched weigh", lambda: 1)
        self.step.patched("weigh")

    assert isinstance(deliver(clash, id="id-1").retval.exception, InputMismatch)


def test_outside_a_worker_every_run_is_new() -> None:
    app = Celery("shop", set_as_current=False)
    done: list[str] = []

    @app.task(bind=True, base=DurableTask, shared=False)
    def order(self: DurableTask) -> None:
        if self.step.patched("weigh"):
            done.append("weigh")

    order()
    assert done == ["weigh"]

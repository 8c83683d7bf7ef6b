"""Runs.check: open runs rehearsed against other code than they began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from celery_steps import DurableTask, Runs, StepsError
from celery_steps.cli import steps
from celery_steps.codec import pack
from celery_steps.store.keys import RunId
from delivering import deliver, published
from runs.outside import every_key, store_of

Body = Callable[[Any], Any]


def began(self: DurableTask) -> None:
    self.step.run("load", 42, lambda order: {"cents": 250})
    try:
        self.step.run("charge", fails)
    except ValueError:
        self.step.run("refuse", lambda: "mailed")
    self.step.sleep("cool-off", "1d")
    self.step.run("ship", called)


def fails() -> None:
    raise ValueError("no card")


def called(*_: Any) -> None:
    raise AssertionError("a handler is called in a rehearsal")


def deploy(app: Celery, body: Body) -> None:
    """The code of today: a task of the same name with another body."""
    app.tasks.pop("shop.order", None)

    @app.task(bind=True, base=DurableTask, name="shop.order")
    def order(self: DurableTask) -> Any:
        return body(self)


@pytest.fixture
def open_run(app: Celery) -> None:
    deploy(app, began)
    deliver(app.tasks["shop.order"], id="id-1")
    published(app)


def after_load(*more: Body) -> Body:
    def body(self: DurableTask) -> None:
        self.step.run("load", 42, called)
        for verb in more:
            verb(self)

    return body


def charge(self: DurableTask) -> None:
    try:
        self.step.run("charge", called)
    except ValueError:
        self.step.run("refuse", called)


def cool_off(self: DurableTask) -> None:
    self.step.sleep("cool-off", "9d")


@pytest.mark.usefixtures("open_run")
@pytest.mark.parametrize(
    ("body", "diverges", "unmet", "then"),
    [
        (after_load(charge, cool_off), "", (), None),
        (after_load(charge, lambda self: self.step.run("audit", called), cool_off), "", (), ("audit", 1)),
        (after_load(cool_off), "", (("charge", 1), ("refuse", 1)), None),
        (after_load(lambda self: self.step.run("pay", called), cool_off), "", (("charge", 1), ("refuse", 1)), ("pay", 1)),
        (lambda self: self.step.run("load", 43, called), "recorded with another input", (), None),
        (lambda self: self.step.sleep("load", 3), "recorded by step.run, and is asked for by step.sleep", (), None),
        (lambda self: len(self), "The body raises TypeError", (), None),
        (after_load(charge), "", (), None),
    ],
    ids=["same", "added", "removed", "renamed", "other input", "other verb", "broken", "ends"],
)
def test_what_other_code_makes_of_an_open_run(app: Celery, runs: Runs, body: Body, diverges: str, unmet: Any, then: Any) -> None:
    deploy(app, body)
    before = store_of(app).fields("id-1"), every_key(app), list(store_of(app).entries("id-1"))
    (check,) = runs.check()
    assert diverges in check.diverges
    assert bool(diverges) is bool(check.diverges)
    assert (check.unmet, check.next) == (unmet, then)
    assert check.ok is not (diverges or unmet)
    assert (store_of(app).fields("id-1"), every_key(app), list(store_of(app).entries("id-1"))) == before, "nothing is written"
    assert published(app) == []


@pytest.mark.usefixtures("open_run")
def test_a_task_that_is_gone_diverges(app: Celery, runs: Runs) -> None:
    del app.tasks["shop.order"]
    (check,) = runs.check()
    assert check.diverges == "There is no durable task 'shop.order' in this code."


@pytest.mark.usefixtures("open_run")
@pytest.mark.parametrize(
    "message",
    [
        pack([1, "shop.order", "application/json", "utf-8", b"{broken"]),
        pack([1, "shop.order", "application/json", "utf-8", b'["a", "b", "c"]']),
        pack([1, "shop.order", "application/x-python-serialize", "binary", b"never read"]),
        pack([1, "shop.order"]),
        b"\xc1",
    ],
    ids=["broken", "not arguments", "not accepted", "cut off", "damaged"],
)
def test_a_message_that_cannot_be_read_diverges_and_the_others_are_checked(
    app: Celery, runs: Runs, waiting: Any, message: bytes
) -> None:
    deliver(waiting, id="later")
    store = store_of(app)
    store.client.call("HSET", store.keys.namespace("id-1").messages, str(RunId("shop.order", "id-1")), message)
    checks = {check.id: check for check in runs.check()}
    assert checks["later"].ok
    assert checks["id-1"].diverges.startswith("Its message cannot be read: ")
    before = every_key(app)
    with pytest.raises(StepsError, match=r"cannot be read"):
        runs.fork("id-1", namespace="copy")
    assert every_key(app) == before, "no half of a copy is left"


def test_finished_runs_and_other_tasks_are_left_out(app: Celery, runs: Runs, greet: Any, waiting: Any) -> None:
    deliver(greet, id="fine")
    deliver(waiting, id="later")
    assert [check.id for check in runs.check()] == ["later"]
    assert list(runs.check("shop.greet")) == []


def test_a_body_that_retries_sends_nothing(app: Celery, runs: Runs, waiting: Any) -> None:
    deliver(waiting, id="later")
    published(app)
    (check,) = runs.check()
    assert check.ok
    assert published(app) == []


@pytest.mark.usefixtures("open_run")
def test_the_command_ends_with_1_if_any_run_would_diverge(app: Celery) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(steps, ["check", *arguments], obj=SimpleNamespace(app=app, no_color=True))

    fine = run()
    assert (fine.exit_code, fine.output) == (0, "1 open runs, 0 would diverge.\n")
    deploy(app, after_load(lambda self: self.step.run("pay", called)))
    bad = run()
    assert bad.exit_code == 1
    assert "recorded, and not met any more: charge, refuse" in bad.output
    assert "would newly run: pay" in bad.output
    (check,) = json.loads(run("--json").output)["checks"]
    assert check["unmet"] == [["charge", 1], ["refuse", 1]]

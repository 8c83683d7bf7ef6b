"""Runs that share a namespace: what one of them is asked, undoes or replaces is not done to the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, Runs, current_step
from celery_steps.worker.children import WorkerChildren
from delivering import deliver, published
from runs.outside import store_of

SHARED = {"headers": {"steps_namespace": "order-1"}}
AGAIN = {"headers": {"steps_namespace": "order-1", "steps_ticket": True}}
Define = Callable[..., Any]


@pytest.fixture
def define(app: Celery) -> Define:
    """Makes a durable task of a body, named after it."""

    def make(body: Callable[..., Any], **options: Any) -> Any:
        return app.task(bind=True, base=DurableTask, name=body.__name__, **options)(body)

    return make


def wake(app: Celery, namespace: str = "order-1") -> None:
    """As if what is waited for were due."""
    store = store_of(app)
    for field in store.fields(namespace):
        if field.endswith(":wake"):
            store.client.call("HSET", store.keys.namespace(namespace).run, field, "0")


@pytest.mark.parametrize("from_step", ["second", None])
def test_a_retry_does_anew_only_what_its_own_run_did(app: Celery, runs: Runs, define: Define, from_step: str | None) -> None:
    done: list[str] = []

    def refuse() -> None:
        done.append("card")
        raise ValueError("declined")

    def failing(self: DurableTask) -> None:
        self.step.run("first", lambda: 1)
        self.step.run("second", lambda: 1)
        raise ValueError("no passport")

    def paying(self: DurableTask) -> None:
        try:
            self.step.run("card", refuse)
        except ValueError:
            self.step.run("invoice", lambda: done.append("invoice"))
        self.step.sleep("a while", "1h")

    failing_task, paying_task = define(failing), define(paying)
    deliver(failing_task, id="A", **SHARED)
    deliver(paying_task, id="B", **SHARED)
    runs.retry("A", from_step=from_step)
    deliver(failing_task, id="A", **AGAIN)
    wake(app)
    deliver(paying_task, id="B", **AGAIN)
    assert done == ["card", "invoice"]


def test_a_replace_empties_the_journal_of_its_own_run_only(app: Celery, runs: Runs, define: Define) -> None:
    keys: list[str] = []

    def loop(self: DurableTask) -> None:
        self.step.run("round", lambda: 1)
        raise self.replace(app.tasks["loop"].s())

    def pay(self: DurableTask) -> None:
        def charge() -> None:
            keys.append(current_step().idempotency_key)
            if len(keys) == 1:
                raise ConnectionError("the answer was lost")

        self.step.run("before", lambda: keys.append("before"))
        self.step.run("charge", charge)

    loop_task, pay_task = define(loop), define(pay, autoretry_for=(ConnectionError,), default_retry_delay=0)
    keys.append("first")
    deliver(pay_task, id="P", **SHARED)
    deliver(loop_task, id="L", **SHARED)
    deliver(pay_task, id="P", retries=1, **AGAIN)
    assert keys.count("before") == 1
    assert len(set(keys[2:])) == 1, "the same idempotency key"


def order_of(define: Define) -> tuple[Any, list[str], list[str]]:
    charged: list[str] = []
    refunded: list[str] = []

    def charge() -> str:
        charged.append(current_step().idempotency_key)
        return "charge"

    def order(self: DurableTask, end: str = "") -> str:
        self.step.run("charge", charge, rollback=refunded.append)
        if end == "fails":
            raise ValueError("no passport")
        if end == "waits":
            self.step.wait_for_event("approved")
        return self.step.run("ship", lambda: "shipped")

    return define(order), charged, refunded


def test_what_was_undone_does_not_stand_for_the_next_run(runs: Runs, define: Define) -> None:
    order, charged, refunded = order_of(define)
    deliver(order, id="A", kwargs={"end": "fails"}, **SHARED)
    assert (len(charged), refunded) == (1, ["charge"])
    deliver(order, id="B", kwargs={"end": "fails"}, **SHARED)
    assert (len(charged), refunded) == (2, ["charge", "charge"])
    assert len(set(charged)) == 2, "what was refunded is another payment than what is made anew"


def test_what_was_undone_does_not_stand_for_a_run_that_waits_beside_it(runs: Runs, define: Define) -> None:
    order, charged, refunded = order_of(define)
    for id in ("A", "B"):
        deliver(order, id=id, kwargs={"end": "waits"}, **SHARED)
    runs.cancel("A")
    for _ in range(2):  # the second replays the body for its undos
        deliver(order, id="A", kwargs={"end": "waits"}, **AGAIN)
    assert refunded == ["charge"]
    runs.emit("approved", {"by": "ann"}, to="order-1")
    deliver(order, id="B", kwargs={"end": "waits"}, **AGAIN)
    assert len(charged) == 2


def test_a_copy_of_a_run_that_was_undone_does_it_anew(runs: Runs, define: Define) -> None:
    order, charged, _ = order_of(define)
    deliver(order, id="A", kwargs={"end": "fails"})
    copy = runs.fork("A")
    deliver(order, id=copy, kwargs={"end": "fails"}, headers={"steps_namespace": copy})
    assert len(charged) == 2


def test_a_payment_that_was_refunded_is_made_anew_with_another_key(runs: Runs, define: Define) -> None:
    order, charged, _ = order_of(define)
    deliver(order, id="A", kwargs={"end": "fails"})
    runs.retry("A")
    deliver(order, id="A", kwargs={"end": "fails"}, headers={"steps_ticket": True})
    assert len(set(charged)) == 2


def test_cancelling_a_run_leaves_the_children_of_others(
    app: Celery, runs: Runs, define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[Any] = []
    monkeypatch.setattr(WorkerChildren, "cancel", lambda self, details: cancelled.append(details))
    kid = app.task(name="kid")(lambda: 1)

    def parent(self: DurableTask) -> Any:
        return self.step.run_task("kid", kid)

    def other(self: DurableTask) -> None:
        self.step.sleep("a while", "1h")

    parent_task, other_task = define(parent), define(other)
    deliver(parent_task, id="P", **SHARED)
    deliver(other_task, id="O", **SHARED)
    runs.cancel("O")
    deliver(other_task, id="O", **AGAIN)
    assert runs.get("O").status == "cancelled"
    assert cancelled == []


def test_what_an_operator_said_of_a_step_holds_for_the_namespace(app: Celery, runs: Runs, define: Define) -> None:
    calls: list[int] = []

    def charge() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    def pay(self: DurableTask) -> Any:
        return self.step.run("charge", charge, at_most_once=True)

    pay_task = define(pay)
    with pytest.raises(KeyboardInterrupt):
        deliver(pay_task, id="A", **SHARED)
    store_of(app).client.call("HSET", store_of(app).keys.namespace("order-1").run, "lease", "0")
    deliver(pay_task, id="A", **AGAIN)
    runs.resolve("A", done="by hand")
    published(app)
    assert deliver(pay_task, id="A", **AGAIN).retval == "by hand"
    assert deliver(pay_task, id="B", **SHARED).retval == "by hand"
    assert calls == [1]


def test_a_wait_that_one_run_has_ended_is_over_for_the_others(app: Celery, runs: Runs, define: Define) -> None:
    def waits(self: DurableTask) -> Any:
        with self.step.parallel() as p:
            p.wait_for_event("go")
            p.wait_for_event("stop")
        return None

    task = define(waits)
    for id in ("A", "B"):
        deliver(task, id=id, **SHARED)
    runs.emit("go", {"n": 1})
    runs.emit("stop", {"n": 1}, to="order-1")
    deliver(task, id="A", **AGAIN)
    assert runs.get("A").status == "succeeded"
    assert runs.get("B").status == "suspended"
    assert (runs.emit("go", {"n": 2}), runs.emit("stop", {"n": 2})) == (0, 0), "nobody waits for it any more"
    assert not [field for field in store_of(app).fields("order-1") if ":await" in field or ":match:" in field]
    deliver(task, id="B", **AGAIN)
    assert runs.get("B").status == "succeeded"


def test_a_request_that_comes_while_the_namespace_is_borrowed_harms_nobody(app: Celery, runs: Runs, define: Define) -> None:
    def waiting(self: DurableTask) -> Any:
        self.step.run("first", lambda: 1)
        return self.step.wait_for_event("go")

    def borrower(self: DurableTask) -> Any:
        return self.step.run("audit", lambda: runs.pause("order-1") or "audited", namespace="order-1")

    task = define(waiting)
    deliver(task, id="id-1", **SHARED)
    assert deliver(define(borrower), id="id-2").retval == "audited"
    assert [(record.key, record.run_id, record.corrupt) for record in runs.records("order-1")] == [
        ("first", "id-1", ""),
        ("audit", "id-2", ""),
        ("go", "id-1", ""),
    ]
    runs.unpause("order-1")
    runs.emit("go", True, to="order-1")
    assert deliver(task, id="id-1", **AGAIN).retval is True

"""Runs.retry and Runs.fork: a run once more, or a copy of it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from celery_steps import DurableTask, RunRefused, Runs, StepsError
from celery_steps.engine import rollback
from celery_steps.engine.retry import RetryPolicy
from celery_steps.errors import StoreUnavailable
from celery_steps.store.keys import RunId
from celery_steps.store.store import Store
from delivering import close, deliver, make_app, published
from runs.outside import every_key, store_of
from servers import RedisServer, assert_no_leaks

TICKET = {"headers": {"steps_ticket": True}}


class Shop:
    """Orders: `broken` steps fail; `done` lists what was executed."""

    def __init__(self, app: Celery) -> None:
        self.done: list[str] = []
        self.undone: list[str] = []
        self.broken: set[str] = set()
        shop = self

        @app.task(bind=True, base=DurableTask, name="shop.order")
        def order(self: DurableTask, number: int = 42) -> list[str]:
            return [
                self.step.run(what, what, shop.do, rollback=shop.undo if what == "reserve" else None)
                for what in ("load", "reserve", "charge", "ship")
            ]

        self.task = order

    def do(self, what: str) -> str:
        if what in self.broken:
            raise ConnectionError(f"no route to {what}")
        self.done.append(what)
        return f"{what}!"

    def undo(self, what: str) -> None:
        if "undo" in self.broken:
            raise ConnectionError("no route back")
        self.undone.append(what)


@pytest.fixture
def shop(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(rollback, "_POLICY", RetryPolicy(max_retries=0))
    return Shop(app)


def fail(shop: Shop) -> None:
    shop.broken = {"charge"}
    deliver(shop.task, id="id-1")
    shop.broken = set()


def test_a_failed_run_goes_on_with_what_it_has_and_does_anew_what_was_undone(app: Celery, runs: Runs, shop: Shop) -> None:
    fail(shop)
    assert (shop.done, shop.undone) == (["load", "reserve"], ["reserve!"])
    runs.retry("id-1")
    assert runs.get("id-1").status == "suspended"
    assert [message.headers["id"] for message in published(app)] == ["id-1"]
    assert deliver(shop.task, id="id-1", **TICKET).retval == ["load!", "reserve!", "charge!", "ship!"]
    assert shop.done == ["load", "reserve", "reserve", "charge", "ship"]
    assert runs.get("id-1").status == "succeeded"
    assert shop.task.AsyncResult("id-1").state == "SUCCESS"


def test_it_may_fail_and_be_undone_again(app: Celery, runs: Runs, shop: Shop) -> None:
    fail(shop)
    runs.retry("id-1")
    shop.broken = {"ship"}
    deliver(shop.task, id="id-1", **TICKET)
    assert runs.get("id-1").status == "failed"
    assert shop.undone == ["reserve!", "reserve!"]


def test_from_a_step_on_everything_is_done_anew(app: Celery, runs: Runs, shop: Shop) -> None:
    fail(shop)
    runs.retry("id-1", "load")
    deliver(shop.task, id="id-1", **TICKET)
    assert shop.done == ["load", "reserve", "load", "reserve", "charge", "ship"]


def test_a_rollback_that_stopped_goes_on(app: Celery, runs: Runs, shop: Shop) -> None:
    shop.broken = {"charge", "undo"}
    deliver(shop.task, id="id-1")
    assert runs.get("id-1").to_undo == (("reserve", 1),)
    shop.broken = set()
    runs.retry("id-1")
    deliver(shop.task, id="id-1", **TICKET)
    run = runs.get("id-1")
    assert (run.status, run.to_undo, shop.undone) == ("failed", (), ["reserve!"])
    assert shop.done == ["load", "reserve"], "it only undoes"


def test_a_cancelled_run_can_be_retried(app: Celery, runs: Runs, shop: Shop) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.waits")
    def waits(self: DurableTask) -> Any:
        self.step.run("load", lambda: shop.do("load"))
        return self.step.wait_for_event("go", timeout=0.01)

    deliver(waits, id="id-1")
    runs.cancel("id-1")
    deliver(waits, id="id-1", **TICKET)
    assert runs.get("id-1").status == "cancelled"
    runs.retry("id-1")
    deliver(waits, id="id-1", **TICKET)
    assert runs.get("id-1").status == "succeeded"
    assert shop.done == ["load"]


@pytest.mark.parametrize(
    ("end", "text"),
    [("succeeds", "is succeeded, so it cannot be retried. To do it once more, fork it"), ("waits", "is retrying, so")],
)
def test_only_what_failed_can_be_retried(runs: Runs, greet: Any, waiting: Any, end: str, text: str) -> None:
    deliver(greet if end == "succeeds" else waiting, id="id-1")
    with pytest.raises(RunRefused, match=text):
        runs.retry("id-1")


def test_no_worker_has_it_before_the_old_end_is_taken_out_of_the_result_backend(
    app: Celery, runs: Runs, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(shop)
    store_result = app.backend.store_result

    def late(id: str, result: Any, state: str, *args: Any, **options: Any) -> Any:
        if state == "SUSPENDED":  # a sweeper publishes it in this very moment
            deliver(shop.task, id=id, **TICKET)
        return store_result(id, result, state, *args, **options)

    shop.broken = {"charge"}
    monkeypatch.setattr(app.backend, "store_result", late)
    runs.retry("id-1")
    assert shop.task.AsyncResult("id-1").state == "SUSPENDED"
    deliver(shop.task, id="id-1", **TICKET)
    assert (runs.get("id-1").status, shop.task.AsyncResult("id-1").state) == ("failed", "FAILURE")


def test_a_call_whose_result_nobody_wants_stores_none_when_it_is_retried(runs: Runs, shop: Shop) -> None:
    shop.broken = {"charge"}
    deliver(shop.task, id="id-1", ignore_result=True)
    before = shop.task.AsyncResult("id-1").state  # Celery 5.4 stores failures all the same
    runs.retry("id-1")
    assert shop.task.AsyncResult("id-1").state == before != "SUSPENDED"


def test_a_run_that_was_paused_before_it_was_cancelled_is_not_when_it_is_retried(app: Celery, runs: Runs, shop: Shop) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.naps")
    def naps(self: DurableTask) -> str:
        self.step.sleep("nap", "1h")
        return "awake"

    deliver(naps, id="id-1")
    runs.pause("id-1")
    runs.cancel("id-1")
    deliver(naps, id="id-1", **TICKET)
    runs.retry("id-1")
    deliver(naps, id="id-1", **TICKET)
    assert runs.get("id-1").status == "suspended"


class TestAfterCelerysRetries:
    """A task whose one retry is used up when it is reopened."""

    @pytest.fixture
    def flaky(self, app: Celery) -> Any:
        @app.task(
            bind=True,
            base=DurableTask,
            name="shop.flaky",
            autoretry_for=(ConnectionError,),
            max_retries=1,
            retry_backoff=False,
            default_retry_delay=0,
        )
        def flaky(self: DurableTask, errors: int) -> int:
            self.step.run("load", lambda: 1)
            if self.request.retries < errors:
                raise ConnectionError
            return int(self.request.retries)

        return flaky

    def exhaust(self, app: Celery, runs: Runs, flaky: Any, errors: int = 2) -> None:
        deliver(flaky, errors, id="id-1")
        self.next(app, flaky, errors)
        assert runs.get("id-1").status == "failed"

    def next(self, app: Celery, flaky: Any, errors: int) -> Any:
        """Deliver the message that is sent, word for word."""
        headers = published(app)[-1].headers
        own = {name: value for name, value in headers.items() if name.startswith("steps_")}
        return deliver(flaky, errors, id="id-1", retries=headers["retries"], headers=own)

    def test_it_has_them_again(self, app: Celery, runs: Runs, flaky: Any) -> None:
        self.exhaust(app, runs, flaky)
        runs.retry("id-1")
        self.next(app, flaky, 1)
        assert runs.get("id-1").status == "retrying"
        assert self.next(app, flaky, 1).retval == 1
        assert runs.get("id-1").status == "succeeded"

    def test_and_each_time_that_it_is_reopened(self, app: Celery, runs: Runs, flaky: Any) -> None:
        self.exhaust(app, runs, flaky)
        for _ in range(2):
            runs.retry("id-1")
            self.next(app, flaky, 2)
            assert runs.get("id-1").status == "retrying"
            self.next(app, flaky, 2)
            assert runs.get("id-1").status == "failed"

    @pytest.mark.parametrize("retries", [0, 1])
    def test_a_late_copy_of_a_message_from_before_uses_none_up(self, app: Celery, runs: Runs, flaky: Any, retries: int) -> None:
        self.exhaust(app, runs, flaky)
        runs.retry("id-1")
        deliver(flaky, 2, id="id-1", retries=retries, redelivered=True, headers={"steps_ticket": True, "steps_reopened": 0})
        assert runs.get("id-1").status == "suspended"
        self.next(app, flaky, 2)
        assert runs.get("id-1").status == "retrying"

    def test_a_copy_has_them_all_whatever_its_original_used(self, app: Celery, runs: Runs, flaky: Any) -> None:
        self.exhaust(app, runs, flaky)
        runs.retry("id-1")
        published(app)
        copy = runs.fork("id-1")
        (message,) = published(app)
        assert (message.headers["id"], message.headers["retries"]) == (copy, 0)
        assert "steps_reopened" not in message.headers


def away(*_: Any, **__: Any) -> Any:
    raise OperationalError("nobody answers")


def lost(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable("Redis cannot be reached")


def test_while_the_broker_is_away_the_ticket_brings_it(
    app: Celery, runs: Runs, shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(shop)
    with monkeypatch.context() as outage:
        outage.setattr(app.amqp, "send_task_message", away)
        runs.retry("id-1")
    assert "could not be published yet: nobody answers" in caplog.text
    assert runs.get("id-1").status == "suspended"
    deliver(shop.task, id="id-1", **TICKET)
    assert runs.get("id-1").status == "succeeded"


@pytest.mark.parametrize("asked", ["get_task_meta", "store_result"])
def test_while_the_result_backend_is_away_nothing_is_changed(
    app: Celery, runs: Runs, shop: Shop, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    fail(shop)
    ask = getattr(app.backend, asked)

    def answerless(*args: Any, **options: Any) -> None:
        outage.setattr(app.backend, asked, ask)  # it is back soon
        ask(*args, **options)
        away()

    with monkeypatch.context() as outage:
        outage.setattr(app.backend, asked, answerless)
        with pytest.raises(
            StepsError, match=r"was not retried, as the result backend cannot be used: .* Retry it once that answers"
        ):
            runs.retry("id-1")
    assert (runs.get("id-1").status, shop.task.AsyncResult("id-1").state) == ("failed", "FAILURE")


@pytest.mark.parametrize("also", ["only reopen", "the status too"])
def test_a_store_that_is_lost_before_it_is_reopened_leaves_the_old_end(
    app: Celery, runs: Runs, shop: Shop, monkeypatch: pytest.MonkeyPatch, also: str
) -> None:
    fail(shop)

    def reopen(*_: Any, **__: Any) -> Any:
        if also == "the status too":
            outage.setattr(Store, "status", lost)
        lost()

    with monkeypatch.context() as outage:
        outage.setattr(Store, "reopen", reopen)
        with pytest.raises(StoreUnavailable):
            runs.retry("id-1")
    assert (runs.get("id-1").status, shop.task.AsyncResult("id-1").state) == ("failed", "FAILURE")


def test_one_that_was_reopened_though_its_answer_was_lost_does_not_get_the_old_end(
    app: Celery, runs: Runs, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(shop)
    reopen = Store.reopen

    def unheard(*args: Any, **options: Any) -> Any:
        reopen(*args, **options)
        deliver(shop.task, id="id-1", **TICKET)
        outage.setattr(Store, "status", lost)
        lost()

    with monkeypatch.context() as outage:
        outage.setattr(Store, "reopen", unheard)
        with pytest.raises(StoreUnavailable):
            runs.retry("id-1")
    assert (runs.get("id-1").status, shop.task.AsyncResult("id-1").state) == ("succeeded", "SUCCESS")


@pytest.mark.parametrize("backend", ["disabled://", "rpc://"])
def test_where_no_result_is_kept_it_goes_on_too(redis_server: RedisServer, backend: str) -> None:
    app = make_app(redis_server, result_backend=backend)
    shop = Shop(app)
    shop.broken = {"load"}
    deliver(shop.task, id="id-1")
    shop.broken = set()
    Runs(app).retry("id-1")
    deliver(shop.task, id="id-1", **TICKET)
    assert Runs(app).get("id-1").status == "succeeded"
    close(app)


def test_a_step_that_is_not_recorded_is_refused_and_those_that_are_are_named(app: Celery, runs: Runs, shop: Shop) -> None:
    fail(shop)
    for act in (runs.retry, runs.fork):
        with pytest.raises(
            RunRefused, match=r"no recorded step 'ship' \(occurrence 1\).*Recorded steps: 'load' \(1\), 'reserve' \(1\)"
        ):
            act("id-1", "ship")
    assert runs.get("id-1").status == "failed"


def test_a_reopened_run_that_ends_leaves_no_key_without_an_end(
    app: Celery, runs: Runs, shop: Shop, redis_server: RedisServer
) -> None:
    fail(shop)
    runs.retry("id-1")
    published(app)
    deliver(shop.task, id="id-1", **TICKET)
    with redis_server.client(int(app.conf.steps_backend.rpartition("/")[2])) as client:
        assert_no_leaks(client)


# -- fork ---------------------------------------------------------------------------------------------------------------


def forked(app: Celery, shop: Shop) -> Any:
    (message,) = published(app)
    headers = {name: value for name, value in message.headers.items() if name.startswith("steps_")}
    return deliver(shop.task, 42, id=message.headers["id"], headers=headers)


def test_a_copy_has_the_arguments_and_what_was_recorded_before_the_step(app: Celery, runs: Runs, shop: Shop) -> None:
    deliver(shop.task, 42, id="id-1")
    shop.done.clear()
    id = runs.fork("id-1", "charge", namespace="copy")
    assert forked(app, shop).retval == ["load!", "reserve!", "charge!", "ship!"]
    assert shop.done == ["charge", "ship"]
    assert runs.get(id).namespace == "copy"
    assert [(record.key, record.result) for record in runs.records("copy")] == [
        (what, f"{what}!") for what in ("load", "reserve", "charge", "ship")
    ]
    assert runs.get("id-1").status == "succeeded"


def test_a_copy_undoes_only_what_it_executed(app: Celery, runs: Runs, shop: Shop) -> None:
    deliver(shop.task, 42, id="id-1")
    runs.fork("id-1", "charge")
    shop.broken = {"ship"}
    forked(app, shop)
    assert shop.undone == []


def test_a_copy_goes_into_a_namespace_of_its_own(app: Celery, runs: Runs, shop: Shop, greet: Any) -> None:
    deliver(shop.task, 42, id="id-1")
    deliver(greet, id="id-2")
    with pytest.raises(RunRefused, match="Namespace 'id-2' has a journal: fork into another one"):
        runs.fork("id-1", namespace="id-2")
    assert published(app) == []
    assert store_of(app).status("id-2", RunId("shop.greet", "id-2")) == "succeeded"


def test_a_copy_that_cannot_be_sent_leaves_its_namespace_free(
    app: Celery, runs: Runs, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(shop.task, 42, id="id-1")
    before, sent = every_key(app), []

    def late(*_: Any, task_id: str, **__: Any) -> None:
        sent.append(task_id)
        away()

    with monkeypatch.context() as outage:
        outage.setattr(app, "send_task", late)
        with pytest.raises(
            StepsError, match=r"was not forked, as the copy cannot be sent: .*nobody answers.* once the broker answers"
        ):
            runs.fork("id-1", namespace="copy")
    assert {key for key in every_key(app) - before if "cancel:" not in key} == set()
    shop.done.clear()
    deliver(shop.task, 42, id=sent[0], headers={"steps_namespace": "copy"})
    assert shop.done == [], "what was sent after all does nothing again"
    runs.purge(namespace="copy")
    runs.fork("id-1", namespace="copy")
    assert forked(app, shop).retval == ["load!", "reserve!", "charge!", "ship!"]
    assert shop.done == []

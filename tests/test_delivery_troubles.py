"""Troubles around one delivery: an open run stays open, an end stays as it is, and nothing comes back for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from celery_steps import DurableTask, JournalLost, RunCancelled, Runs, StoreUnavailable
from celery_steps.codec import pack
from celery_steps.engine.journal import Journal
from celery_steps.errors import StoreLost
from celery_steps.store.binding import Binding
from celery_steps.store.keys import RunId
from celery_steps.worker import messages, runtime
from celery_steps.worker.children import WorkerChildren
from celery_steps.worker.delivery import Delivery, latest
from celery_steps.worker.verdicts import Request
from delivering import close, deliver, make_app, namespace_fields, published
from servers import RedisServer, wait_until

RUN = RunId("order", "id-1")


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server, steps_lease_ttl=0.2, steps_partitions=1)
    yield app
    close(app)


def durable(app: Celery, body: Callable[..., Any], **options: Any) -> Any:
    return app.task(name="order", bind=True, **{"base": DurableTask, **options})(body)


def one_step(self: DurableTask) -> int:
    return self.step.run("charge", lambda: 100)


def count(self: DurableTask) -> int:
    return self.step.run("count", lambda: 1, namespace="shared")


def outcome(delivered: Any) -> str:
    """What Celery was given, SUCCESS included."""
    return str(delivered.info.state) if delivered.info else "SUCCESS"


def field(app: Celery, name: str) -> str | None:
    return namespace_fields(app, RUN.id).get(f"{RUN}:{name}")


def wait_until_due(app: Celery) -> None:
    """Until the lease of an attempt that is gone has run out, and the ticket brings the run back."""
    wait_until(lambda: runtime.of(app).store.sweep(app.main).runs)


def redeliver(task: Any, **request: Any) -> Any:
    return deliver(task, id=RUN.id, headers={messages.TICKET: True}, **request)


def unavailable(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable("Redis is away")


# -- duplicates while something is away ---------------------------------------------------------------------------------


@pytest.mark.parametrize("away", ["store", "result backend"])
def test_a_duplicate_changes_no_stored_result_while_something_is_away(
    app: Celery, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    failures: list[BaseException] = []
    task = durable(app, one_step, on_failure=lambda self, error, *_: failures.append(error))
    with monkeypatch.context() as killed:  # between the storing of the result and its settling
        killed.setattr(Delivery, "stored", lambda *_: None)
        deliver(task, id=RUN.id)
    wait_until_due(app)

    def backend_away(*_: Any) -> None:
        raise redis.ConnectionError("the result backend is away")

    with monkeypatch.context() as trouble:
        if away == "store":
            trouble.setattr(Binding, "settle", unavailable)
        else:
            trouble.setattr(task.backend, "get_state", backend_away)
        assert outcome(deliver(task, id=RUN.id, redelivered=True)) == "IGNORED"
    assert failures == []
    assert task.AsyncResult(RUN.id).state == "SUCCESS"
    assert field(app, "settled") is None

    wait_until_due(app)
    redeliver(task)
    assert field(app, "settled") == "succeeded"


# -- interrupted and unreadable -----------------------------------------------------------------------------------------


def test_a_soft_time_limit_while_a_claim_is_on_its_way_ends_the_run_as_failed(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, signals = Binding.claim, iter([SoftTimeLimitExceeded()])

    def interrupted(self: Binding, *args: Any, **options: Any) -> Any:
        granted = claim(self, *args, **options)
        for signal in signals:
            raise signal
        return granted

    monkeypatch.setattr(Binding, "claim", interrupted)
    assert outcome(deliver(durable(app, one_step), id=RUN.id)) == "FAILURE"
    assert field(app, "settled") == "failed"


def test_a_soft_time_limit_while_the_journal_is_read_ends_the_run_as_failed(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    absorb, signals = Journal.absorb, iter([SoftTimeLimitExceeded()])

    def interrupted(*arguments: Any) -> None:
        for signal in signals:
            raise signal
        absorb(*arguments)

    monkeypatch.setattr(Journal, "absorb", interrupted)
    assert outcome(deliver(durable(app, one_step), id=RUN.id)) == "FAILURE"
    assert field(app, "settled") == "failed"


def test_a_record_that_cannot_be_read_fails_the_run_for_good(app: Celery) -> None:
    def body(self: DurableTask) -> None:
        one_step(self)
        raise KeyboardInterrupt  # its process ends

    task = durable(app, body)
    with pytest.raises(KeyboardInterrupt):
        deliver(task, id=RUN.id)
    store = runtime.of(app).store
    keys = store.keys.namespace(RUN.id)
    tip, uid = store.fields(RUN.id)["tip"].split()
    fence, number = tip.split("-")
    newest = f"{fence}-{int(number) + 1}"
    store.client.call("XADD", keys.journal, newest, "step", pack([99, "of a newer version"]))
    store.client.call("HSET", keys.run, "tip", f"{newest} {uid}")
    wait_until_due(app)
    assert outcome(redeliver(task)) == "FAILURE"
    assert field(app, "settled") == "failed"


@pytest.mark.parametrize("error", [asyncio.CancelledError("of a future"), StoreLost("raised by the body")])
def test_what_is_no_exception_leaves_the_run_open(app: Celery, error: BaseException) -> None:
    def body(self: DurableTask) -> None:
        one_step(self)
        raise error

    task = durable(app, body)
    task.apply_async(task_id=RUN.id, ignore_result=True)
    (message,) = published(app)
    request = Request(message, app=app, task=task, hostname="worker@here", decoded=False)
    request.time_start = time.time()
    try:
        deliver(task, id=RUN.id)
    except BaseException:  # billiard hands it to the main process
        request.on_failure(ExceptionInfo())
    assert task.AsyncResult(RUN.id).state != "FAILURE"
    assert field(app, "status") == "running"


# -- while the attempt leaves -------------------------------------------------------------------------------------------


@pytest.fixture
def busy(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """An app in which another run owns the namespace "shared"."""
    monkeypatch.setattr("celery_steps.engine.borrow._PATIENCE", 0.0)
    app = make_app(redis_server, steps_lease_ttl=60)
    other = runtime.of(app).store.bind("shared", RunId("other", "id-2"), "token", app.main)
    other.claim("nonce", b"call", retries=0, message=b"message")
    yield app
    close(app)


def test_clean_up_that_raises_while_a_suspension_leaves_does_not_fail_the_run(busy: Celery) -> None:
    def body(self: DurableTask) -> None:
        one_step(self)
        try:
            count(self)
        finally:
            raise RuntimeError("the clean-up failed")

    assert outcome(deliver(durable(busy, body), id=RUN.id)) == "IGNORED"
    assert field(busy, "status") == "suspended"


def test_a_suspension_that_cannot_be_recorded_does_not_fail_the_run(busy: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Binding, "suspend", unavailable)
    assert outcome(deliver(durable(busy, count), id=RUN.id)) == "REJECTED", "back to the broker"


def test_a_cancel_whose_end_cannot_be_recorded_is_recorded_later(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(self: DurableTask) -> None:
        one_step(self)
        raise RunCancelled

    task = durable(app, body)
    with monkeypatch.context() as trouble:
        trouble.setattr(Binding, "finish_and_settle", unavailable)
        assert outcome(deliver(task, id=RUN.id)) == "IGNORED"
    assert field(app, "settled") is None
    wait_until_due(app)
    redeliver(task)
    assert field(app, "settled") == "cancelled"


@pytest.mark.parametrize("handler", ["returns", "raises", "has returned before"])
def test_a_borrowed_namespace_that_cannot_be_given_back_does_not_fail_the_run(
    app: Celery, monkeypatch: pytest.MonkeyPatch, handler: str
) -> None:
    def counted() -> int:
        if handler == "raises":
            raise ValueError("no")
        return 1

    def body(self: DurableTask) -> int:
        return self.step.run("count", counted, namespace="shared")

    task = durable(app, body)
    if handler == "has returned before":
        deliver(task, id="id-0")
    monkeypatch.setattr(Binding, "giveback", unavailable)
    assert outcome(deliver(task, id=RUN.id)) == "REJECTED", "back to the broker"


def test_a_journal_that_is_gone_when_the_body_returns_fails_the_run_for_good(app: Celery) -> None:
    failures: list[BaseException] = []

    def body(self: DurableTask) -> None:
        one_step(self)
        store = runtime.of(app).store
        store.client.call("DEL", store.keys.namespace(RUN.id).journal)

    task = durable(app, body, on_failure=lambda self, error, *_: failures.append(error))
    assert outcome(deliver(task, id=RUN.id)) == "FAILURE"
    assert outcome(redeliver(task)) == "IGNORED"
    assert [type(error) for error in failures] == [JournalLost]
    assert field(app, "settled") == "failed"


def test_a_store_without_memory_does_not_fail_a_run(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    app = make_app(server, steps_lease_ttl=0.2, result_backend="cache+memory://")
    task = durable(app, one_step)
    runtime.of(app).store.client.script("claim")
    with server.client() as client:
        client.config_set("maxmemory", 1)
    assert outcome(deliver(task, id=RUN.id)) == "REJECTED"
    with server.client() as client:
        client.config_set("maxmemory", 0)
    assert outcome(deliver(task, id=RUN.id, redelivered=True)) == "SUCCESS"
    close(app)


# -- children of a run that ends from outside its body -------------------------------------------------------------------


def child() -> int:
    return 1


crashes = True


def with_child(self: DurableTask) -> None:
    if self.step.resumed and crashes:
        raise KeyboardInterrupt  # the process is gone
    self.step.run_task("child", "child")


def die_while_the_child_runs(app: Celery) -> Any:
    app.task(name="child")(child)
    task = durable(app, with_child)
    deliver(task, id=RUN.id)
    wait_until_due(app)
    with pytest.raises(KeyboardInterrupt):
        redeliver(task)
    return task


@pytest.fixture
def revoked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many children were cancelled, at each request."""
    cancelled: list[int] = []
    monkeypatch.setattr(WorkerChildren, "cancel", lambda self, details: cancelled.append(len(details)))
    return cancelled


def sent_children(app: Celery) -> list[str]:
    return [message.headers["id"] for message in published(app) if message.headers["task"] == "child"]


def test_a_run_that_crashed_too_often_cancels_its_children_and_sends_others_when_retried(
    app: Celery, revoked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    app.conf.steps_max_crashes = 1
    task = die_while_the_child_runs(app)
    (first,) = sent_children(app)
    wait_until_due(app)
    assert outcome(redeliver(task)) == "FAILURE"
    assert (field(app, "settled"), revoked) == ("failed", [1])

    Runs(app).retry(RUN.id)
    monkeypatch.setattr("test_delivery_troubles.crashes", False)
    redeliver(task)
    (second,) = sent_children(app)
    assert second != first, "that one was cancelled"


def test_a_run_that_is_ended_by_the_hard_time_limit_cancels_its_children(app: Celery, revoked: list[int]) -> None:
    task = die_while_the_child_runs(app)
    reach_the_hard_limit(app, task)
    assert (field(app, "settled"), revoked) == ("failed", [1])


def reach_the_hard_limit(app: Celery, task: Any) -> None:
    task.apply_async(task_id=RUN.id, ignore_result=True)
    (message,) = (message for message in published(app) if message.headers["id"] == RUN.id)
    request = Request(message, app=app, task=task, hostname="worker@here", decoded=False)
    request.time_start = time.time()
    latest.set(None)  # the main process has no delivery
    request.on_timeout(False, 1.0)


@pytest.mark.parametrize(
    ("end", "error"),
    [("hard limit", StoreUnavailable("Redis is away")), ("crashes", redis.ConnectionError("the broker is away"))],
)
def test_children_that_cannot_be_cancelled_keep_no_failed_run_open(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, end: str, error: Exception
) -> None:
    def cancel(*_: Any) -> None:
        raise error

    monkeypatch.setattr(WorkerChildren, "cancel", cancel)
    app.conf.steps_max_crashes = 1
    task = die_while_the_child_runs(app)
    if end == "hard limit":
        reach_the_hard_limit(app, task)
    else:
        wait_until_due(app)
        assert outcome(redeliver(task)) == "FAILURE"
    assert field(app, "settled") == "failed"
    assert f"Children of run {RUN} may go on" in caplog.text


# -- Redis out of memory --------------------------------------------------------------------------------------------------


class Memory:
    """Of a Redis with a limit."""

    def __init__(self, server: RedisServer) -> None:
        self.client = server.client()

    def fill(self) -> None:
        self.client.config_set("maxmemory", self.client.info("memory")["used_memory"] // 2)
        with pytest.raises(redis.OutOfMemoryError):
            self.client.set("one", "more")

    def free(self) -> None:
        self.client.config_set("maxmemory", 0)


@pytest.mark.parametrize("beside", [False, True])
def test_an_effect_is_recorded_without_memory_and_no_other_begins_before_there_is_some(
    start_redis: Callable[..., RedisServer], beside: bool
) -> None:
    server = start_redis()
    memory = Memory(server)
    app = make_app(server, steps_lease_ttl=0.2, result_backend="cache+memory://")
    done: list[str] = []

    def one() -> None:
        done.append("one")
        if len(done) == 1:
            memory.fill()

    def body(self: DurableTask) -> list[str]:
        if beside:
            with self.step.parallel(max_workers=1) as p:
                p.run("one", one)
                p.run("two", lambda: done.append("two"))
        else:
            self.step.run("one", one)
            self.step.run("two", lambda: done.append("two"))
        return done

    task = durable(app, body)
    assert outcome(deliver(task, id=RUN.id)) == "IGNORED"
    run = Runs(app).get(RUN.id)
    assert (run.status, run.waiting, done) == ("suspended", "memory in Redis", ["one"])
    assert [record.key for record in Runs(app).records(RUN.id)] == ["one"]
    wait_until_due(app)
    assert outcome(redeliver(task)) == "REJECTED", "it cannot begin"
    memory.free()
    assert outcome(redeliver(task)) == "SUCCESS"
    assert done == ["one", "two"]
    memory.client.close()
    close(app)

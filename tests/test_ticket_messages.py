"""The message that a ticket brings a run back with, and the result that a run ends with: as Celery has them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery
from kombu import serialization

from celery_steps import DurableTask, StepsError
from celery_steps.codec import pack
from celery_steps.store.keys import RunId
from celery_steps.worker import messages, runtime
from celery_steps.worker.canvas import Plan, loaded
from celery_steps.worker.result import decoded
from celery_steps.worker.sweeper import sweep
from delivering import close, deliver, make_app, namespace_fields, published
from servers import RedisServer

RUN = RunId("order", "id-1")


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    # In Redis, whoever sends a task subscribes to its result until the collector has come by.
    app = make_app(redis_server, steps_partitions=1, result_backend="cache+memory://")
    app.backend.client.cache.clear()  # one for the whole process
    yield app
    close(app)


@pytest.fixture
def _far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


ETA = datetime(2099, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.mark.usefixtures("_far_from_utc")
@pytest.mark.parametrize("eta", [ETA, ETA.replace(tzinfo=None), ETA.isoformat(), "2099-01-02T03:04:05"])
def test_the_eta_of_a_retry_is_read_as_celery_reads_it(app: Celery, eta: datetime | str) -> None:
    @app.task(name="order", base=DurableTask, bind=True)
    def order(self: DurableTask) -> None:
        self.step.run("charge", lambda: 100)
        raise self.retry(eta=eta)

    deliver(order, id=RUN.id)
    wakes = float(namespace_fields(app, RUN.id)[f"{RUN}:wake"]) / 1000
    assert wakes == pytest.approx(ETA.timestamp(), abs=60)


@pytest.mark.parametrize(("per_task", "per_call"), [(False, True), (True, None), (True, False), (False, None)])
def test_whether_the_result_is_ignored_travels_with_the_ticket(app: Celery, per_task: bool, per_call: bool | None) -> None:
    @app.task(name="order", base=DurableTask, bind=True, ignore_result=per_task)
    def order(self: DurableTask) -> None:
        self.step.run("charge", lambda: 100)
        raise KeyboardInterrupt  # its process ends

    with pytest.raises(KeyboardInterrupt):
        deliver(order, id=RUN.id, **({} if per_call is None else {"ignore_result": per_call}))
    stored = runtime.of(app).store.message(RUN.id, RUN)
    assert stored is not None
    messages.publish(app, stored)
    (message,) = published(app)
    assert message.headers["ignore_result"] is (per_task if per_call is None else per_call)


def test_a_task_may_return_the_result_of_another(app: Celery) -> None:
    @app.task(name="other")
    def other() -> None: ...

    @app.task(name="order", base=DurableTask, bind=True)
    def order(self: DurableTask) -> Any:
        self.step.run("charge", lambda: 100)
        return other.delay()

    assert deliver(order, id=RUN.id).info is None
    assert namespace_fields(app, RUN.id)[f"{RUN}:settled"] == "succeeded"
    (sent,) = published(app)
    assert order.AsyncResult(RUN.id).result[0][0] == sent.headers["id"]


def test_arguments_that_cannot_be_copied_are_no_obstacle(app: Celery) -> None:
    class Connected:
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no copies")

    @app.task(name="order", base=DurableTask, bind=True)
    def order(self: DurableTask, connected: Connected) -> int:
        return 1

    assert deliver(order, Connected()).info is None


def test_a_message_that_cannot_be_published_keeps_no_other_run_waiting(app: Celery) -> None:
    store = runtime.of(app).store
    bodies = {"id-1": ("application/json", "["), "id-2": ("application/json", '[[], {}, {"task_id": "id-2"}]')}
    for id, (content_type, data) in bodies.items():
        run = store.bind(id, RunId("order", id), f"token of {id}", app.main)
        run.claim("nonce", b"call", retries=0, message=pack([1, "order", content_type, "utf-8", data]))
        run.release(0)
    with pytest.raises(StepsError, match="The stored message of order cannot be read"):
        sweep(app)
    assert [message.headers["id"] for message in published(app)] == ["id-2"]


PICKLE = "application/x-python-serialize"


class Trap:
    """Pickle calls this when it reads it."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("stored bytes have chosen that they are read by pickle",)


@pytest.mark.parametrize("stored", ["message", "result", "child"])
def test_stored_bytes_do_not_choose_by_what_they_are_read(app: Celery, stored: str) -> None:
    data = pickle.dumps(Trap())
    read = {
        "message": lambda: messages.opened(app, pack([1, "order", PICKLE, "binary", data])),
        "result": lambda: decoded(pack([PICKLE, "binary", data]), app),
        "child": lambda: loaded(app, Plan(PICKLE, "binary", data, [], "", [])),
    }
    with pytest.raises(
        StepsError, match=rf"does not accept the content type '{PICKLE}'.* add its serializer to (result_)?accept"
    ):
        read[stored]()


@pytest.mark.parametrize("whose", ["of the task", "of the app"])
def test_what_the_app_itself_writes_stays_readable(app: Celery, whose: str) -> None:
    if whose == "of the app":
        app.conf.update(task_serializer="pickle", result_serializer="pickle")

    @app.task(name="order", base=DurableTask, bind=True, serializer="pickle" if whose == "of the task" else None)
    def order(self: DurableTask, items: set[int]) -> None:
        self.step.run("charge", lambda: 100)
        raise KeyboardInterrupt  # its process ends

    with pytest.raises(KeyboardInterrupt):
        deliver(order, {1, 2}, id=RUN.id)
    stored = runtime.of(app).store.message(RUN.id, RUN)
    assert stored is not None
    assert messages.opened(app, stored)[:2] == ("order", [{1, 2}])
    if whose == "of the app":
        assert decoded(pack(list(serialization.dumps({3}, serializer="pickle"))), app) == {3}


def test_a_child_whose_own_serializer_could_not_be_read_back_is_not_sent(app: Celery) -> None:
    @app.task(name="other")
    def other(number: int) -> None: ...

    @app.task(name="order", base=DurableTask, bind=True)
    def order(self: DurableTask) -> None:
        self.step.run_task("child", other.s(1).set(serializer="pickle"))

    failed = deliver(order, id=RUN.id).retval.exception
    assert str(failed).endswith("this app does not accept what pickle writes. Add it to accept_content.")
    assert published(app) == []

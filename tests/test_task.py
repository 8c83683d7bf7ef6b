"""DurableTask: outside a worker, its namespaces, and what Celery's tracer gets of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import celery
import pytest
from celery import Celery, shared_task
from celery.exceptions import Ignore
from pydantic import BaseModel

from celery_steps import DurableTask, NoActiveRun, StepsError, step
from celery_steps.worker import runtime
from delivering import app_of_its_own, deliver, make_app, namespace_fields
from servers import RedisServer


class Order(BaseModel):
    cents: int


@pytest.fixture
def memory_app() -> Celery:
    """An app with no Redis anywhere."""
    return app_of_its_own("memory", broker="memory://")


# -- outside a worker ---------------------------------------------------------------------------------------------------


def test_a_direct_call_keeps_its_journal_in_memory(memory_app: Celery) -> None:
    @memory_app.task(bind=True, base=DurableTask)
    def double(self: DurableTask, number: int) -> list[str]:
        self.step.run("double", number, lambda n: n * 2)
        return [f"{record['key']}={record['result']}" for record in self.step.inspect()]

    assert double(4) == ["double=8"]
    assert double.apply(args=(5,)).get() == ["double=10"]
    memory_app.conf.task_always_eager = True
    assert double.delay(6).get() == ["double=12"]


def test_an_eager_retry_carries_on_with_the_same_journal(memory_app: Celery) -> None:
    calls: list[str] = []

    @memory_app.task(bind=True, base=DurableTask, max_retries=3)
    def flaky(self: DurableTask) -> str:
        self.step.run("one", lambda: calls.append("one"))
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return "done"

    assert flaky.apply().get() == "done"
    assert calls == ["one"]


def test_nested_eager_tasks_do_not_mix(memory_app: Celery) -> None:
    @memory_app.task(bind=True, base=DurableTask)
    def inner(self: DurableTask) -> int:
        return self.step.run("k", lambda: 1)

    @memory_app.task(bind=True, base=DurableTask)
    def outer(self: DurableTask) -> list[Any]:
        self.step.run("k", lambda: inner.apply().get() + 10)
        inner.apply()
        return [(record["key"], record["sequence"], record["result"]) for record in self.step.inspect()]

    assert outer() == [("k", 1, 11)]


def test_another_durable_task_called_directly_inside_a_run_is_refused(memory_app: Celery) -> None:
    @memory_app.task(bind=True, base=DurableTask)
    def inner(self: DurableTask) -> int:
        return self.step.run("k", lambda: 1)

    @memory_app.task(bind=True, base=DurableTask)
    def outer(self: DurableTask) -> int:
        return int(inner())

    with pytest.raises(StepsError, match=r"apply_async"):
        outer()


def test_a_verb_in_a_thread_that_the_body_started_is_an_error(memory_app: Celery) -> None:
    caught: list[BaseException] = []

    @memory_app.task(bind=True, base=DurableTask)
    def body(self: DurableTask) -> None:
        def elsewhere() -> None:
            try:
                self.step.run("k", lambda: 1)
            except NoActiveRun as error:
                caught.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    body()
    assert len(caught) == 1


def test_every_kind_of_task_can_be_durable(memory_app: Celery) -> None:
    def work(value: int) -> int:
        return step.run("work", value, lambda n: n + 1)

    @memory_app.task(base=DurableTask)
    def unbound(value: int) -> int:
        return work(value)

    def with_model(order: Order) -> int:
        return work(order.cents)

    with_model.__annotations__ = {"order": Order, "return": int}  # Celery before 5.6 does not resolve their texts
    typed = memory_app.task(base=DurableTask, pydantic=True)(with_model)

    class ByClass(DurableTask):
        name = "by-class"

        def run(self, value: int) -> int:
            return work(value)

    class Child(ByClass):
        name = "child"

        def run(self, value: int) -> int:
            return super().run(value) + work(value)

    class InContext(DurableTask):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return [self.run(*args, **kwargs)]

    @memory_app.task(base=InContext)
    def in_context(value: int) -> int:
        return work(value)

    @shared_task(base=DurableTask)
    def shared(value: int) -> int:
        return work(value)

    everywhere = app_of_its_own("durable", broker="memory://", task_cls=DurableTask)

    @everywhere.task()
    def by_app(value: int) -> int:
        return work(value)

    assert unbound(1) == shared(1) == by_app(1) == 2
    if celery.VERSION >= (5, 5):  # since when there is pydantic=True
        assert typed.apply(args=({"cents": 1},)).get() == 2
    assert memory_app.register_task(ByClass()).apply(args=(1,)).get() == 2
    assert memory_app.register_task(Child()).apply(args=(1,)).get() == 4
    assert in_context.apply(args=(1,)).get() == [2]


def test_a_missing_argument_is_still_found_when_the_task_is_sent(memory_app: Celery) -> None:
    @memory_app.task(base=DurableTask)
    def needs(order_id: int) -> None: ...

    with pytest.raises(TypeError, match="order_id"):
        needs.delay()


# -- namespaces ---------------------------------------------------------------------------------------------------------


def test_a_template_is_filled_with_the_bound_arguments_percent_encoded(memory_app: Celery) -> None:
    @memory_app.task(base=DurableTask, namespace="order-{order_id}-{part}")
    def task(order_id: Any, part: str = "all") -> None: ...

    assert task.namespace_for((7,), {}) == "order-7-all"
    assert task.namespace_for((), {"order_id": "a/b c", "part": "ü"}) == "order-a%2Fb%20c-%C3%BC"


def test_a_callable_gets_the_calls_arguments(memory_app: Celery) -> None:
    @memory_app.task(bind=True, base=DurableTask, namespace=lambda order_id: f"order-{order_id + 1}")
    def task(self: DurableTask, order_id: int) -> None: ...

    assert task.namespace_for((7,), {}) == "order-8"


@pytest.mark.parametrize("template", ["{nobody}", "  ", "{order_id", lambda order_id: 5, lambda order_id: "x" * 513])
def test_a_namespace_that_cannot_be_made_is_an_error_where_the_task_is_sent(memory_app: Celery, template: Any) -> None:
    @memory_app.task(base=DurableTask, namespace=template)
    def task(order_id: int) -> None: ...

    with pytest.raises(StepsError, match=r"namespace of .*task"):
        task.delay(1)


@pytest.mark.parametrize("namespace", ["", " ", "x" * 513, 5])
def test_a_wrong_namespace_of_one_call_is_an_error_where_it_is_sent(memory_app: Celery, namespace: Any) -> None:
    @memory_app.task(base=DurableTask)
    def task() -> None: ...

    with pytest.raises(StepsError, match="namespace"):
        task.apply_async(namespace=namespace)


def test_the_namespace_of_a_call_travels_with_its_message(redis_server: RedisServer) -> None:
    app = make_app(redis_server)

    @app.task(base=DurableTask, name="t")
    def task() -> int:
        return step.run("k", lambda: 1)

    deliver(task, id="id-1", steps_namespace="order-9", headers={"steps_namespace": "order-9"})
    assert namespace_fields(app, "order-9")["t/id-1/0:status"] == "succeeded"
    assert runtime.of(app).store.namespace_of("id-1") == "order-9"


# -- through the tracer -------------------------------------------------------------------------------------------------


def test_a_delivered_run_is_settled_and_its_duplicate_does_nothing(redis_server: RedisServer) -> None:
    app = make_app(redis_server)
    calls: list[int] = []

    @app.task(bind=True, base=DurableTask, name="t")
    def task(self: DurableTask, number: int) -> int:
        return self.step.run("k", number, lambda n: calls.append(n) or n * 2)

    assert deliver(task, 4, id="id-1").retval == 8
    assert app.AsyncResult("id-1").get(timeout=5) == 8
    for redelivered in (False, True):
        again = deliver(task, 4, id="id-1", redelivered=redelivered)
        assert isinstance(again.info.retval, Ignore)
    assert calls == [4]
    assert app.AsyncResult("id-1").state == "SUCCESS"


def test_a_redelivery_after_success_before_settling_returns_the_recorded_result(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(redis_server, steps_lease_ttl=0.05)
    calls: list[int] = []

    @app.task(bind=True, base=DurableTask, name="t")
    def task(self: DurableTask) -> int:
        return self.step.run("k", lambda: calls.append(1) or 5)

    def cannot_store(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt  # the process ends before Celery has stored the result

    with monkeypatch.context() as context:
        context.setattr(app.backend, "mark_as_done", cannot_store)
        with pytest.raises(KeyboardInterrupt):
            deliver(task, id="id-1")
    assert app.AsyncResult("id-1").state == "PENDING"
    threading.Event().wait(0.1)  # the settling lease runs out
    assert deliver(task, id="id-1", redelivered=True).retval == 5
    assert calls == [1]
    assert app.AsyncResult("id-1").get(timeout=5) == 5
    assert namespace_fields(app, "id-1")["t/id-1/0:status"] == "succeeded"


def test_a_task_without_steps_leaves_no_trace(redis_server: RedisServer) -> None:
    app = make_app(redis_server)

    @app.task(base=DurableTask)
    def plain(number: int) -> int:
        return number

    assert deliver(plain, 3).retval == 3
    assert deliver(plain, 3, redelivered=True).retval == 3
    assert runtime.of(app).store.client.call("DBSIZE") == 0


def test_async_handlers_keep_the_run_of_their_task(redis_server: RedisServer) -> None:
    app = make_app(redis_server)

    async def fetch(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> int:
        return self.step.run("k", 3, fetch)

    assert deliver(task).retval == 3


def test_bodies_may_mutate_their_arguments(redis_server: RedisServer) -> None:
    app = make_app(redis_server, steps_lease_ttl=5)

    @app.task(bind=True, base=DurableTask, name="t", max_retries=5)
    def task(self: DurableTask, items: list[int]) -> int:
        items.append(99)
        total = self.step.run("sum", [1], sum)
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return total + len(items)

    deliver(task, [1], id="id-1")
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("celery")
        message = queue.get(timeout=5)
        message.ack()
    (items,), _, _ = message.payload
    assert items == [1]
    assert message.headers["retries"] == 1

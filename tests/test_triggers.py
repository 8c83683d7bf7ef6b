"""Tasks that start on an event: who is started, how often, and what is said where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from celery_steps import DurableTask, ResultError, Runs, StepsError
from celery_steps.engine.event import Emission
from celery_steps.store.triggers import Subscriber, Triggers
from celery_steps.worker import events, runtime, triggers
from celery_steps.worker.sweeper import Sweeper
from delivering import app_of_its_own, close, deliver, make_app, published
from servers import RedisServer


@pytest.fixture
def shop(redis_server: RedisServer) -> Iterator[Celery]:
    """The app whose worker knows the tasks."""
    app = make_app(redis_server)
    yield app
    close(app)


@pytest.fixture
def web(shop: Celery) -> Iterator[Celery]:
    """Another app over the same broker and store, which has no tasks of the shop."""
    app = app_of_its_own("web", broker=shop.conf.broker_url, backend=shop.conf.result_backend)
    app.conf.steps_backend = shop.conf.steps_backend
    yield app
    close(app)


def tasks_of(app: Celery, **options: Any) -> Any:
    @app.task(bind=True, base=DurableTask, name="ship", triggers=("order.created",), **options)
    def ship(self: DurableTask, order: dict[str, int]) -> int:
        return self.step.run("ship", lambda: order["id"])

    return ship


def created(by: Celery, data: Any = None, id: str = "event-1", **options: Any) -> int:
    return events.emit(by, Emission("order.created", data or {"id": 7}, id, **options))


def started(app: Celery, queue: str = "celery") -> list[tuple[str, str, Any]]:
    """Task, id and arguments of what waits in the broker."""
    return [(message.headers["task"], message.headers["id"], message.payload[0]) for message in published(app, queue)]


def test_a_broadcast_starts_the_task_with_the_data(shop: Celery, web: Celery) -> None:
    tasks_of(shop)
    triggers.renew(shop)
    assert created(web) == 1
    ((task, id, args),) = started(shop)
    assert (task, args) == ("ship", [{"id": 7}])
    assert id == triggers.triggered_id("event-1", Subscriber(shop.main, "ship", {}))


def test_an_event_to_a_namespace_starts_nothing(shop: Celery, web: Celery) -> None:
    tasks_of(shop)
    triggers.renew(shop)
    assert created(web, to="order-7") == 0
    assert started(shop) == []


def test_an_event_that_is_sent_twice_starts_one_run(shop: Celery) -> None:
    calls: list[int] = []

    @shop.task(bind=True, base=DurableTask, name="ship", triggers=("order.created",))
    def ship(self: DurableTask, order: dict[str, int]) -> None:
        calls.append(order["id"])
        self.step.run("ship", lambda: None)

    triggers.renew(shop)
    assert [created(shop), created(shop)] == [1, 1]
    messages = published(shop)
    assert len({message.headers["id"] for message in messages}) == 1
    for message in messages:
        deliver(ship, *message.payload[0], id=message.headers["id"], headers=message.headers)
    assert calls == [7]  # the second delivery does not even begin the body


def test_two_events_start_two_runs(shop: Celery) -> None:
    tasks_of(shop)
    triggers.renew(shop)
    created(shop, id="event-1")
    created(shop, id="event-2")
    assert len({id for _, id, _ in started(shop)}) == 2


def test_a_step_that_emits_starts_tasks_once(shop: Celery) -> None:
    tasks_of(shop)
    triggers.renew(shop)

    @shop.task(bind=True, base=DurableTask, name="sell", max_retries=3)
    def sell(self: DurableTask) -> int:
        reached = self.step.emit("tell", "order.created", {"id": 8})
        if not self.request.retries:
            raise self.retry(countdown=0)
        return reached

    deliver(sell, id="id-1")
    assert deliver(sell, id="id-1", retries=1).retval == 1
    assert [(task, args) for task, _, args in started(shop) if task != "sell"] == [("ship", [{"id": 8}])]


def test_app_limits_an_event_to_the_tasks_of_one_app(shop: Celery, web: Celery) -> None:
    tasks_of(shop)
    tasks_of(web)
    triggers.renew(shop)
    triggers.renew(web)
    assert created(web) == 2
    assert len({id for _, id, _ in started(shop)}) == 2  # the same task of two apps: a run each
    assert created(web, app=shop.main) == 1
    assert created(web, app="elsewhere") == 0


def test_the_task_is_sent_where_its_own_app_would_send_it(shop: Celery, web: Celery) -> None:
    shop.conf.task_queues = [Queue("celery"), Queue("parcels", Exchange("depot", type="topic"), routing_key="depot.#")]
    shop.conf.task_routes = {"ship": {"queue": "parcels", "priority": 3}}
    tasks_of(shop)
    triggers.renew(shop)
    created(web)
    assert [task for task, _, _ in started(shop, "parcels")] == ["ship"]
    assert Triggers(runtime.of(web).store).of("order.created")[0].options["priority"] == 3


def test_data_that_celery_cannot_encode_is_named_and_nothing_is_sent(shop: Celery, web: Celery) -> None:
    @shop.task(base=DurableTask, name="audit", triggers=["order.created"], serializer="pickle")
    def audit(order: Any) -> None: ...

    tasks_of(shop)
    triggers.renew(shop)
    with pytest.raises(ResultError, match=r"'order\.created' starts the task ship.*'json'.*cannot encode it") as caught:
        created(web, {frozenset({1}): 1})
    assert str(caught.value).endswith("Nothing was sent.")
    assert started(shop) == []


def test_data_that_celery_can_encode_arrives_as_it_was(shop: Celery) -> None:
    ship = tasks_of(shop)
    triggers.renew(shop)
    created(shop, {"id": 7, "price": Decimal("1.10")})
    (message,) = published(shop)
    assert message.decode()[0] == [{"id": 7, "price": Decimal("1.10")}]
    assert deliver(ship, *message.decode()[0], id="id-1").retval == 7


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("order.created", r"must be a tuple of events' names, as in triggers=\(\"order\.created\",\), not 'order\.created'"),
        (None, "must be a tuple of events' names"),
        ({"order.created"}, "must be a tuple of events' names"),
        (("order.created", 7), "name must be text that is not blank, not 7"),
        ((" ",), "name must be text that is not blank, not ' '"),
    ],
)
def test_triggers_of_a_wrong_kind_are_refused_where_the_task_is_made(value: Any, says: str) -> None:
    with pytest.raises(StepsError, match=rf"triggers of the task ship.*{says}"):
        type("ship", (DurableTask,), {"triggers": value})


def test_runs_emit_starts_tasks_too(shop: Celery, web: Celery) -> None:
    tasks_of(shop)
    triggers.renew(shop)
    assert [Runs(web).emit("order.created", {"id": 7}, id=id) for id in ("a", "a", "b")] == [1, 1, 1]
    assert len({id for _, id, _ in started(shop)}) == 2


def test_a_worker_says_it_when_it_starts_and_once_a_minute(shop: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [1000.0], []
    monkeypatch.setattr("celery_steps.worker.sweeper.time.monotonic", lambda: now[0])
    monkeypatch.setattr(triggers, "renew", said.append)
    sweeper = Sweeper(SimpleNamespace(app=shop))
    for seconds in (0, 30, 59, 61, 119, 122):
        now[0] = 1000.0 + seconds
        sweeper._keep_up()
        said.append(seconds)
    assert said == [shop, 0, 30, 59, shop, 61, 119, shop, 122]

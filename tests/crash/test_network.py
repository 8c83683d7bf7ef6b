"""A proxy between a run and its Redis loses, delays, cuts and repeats what passes: each at every exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from celery_steps import DurableTask
from celery_steps.engine.entries import read_step
from celery_steps.settings import Settings
from celery_steps.store.keys import RunId
from celery_steps.store.replies import Entry
from celery_steps.store.store import Store
from celery_steps.worker import runtime
from crash.proxy import Fault, Proxy
from delivering import app_of_its_own, deliver
from servers import RedisServer, assert_no_leaks, wait_until

LEASE = 0.4
#: More than any run here has exchanges with the store.
MANY = 14


class Declined(Exception):
    """Caught by the body."""


class Shop:
    """A durable task whose store is behind a proxy, and what it has done outside."""

    def __init__(self, server: RedisServer, database: int) -> None:
        for n in range(database, database + 3):
            server.flushdb(n)
        self.proxy = Proxy(server.port)
        self.app: Celery = app_of_its_own("shop", broker=server.url(database), backend=server.url(database + 1))
        self.app.conf.update(
            steps_backend=f"redis://127.0.0.1:{self.proxy.port}/{database + 2}",
            steps_redis_options={"socket_timeout": 0.15},
            steps_lease_ttl=LEASE,
            steps_max_crashes=100,
        )
        self.begin()
        self.task = self._task()
        parts = runtime.of(self.app)
        # Scripts are loaded once in the life of a process: what is disturbed here comes after.
        for script in (
            "claim",
            "commit",
            "finish",
            "settle",
            "retry",
            "borrow",
            "giveback",
            "renew",
            "release",
            "suspend",
            "sweep",
        ):
            parts.store.client.script(script)
        self.store = Store(Settings(backend=server.url(database + 2), lease_ttl=LEASE))
        self.client = server.client(database + 2)

    def close(self) -> None:
        runtime.of(self.app).store.client.close()
        self.proxy.close()
        self.store.client.close()
        self.client.close()
        self.app.close()

    def begin(self) -> str:
        """A new run's id."""
        self.id = str(uuid4())
        self.effects: list[str] = []
        self.again: list[str] = []  # although their step was recorded
        self.at: dict[str, Callable[[], None]] = {}  # what happens in a handler
        return self.id

    def _effect(self, what: str) -> str:
        self.effects.append(what)
        if what in [read_step(entry).key for entry in self.steps(self.id)]:
            self.again.append(what)
        self.at.pop(what, lambda: None)()
        return what

    def _decline(self) -> None:
        self._effect("pay")
        raise Declined("no money")

    def _task(self) -> Any:
        shop = self

        @self.app.task(bind=True, base=DurableTask, max_retries=3)
        def order(self: DurableTask) -> list[str]:
            done = [self.step.run("load", lambda: shop._effect("load"))]
            try:
                self.step.run("pay", shop._decline)
            except Declined:
                done.append(self.step.run("note", lambda: shop._effect("note"), namespace=f"pool-{self.request.id}"))
            if not self.request.retries:
                raise self.retry(countdown=0)
            return [*done, self.step.run("ship", lambda: shop._effect("ship"))]

        return order

    def deliver(self, id: str, again: bool = False) -> None:
        """As a worker would: a retry is the next delivery of the same id."""
        retries = int(self.store.fields(id).get(f"{RunId(self.task.name, id)}:retries", "0"))
        deliver(self.task, id=id, retries=retries, redelivered=again or bool(retries))

    def run_to_its_end(self, id: str) -> None:
        def is_settled() -> bool:
            self.deliver(id, again=True)
            return self.status(id) == "succeeded"

        self.deliver(id)
        if self.status(id) != "succeeded":
            wait_until(is_settled, message="the run ends")

    def status(self, id: str) -> str:
        return self.store.fields(id).get(f"{RunId(self.task.name, id)}:status", "")

    def steps(self, id: str) -> list[Entry]:
        return [entry for name in (id, f"pool-{id}") for entry in self.store.entries(name) if entry.kind == "step"]

    def assert_all_is_well(self, id: str) -> None:
        assert self.app.AsyncResult(id).get(timeout=1) == ["load", "note", "ship"]
        assert sorted(read_step(entry).key for entry in self.steps(id)) == ["load", "note", "pay", "ship"]
        assert_no_leaks(self.client)


@pytest.fixture(scope="module")
def shop(redis_server: RedisServer) -> Iterator[Shop]:
    shop = Shop(redis_server, 56)
    yield shop
    shop.close()


@pytest.mark.parametrize("n", range(1, MANY))
@pytest.mark.parametrize("fault", [Fault.REQUEST_LOST, Fault.REPLY_LOST, Fault.REPLY_LATE, Fault.REQUEST_REPEATED_LATE])
def test_an_exchange_that_goes_wrong_changes_nothing(shop: Shop, fault: Fault, n: int) -> None:
    id = shop.begin()
    shop.proxy.plan(fault, n)
    shop.run_to_its_end(id)
    if not shop.proxy.heal():
        assert n > 8
    assert shop.effects == ["load", "pay", "note", "ship"]
    shop.assert_all_is_well(id)


@pytest.mark.parametrize("n", range(1, MANY))
@pytest.mark.parametrize("moment", ["pay", "ship", "the end"])
def test_a_request_that_arrives_after_its_sender_was_replaced_changes_nothing(shop: Shop, n: int, moment: str) -> None:
    """The sender is cut off. Another attempt carries on, and is in a handler or done when the request arrives."""
    id = shop.begin()
    shop.proxy.plan(Fault.CUT_OFF, n)
    shop.deliver(id)
    happened = shop.proxy.heal()
    assert happened or n > 8
    shop.at[moment] = shop.proxy.release
    shop.run_to_its_end(id)
    shop.proxy.release()
    assert shop.again == []
    shop.assert_all_is_well(id)


def test_a_client_connects_again_however_often_its_connection_was_lost(shop: Shop) -> None:
    client = runtime.of(shop.app).store.client
    for _ in range(150):
        shop.proxy.plan(Fault.REPLY_LOST, 1)
        assert client.call("PING") == b"PONG"

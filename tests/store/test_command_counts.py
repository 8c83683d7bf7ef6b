"""What a step costs in commands and round trips, counted exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from celery_steps import step
from celery_steps.codec import PLAIN, Codec
from celery_steps.engine.attempt import Attempt, current
from celery_steps.errors import Suspended
from celery_steps.settings import Settings
from celery_steps.store.client import Client
from celery_steps.store.keys import RunId
from celery_steps.store.store import Store
from servers import RedisServer


class CountingClient(Client):
    """Notes the commands of every round trip."""

    trips: list[list[str]]

    def _once(self, commands: Sequence[Any]) -> list[Any]:
        shas = {script.sha: script.name for script in self.scripts.values()}
        self.trips.append([shas.get(str(c[1]), str(c[1])) if c[0] == "EVALSHA" else str(c[0]) for c in commands])
        return super()._once(commands)

    def taken(self) -> list[list[str]]:
        trips, self.trips = self.trips, []
        return trips


@pytest.fixture
def store(redis_server: RedisServer) -> Store:
    redis_server.flushdb(2)
    client = CountingClient(redis_server.url(2))
    client.trips = []
    store = Store(Settings(backend=redis_server.url(2)), client)
    for name in ("claim", "commit", "finish", "settle", "release", "tell"):
        client.script(name)
    client.taken()
    return store


@pytest.fixture(autouse=True)
def _no_run_is_left_behind() -> Iterator[None]:
    yield
    current.set(None)


def attempt(store: Store, namespace: str = "id-1") -> Attempt:
    run = RunId("shop.fulfil", "id-1")
    made = Attempt(
        store=store.bind(namespace, run, "token", "shop"),
        run=str(run),
        run_id="id-1",
        task="shop.fulfil",
        token="token",
        codec=Codec(),
    )
    current.set(made)
    return made


def taken(store: Store) -> list[list[str]]:
    assert isinstance(store.client, CountingClient)
    return store.client.taken()


def test_claim_and_journal_are_one_round_trip_and_a_fresh_step_is_one_command(store: Store) -> None:
    first = attempt(store)
    step.run("a", 1, lambda value: value)
    assert taken(store) == [["GET", "claim", "XRANGE"], ["commit"]]
    step.run("b", 2, lambda value: value)
    assert taken(store) == [["commit"]]
    first.store.release(0)


def test_a_line_is_one_command_and_a_replayed_one_is_none(store: Store) -> None:
    first = attempt(store)
    step.log.info("begun")
    step.run("a", lambda: 1)
    step.progress(1)
    step.progress(2)
    step.log.info("loaded")
    assert taken(store) == [["GET", "claim", "XRANGE"], ["tell"], ["commit"], ["tell"], ["tell"]]
    first.store.release(0)
    taken(store)

    attempt(store)
    step.log.info("begun")
    step.run("a", lambda: 1)
    step.progress(1)
    step.progress(2)
    step.log.info("loaded")
    assert (step.run_id, step.namespace, step.attempt, step.resumed, step.replaying) == ("id-1", "id-1", 2, True, False)
    assert taken(store) == [["GET", "claim", "XRANGE"]]


def test_a_replayed_step_costs_no_command(store: Store) -> None:
    first = attempt(store)
    for number in range(100):
        step.run("k", number, lambda value: value)
    first.store.release(0)
    taken(store)

    attempt(store)
    for number in range(100):
        step.run("k", number, lambda value: value)
    assert taken(store) == [["GET", "claim", "XRANGE"]]


def test_finish_and_settle_are_one_command_each(store: Store) -> None:
    one = attempt(store)
    step.run("a", lambda: 1)
    taken(store)
    one.finish("succeeded", b"")
    assert taken(store) == [["finish"]]
    one.settle("succeeded")
    assert taken(store) == [["settle"]]


def test_a_failure_is_finished_and_settled_in_one_round_trip(store: Store) -> None:
    one = attempt(store)
    step.run("a", lambda: 1)
    taken(store)
    one.finish("failed", b"", stored="failed")
    assert taken(store) == [["finish", "settle"]]


def test_a_namespace_that_is_not_the_task_id_is_indexed_in_the_same_round_trip(store: Store) -> None:
    attempt(store, "order-42")
    step.run("a", lambda: 1)
    assert taken(store) == [["GET", "SET", "claim", "XRANGE"], ["commit"]]


def test_a_wait_that_leaves_is_two_commands_and_so_is_one_that_gets_its_event(store: Store) -> None:
    for name in ("suspend", "receive", "deliver"):
        store.client.script(name)
    taken(store)
    attempt(store)
    with pytest.raises(Suspended):
        step.wait_for_event("paid")
    assert taken(store) == [["GET", "claim", "XRANGE"], ["XRANGE"], ["suspend"]]

    assert store.deliver("id-1", "paid", "event-1", Codec().encode({"amount": 1}, hint=PLAIN, where="data", key="paid"))
    assert taken(store) == [["deliver"]]

    again = attempt(store)
    assert step.wait_for_event("paid") == {"amount": 1}
    assert taken(store) == [["GET", "claim", "XRANGE"], ["XRANGE"], ["receive"]]
    again.store.release(0)
    taken(store)

    attempt(store)
    assert step.wait_for_event("paid") == {"amount": 1}
    assert taken(store) == [["GET", "claim", "XRANGE"]], "over, it costs nothing"


def test_a_task_without_a_step_sends_nothing(store: Store) -> None:
    attempt(store)
    assert taken(store) == []

"""The one way to append: what an attempt does when the journal is not as it left it, or nobody answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from celery_steps import step
from celery_steps.codec import Codec
from celery_steps.engine.attempt import Attempt, current
from celery_steps.engine.entries import pack_control, read_step
from celery_steps.errors import JournalLost, LeaseLost, RunCancelled, StoreLost, Suspended
from celery_steps.settings import Settings
from celery_steps.store.client import Client
from celery_steps.store.keys import RunId
from celery_steps.store.store import Store
from servers import RedisServer, wait_until

RUN = RunId("shop.fulfil", "id-1")


class SoftTimeLimit(Exception):
    """What a signal handler raises wherever the process happens to be."""


class TroubledClient(Client):
    """Does `trouble` once, before a script is sent or after its reply was read."""

    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def _once(self, commands: Sequence[Any]) -> list[Any]:
        act, self.before = self.before, None
        if act is not None:
            act()
        replies = super()._once(commands)
        act, self.after = self.after, None
        if act is not None:
            act()
        return replies


@pytest.fixture
def store(redis_server: RedisServer) -> Store:
    redis_server.flushdb(4)
    return Store(Settings(backend=redis_server.url(4), lease_ttl=0.2), TroubledClient(redis_server.url(4), patience=0.5))


@pytest.fixture(autouse=True)
def _no_run_is_left_behind() -> Iterator[None]:
    yield
    current.set(None)


def attempt(store: Store, token: str = "me") -> Attempt:
    made = Attempt(
        store=store.bind("order-42", RUN, token, "shop"), run=str(RUN), run_id="id-1", task=RUN.task, token=token, codec=Codec()
    )
    current.set(made)
    return made


def recorded(store: Store) -> list[tuple[str, int]]:
    return [(s.key, s.sequence) for s in (read_step(e) for e in store.entries("order-42") if e.kind == "step")]


def cancel(store: Store) -> None:
    store.control("order-42", RUN, what="cancel", nonce="cancel", entry=pack_control(str(RUN)))


def test_an_effect_that_races_with_a_cancel_is_recorded_and_then_the_run_is_cancelled(store: Store) -> None:
    attempt(store)
    assert step.run("charge", lambda: cancel(store) or "charged") == "charged"
    with pytest.raises(RunCancelled):
        step.run("ship", pytest.fail)
    with pytest.raises(RunCancelled):  # a body that swallows it gets it again
        step.run("ship", pytest.fail)
    assert recorded(store) == [("charge", 1)]


def test_a_lost_reply_followed_by_a_control_entry_records_once(store: Store) -> None:
    attempt(store)
    step.run("one", lambda: 1)

    def reply_is_lost() -> None:
        cancel(store)
        raise ConnectionError("the reply is lost")

    def handler() -> int:
        store.client.after = reply_is_lost
        return 2

    assert step.run("two", handler) == 2
    assert recorded(store) == [("one", 1), ("two", 1)]


def test_a_lost_request_is_sent_again(store: Store) -> None:
    attempt(store)

    def cut() -> None:
        raise ConnectionError("cut")

    def handler() -> int:
        store.client.before = cut
        return 1

    assert step.run("one", handler) == 1
    assert recorded(store) == [("one", 1)]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_in_the_middle_of_an_exchange_goes_on_once_the_record_is_written(store: Store, when: str) -> None:
    attempt(store)

    def signal() -> None:
        raise SoftTimeLimit

    with pytest.raises(SoftTimeLimit):
        step.run("one", lambda: setattr(store.client, when, signal))
    assert recorded(store) == [("one", 1)]
    assert step.run("two", lambda: 2) == 2


def test_a_replaced_owner_records_nothing_and_is_told(store: Store) -> None:
    stale = attempt(store)
    step.run("one", lambda: 1)

    def slow() -> str:
        def heir_claims() -> bool:
            claim, _ = store.bind("order-42", RUN, "heir", "shop").claim("n", b"\x91\x01", retries=0, message=b"")
            return claim.verdict == "OK"

        wait_until(heir_claims)
        return "late"

    with pytest.raises(LeaseLost):
        step.run("two", slow)
    with pytest.raises(LeaseLost):
        step.run("three", pytest.fail)
    with pytest.raises(LeaseLost):
        stale.finish("succeeded", b"")
    assert recorded(store) == [("one", 1)]


def test_an_owner_that_was_silent_for_half_a_lease_asks_before_its_next_handler(store: Store) -> None:
    made = attempt(store)
    step.run("one", lambda: 1)
    store.client.call("HSET", store.keys.namespace("order-42").run, "owner", "heir")
    made.heard -= made.lease
    with pytest.raises(LeaseLost):
        step.run("two", pytest.fail)


def test_what_the_heartbeat_saw_is_asked_about_before_the_next_handler(store: Store) -> None:
    made = attempt(store)
    step.run("one", lambda: 1)
    cancel(store)
    made.saw(made.store.renew())
    with pytest.raises(RunCancelled):
        step.run("two", pytest.fail)


def test_a_journal_that_is_gone_is_noticed_and_the_run_ends_as_lost(store: Store) -> None:
    attempt(store)
    step.run("one", lambda: 1)
    store.client.call("DEL", store.keys.namespace("order-42").journal)
    with pytest.raises(JournalLost, match="'order-42' is gone or was rolled back"):
        step.run("two", lambda: 2)
    with pytest.raises(JournalLost):
        step.run("three", pytest.fail)
    assert store.fields("order-42")[f"{RUN}:outcome"] == "lost"


def test_a_journal_that_was_rolled_back_is_noticed(store: Store) -> None:
    made = attempt(store)
    step.run("one", lambda: 1)
    step.run("two", lambda: 2)
    *_, last = store.entries("order-42")
    keys = store.keys.namespace("order-42")
    store.client.call("XDEL", keys.journal, last.id)
    store.client.call("HSET", keys.run, "tip", "1-0 older")
    with pytest.raises(JournalLost):
        step.run("three", lambda: 3)
    assert made.lost


def test_redis_out_of_reach_ends_the_attempt_and_leaves_what_is_recorded(store: Store, redis_server: RedisServer) -> None:
    attempt(store)
    step.run("one", lambda: 1)

    def unreachable() -> None:
        store.client.before = unreachable
        raise ConnectionError("out of reach")

    def handler() -> int:
        store.client.before = unreachable
        return 2

    with pytest.raises(StoreLost, match="cannot be reached"):
        step.run("two", handler)
    with pytest.raises(StoreLost):
        step.run("three", pytest.fail)
    store.client.before = None
    assert recorded(store) == [("one", 1)]


def test_a_long_journal_is_read_in_pages(store: Store) -> None:
    first = attempt(store)
    for number in range(2100):
        step.run("k", number, lambda value: value)
    first.store.release(0)
    attempt(store, "second")
    assert [step.run("k", number, pytest.fail) for number in range(2100)] == list(range(2100))


def test_a_run_with_very_many_entries_is_warned_of(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_steps.engine.journal.MANY_ENTRIES", 5)
    first = attempt(store)
    for number in range(6):
        step.run("k", number, lambda value: value)
    first.store.release(0)
    attempt(store, "second")
    step.run("k", 0, pytest.fail)
    assert "'order-42' has 8 entries" in caplog.text


@pytest.mark.parametrize("namespace", ["order-42", "elsewhere"])
@pytest.mark.parametrize("asked", [False, True])
def test_out_of_memory_an_effect_is_recorded_whoever_moved_the_fence_on(
    start_redis: Callable[..., RedisServer], namespace: str, asked: bool
) -> None:
    server = start_redis()
    store = Store(Settings(backend=server.url(), lease_ttl=5), Client(server.url()))
    store.client._flags = False  # as with Redis 6.2, which reads none
    other = RunId("shop.other", "id-2")
    if namespace == "elsewhere":
        suspended = Attempt(
            store=store.bind(namespace, other, "other", "shop"), run=str(other), run_id="id-2", task=other.task, token="other",
            codec=Codec(),
        )  # fmt: skip
        current.set(suspended)
        with pytest.raises(Suspended):
            step.sleep("a while", "1h")
    attempt(store)
    step.run("first", lambda: 1)

    def charge() -> str:
        if asked:
            run = RUN if namespace == "order-42" else other
            store.control(namespace, run, what="pause", nonce="pause", entry=pack_control(str(run)))
        with server.client() as client:
            client.config_set("maxmemory", 1)
        return "charged"

    elsewhere = {} if namespace == "order-42" else {"namespace": namespace}
    assert step.run("charge", charge, **elsewhere) == "charged"
    assert "charge" in [read_step(entry).key for entry in store.entries(namespace) if entry.kind == "step"]
    store.client.close()

"""The inbox of a namespace, who waits there, and the index of those who wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_steps.store.keys import RunId
from celery_steps.store.replies import Append, Await
from celery_steps.store.store import Store
from celery_steps.testing.store_contract.owner import APP, Owner

#: Longer than any test.
LONG = 3_600_000
HOSTILE = ["two words", "pipe|in it", "a:colon", "50%|20", "{0}", "ключ 🔑", "%20", "line\nfeed", "*", "e/1/0", "\udcff"]


def wait(owner: Owner, event: str = "paid", name: str = "k#1", match: bytes = b"", seen: str = "0", delay: int = LONG) -> Append:
    before, after, id = owner.next()
    awaits = [Await(event, name, match)]
    return owner.wrote(owner.binding.suspend(before, after, [(id, "suspend", b"")], delay=delay, awaits=awaits, seen=seen))


def waiting(store: Store, namespace: str = "order-42", event: str = "paid", id: str = "id-1", **options: Any) -> Owner:
    """A run that waits."""
    owner = Owner(store, namespace, id)
    assert owner.claim().verdict == "OK"
    assert wait(owner, event, **options) is Append.OK
    return owner


def take(owner: Owner, *ids: str, ended: tuple[str, ...] = ("k#1",)) -> Append:
    before, after, id = owner.next()
    over = [Await("refunded" if name == "k#2" else "paid", name, b"") for name in ended]
    return owner.wrote(owner.binding.receive(before, after, [(id, "step", b"")], ended=over, taken=ids))


def send(store: Store, id: str = "event-1", event: str = "paid", namespace: str = "order-42", **to: Any) -> Any:
    return store.deliver(namespace, event, id, b"data", **to)


def waiters(store: Store, event: str = "paid") -> list[tuple[str, str, str]]:
    return [(waiter.namespace, waiter.run.id, waiter.wait) for page in store.waiting(event) for waiter in page]


def members(store: Store, event: str = "paid") -> int:
    return sum(store.client.call("ZCARD", store.keys.waiting(p, event)) for p in range(store.keys.partitions))


def inbox(store: Store, namespace: str = "order-42") -> list[str]:
    return [event.event_id for event in Owner(store, namespace).binding.inbox("")]


def lives(store: Store, namespace: str = "order-42") -> dict[str, int]:
    """Time to live of every key that there is, in ms; -1: for ever."""
    found = {key: store.client.call("PTTL", key) for key in store.keys.namespace(namespace).all}
    return {key.rsplit(":", 1)[0].rpartition(":")[2]: ttl for key, ttl in found.items() if ttl != -2}


def close(*owners: Owner) -> None:
    """End what a test has left open."""
    for owner in owners:
        owner.claim(retries=0)
        if owner.fence:
            owner.finish_and_settle()


# -- who gets it ---------------------------------------------------------------------------------------------------------


def test_an_event_that_comes_first_is_kept_for_the_run_that_waits_later(make_store: Callable[..., Store]) -> None:
    store = make_store(retention=100)
    delivered = send(store)
    assert (delivered.reached, delivered.due) == (0, [])
    kept = lives(store)
    assert set(kept) == {"inbox", "heard"}
    assert all(50_000 < ttl <= 100_000 for ttl in kept.values())

    owner = Owner(store)
    owner.claim()
    assert set(lives(store).values()) == {-1}, "a claim keeps them alive"
    (event,) = owner.binding.inbox("0")
    assert (event.name, event.data, event.to, event.event_id) == ("paid", b"data", "", "event-1")
    assert wait(owner, seen="0") is Append.NEWS
    assert take(owner, event.id) is Append.OK
    assert take(owner) is Append.OK
    assert inbox(store) == []
    owner.finish_and_settle()
    assert {"inbox", "heard"} <= set(lives(store))
    assert all(0 < ttl <= 100_000 for ttl in lives(store).values())


def test_an_event_for_a_namespace_whose_runs_are_all_finished_is_refused(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    assert send(store, "while it runs").reached == 0
    owner.finish_and_settle()
    assert send(store, "too late") is None
    assert send(store, "while it runs").reached == 0, "sent again"
    assert inbox(store) == ["while it runs"]

    second = Owner(store, id="id-2")
    second.claim()
    assert send(store, "too late") is not None, "refused once is not known"
    second.finish_and_settle()


def test_an_event_counts_once_however_often_it_is_sent(store: Store) -> None:
    owner = waiting(store)
    first = send(store)
    assert (first.reached, first.due) == (1, [owner.run])
    again = send(store)
    assert (again.reached, again.due) == (1, [])
    assert inbox(store) == ["event-1"]

    heir = Owner(store)
    heir.claim()
    take(heir, heir.binding.inbox("0")[0].id)
    assert send(store).reached == 1, "taken, it is still known"
    assert inbox(store) == []
    heir.finish_and_settle()


def test_the_first_that_looks_takes_it_and_the_other_waits_on(store: Store) -> None:
    waiting(store, id="id-1")
    waiting(store, id="id-2")
    delivered = send(store)
    assert delivered.reached == 2
    assert {run.id for run in delivered.due} == {"id-1", "id-2"}

    second = Owner(store, id="id-2")
    second.claim()
    take(second, second.binding.inbox("0")[0].id)
    second.finish_and_settle()
    first = Owner(store, id="id-1")
    first.claim()
    assert first.binding.inbox("0") == []
    assert wait(first) is Append.OK
    assert waiters(store) == [("order-42", "id-1", "k#1")]
    send(store, "event-2")
    close(first)


def test_an_event_of_another_name_wakes_nobody(store: Store) -> None:
    owner = waiting(store)
    assert send(store, event="refunded").due == []
    assert send(store, "event-2", event="pai").due == []
    assert not store.take(APP, "order-42", owner.run)
    send(store, "event-3")
    close(owner)


def test_a_run_that_does_not_wait_is_not_published(store: Store) -> None:
    waiting(store, id="id-1")
    runs = Owner(store, id="id-2")
    runs.claim()
    assert [run.id for run in send(store).due] == ["id-1"]
    woken = Owner(store, id="id-1")
    assert woken.claim().verdict == "HELD"
    assert send(store, "event-2").due == [], "it is held: its turn comes"
    runs.finish_and_settle()
    close(woken)


def test_what_is_due_is_published_by_one(store: Store) -> None:
    owner = waiting(store)
    (run,) = send(store).due
    assert run == owner.run
    assert store.take(APP, "order-42", run)
    assert not store.take(APP, "order-42", run)
    assert store.sweep(APP).runs == []
    close(owner)


# -- leaving -------------------------------------------------------------------------------------------------------------


def test_a_run_does_not_leave_while_something_has_come(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    send(store)
    before = store.fields("order-42")
    assert wait(owner, seen="0") is Append.NEWS
    assert store.fields("order-42") == before
    assert waiters(store) == []
    (event,) = owner.binding.inbox("0")
    assert wait(owner, seen=event.id) is Append.OK, "it has read that one"
    assert send(store, "event-2").due == [owner.run]
    close(owner)


def test_a_wait_that_was_sent_again_is_registered_once(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    before, after, id = owner.next()
    for _ in range(2):
        entries = [(id, "suspend", b"")]
        awaits = [Await("paid", "k#1", b"")]
        assert owner.binding.suspend(before, after, entries, delay=LONG, awaits=awaits, seen="0") is Append.OK
    assert members(store) == 1
    send(store)
    close(owner)


def test_a_stale_owner_takes_nothing(make_store: Callable[..., Store]) -> None:
    store = make_store(lease_ttl=30)
    stale = Owner(store)
    stale.claim()
    send(store)
    (event,) = stale.binding.inbox("0")
    stale.binding.release(0)
    heir = Owner(store)
    heir.claim()
    assert take(stale, event.id) is Append.STALE
    assert inbox(store) == ["event-1"]
    assert take(heir, event.id) is Append.OK
    heir.finish_and_settle()


# -- broadcasts ----------------------------------------------------------------------------------------------------------


def test_a_broadcast_reaches_a_wait_that_is_registered_and_no_other(store: Store) -> None:
    owner, neighbour = waiting(store, "order-1"), waiting(store, "order-2")
    assert send(store, namespace="order-1", run=owner.run, wait="k#11") is None
    assert send(store, namespace="order-1", run=RunId("shop.fulfil", "id-2"), wait="k#1") is None
    assert send(store, namespace="order-3", run=owner.run, wait="k#1") is None
    assert inbox(store, "order-1") == []

    delivered = send(store, namespace="order-1", run=owner.run, wait="k#1")
    assert (delivered.reached, delivered.due) == (1, [owner.run])
    assert not store.take(APP, "order-2", neighbour.run)
    heir = Owner(store, "order-1")
    heir.claim()
    (event,) = heir.binding.inbox("0")
    assert event.to == f"{owner.run} k#1"
    take(heir, event.id)
    assert send(store, "event-2", namespace="order-1", run=owner.run, wait="k#1") is None, "it is over"
    assert send(store, namespace="order-1", run=owner.run, wait="k#1").reached == 1, "sent again"
    assert inbox(store, "order-1") == []
    heir.finish_and_settle()
    send(store, namespace="order-2")
    close(neighbour)


def test_those_who_wait_are_listed_with_what_they_match(store: Store) -> None:
    owners = [waiting(store, f"order-{i}", match=b"\x00match %d" % i) for i in range(3)]
    waiting(store, "other", event="refunded")
    found = [waiter for page in store.waiting("paid") for waiter in page]
    assert {(waiter.namespace, waiter.run, waiter.wait, waiter.match) for waiter in found} == {
        (f"order-{i}", owners[i].run, "k#1", b"\x00match %d" % i) for i in range(3)
    }
    for i in range(3):
        send(store, namespace=f"order-{i}")
        close(owners[i])
    send(store, event="refunded", namespace="other")
    close(Owner(store, "other"))


def test_a_thousand_waits_are_listed_in_pages(make_store: Callable[..., Store]) -> None:
    store = make_store(partitions=1)
    runs = [RunId("shop.fulfil", f"id-{i}") for i in range(1001)]
    owner = Owner(store, id="id-0")
    keys = store.keys.namespace("order-42")
    added: list[str | bytes] = [part for run in runs for part in ("0", f"{keys.encoded} {run} k#1")]
    store.client.call("ZADD", store.keys.waiting(0, "paid"), *added)
    store.client.call("HSET", keys.run, *(part for run in runs for part in (f"{run}:match:k#1", b"match")))
    pages = list(store.waiting("paid"))
    assert [len(page) for page in pages] == [500, 500, 1]
    assert {waiter.run for page in pages for waiter in page} == set(runs)
    store.client.call("HDEL", keys.run, f"{runs[7]}:match:k#1")
    assert sum(map(len, store.waiting("paid"))) == 1000, "one has just ended"
    store.client.call("DEL", keys.run, store.keys.waiting(0, "paid"))
    assert owner.claim().verdict == "OK"
    owner.finish_and_settle()


# -- the end of a wait ---------------------------------------------------------------------------------------------------


def test_the_index_is_empty_after_a_wait_its_run_or_its_journal_has_ended(store: Store) -> None:
    for end in ("receive", "finish", "abandon"):
        owner = waiting(store, end)
        assert members(store) == 1
        send(store, namespace=end)
        heir = Owner(store, end)
        heir.claim()
        if end == "receive":
            take(heir)
        elif end == "finish":
            heir.finish()
        else:
            store.client.call("DEL", store.keys.namespace(end).journal)
            assert heir.binding.abandon()
        assert members(store) == 0, end
        assert not [field for field in store.fields(end) if ":await" in field or ":match:" in field], end
        if end == "receive":
            heir.finish()
        heir.binding.settle("succeeded")
        assert owner.run == heir.run


def test_one_wait_that_ends_leaves_the_others_of_its_run(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    before, after, id = owner.next()
    awaits = [Await("paid", "k#1", b"1"), Await("paid", "k#11", b"2"), Await("refunded", "k#2", b"3")]
    reply = owner.binding.suspend(before, after, [(id, "suspend", b"")], delay=0, awaits=awaits, seen="0")
    assert owner.wrote(reply) is Append.OK
    assert send(store).reached == 2
    assert send(store, "event-2").due == [owner.run], "for each event once"
    heir = Owner(store)
    heir.claim()
    take(heir, ended=("k#1",))
    assert waiters(store) == [("order-42", "id-1", "k#11")]
    assert waiters(store, "refunded") == [("order-42", "id-1", "k#2")]
    take(heir, ended=("k#2", "k#11"))
    assert members(store) == members(store, "refunded") == 0
    heir.finish_and_settle()


# -- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_names_may_contain_anything(store: Store, name: str) -> None:
    owner = waiting(store, f"order {name}", event=name, id=name, name="k#1")
    others = [waiting(store, f"order {name}{end}", event=name, id=name) for end in (" ", "!", "0", "|")]
    assert len(waiters(store, name)) == 5
    assert (f"order {name}", name, "k#1") in waiters(store, name)
    delivered = send(store, ascii(name), event=name, namespace=f"order {name}")
    assert (delivered.reached, delivered.due) == (1, [owner.run])
    heir = Owner(store, f"order {name}", name)
    heir.claim()
    (event,) = heir.binding.inbox("0")
    assert (event.name, event.event_id) == (name, ascii(name))
    take(heir, event.id)
    heir.finish_and_settle()
    for other in others:
        assert not store.take(APP, other.binding.namespace, other.run)
        send(store, event=name, namespace=other.binding.namespace)
        close(other)
    assert members(store, name) == 0

"""Which tasks start on which events, as the store keeps it."""

from __future__ import annotations

from celery_steps.store.store import Store
from celery_steps.store.triggers import Subscriber, Triggers


def starting(store: Store, event: str = "order.created") -> list[str]:
    return [found.task for found in Triggers(store).of(event)]


def test_a_task_that_starts_on_it_no_more_is_dropped_by_the_next_worker_that_knows_it(store: Store) -> None:
    Triggers(store).renew([Subscriber("shop", name, {}, ("order.created",)) for name in ("ship", "bill")])
    Triggers(store).renew([Subscriber("shop", "ship", {}, ("order.paid",))])
    assert starting(store) == ["bill"]
    assert starting(store, "order.paid") == ["ship"]
    Triggers(store).renew([Subscriber("shop", "bill", {}), Subscriber("shop", "ship", {}, ("order.paid",))])
    assert starting(store) == []
    assert store.client.call("SMEMBERS", store.keys.triggering) == [b"order.paid"]


def test_another_apps_task_of_the_same_name_is_left_alone(store: Store) -> None:
    Triggers(store).renew([Subscriber("web", "ship", {}, ("order.created",))])
    Triggers(store).renew([Subscriber("shop", "ship", {})])
    assert starting(store) == ["ship"]


def test_what_nobody_renews_for_the_retention_time_is_dead(store: Store) -> None:
    key = store.keys.triggers("order.created")
    Triggers(store).renew([Subscriber("shop", "ship", {}, ("order.created",))])
    time_said, _, rest = store.client.call("HGET", key, "shop ship").partition(b" ")
    long_ago = int(time_said) - int(store.retention_ms) - 1
    store.client.call("HSET", key, "shop ship", f"{long_ago} ".encode() + rest)
    Triggers(store).renew([Subscriber("shop", "bill", {}, ("order.created",))])
    assert starting(store) == ["bill"]
    assert 0 < store.client.call("PTTL", key) <= int(store.retention_ms)  # when nobody says anything, all of it goes


def test_odd_names_of_apps_tasks_and_events_come_back_as_they_are(store: Store) -> None:
    odd = Subscriber("my shop {1}", "a b:c/d", {"queue": "x y"}, ("order created: {ü} 50%",))
    Triggers(store).renew([odd])
    assert Triggers(store).of(odd.events[0]) == [odd]


def test_a_worker_without_such_tasks_leaves_no_trace(store: Store) -> None:
    Triggers(store).renew([Subscriber("shop", "ship", {})])
    assert store.client.call("KEYS", f"{store.settings.key_prefix}:*") == []

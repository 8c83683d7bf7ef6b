"""Sending events: to one namespace, to everyone who waits, and to the tasks that start on them."""

from __future__ import annotations

from celery import Celery

from celery_steps.engine.event import Emission, encode_data, event_data, matches
from celery_steps.errors import RunRefused
from celery_steps.worker import messages, runtime, triggers


def emit(app: Celery, emission: Emission) -> int:
    """Send an event. Sent again with the same id it changes nothing.

    Returns how many waits and tasks it reached. RunRefused: every run of that namespace is finished.
    """
    data = encode_data(runtime.of(app).codec, emission.event, emission.data, "the event's data")
    if emission.to is not None:
        return _to_namespace(app, emission, emission.to, data)
    return _to_everyone(app, emission, data)


def _to_namespace(app: Celery, emission: Emission, namespace: str, data: bytes) -> int:
    store = runtime.of(app).store
    delivered = store.deliver(namespace, emission.event, emission.id, data)
    if delivered is None:
        raise RunRefused(
            f"The event {emission.event!r} was refused: every run of namespace {namespace!r} is finished, so nobody would take "
            "it. Send it to another namespace, or start a run there first."
        )
    for run in delivered.due:
        messages.publish_soon(app, store, namespace, run)
    return min(1, delivered.reached)  # the first that waits takes it


def _to_everyone(app: Celery, emission: Emission, data: bytes) -> int:
    parts = runtime.of(app)
    reached = triggers.start(app, emission, event_data(parts.codec, emission.event, data))
    for page in parts.store.waiting(emission.event):
        for waiter in page:
            if not matches(event_data(parts.codec, emission.event, waiter.match), emission.data):
                continue
            id = f"{emission.id}/{waiter.run}/{waiter.wait}"
            delivered = parts.store.deliver(waiter.namespace, emission.event, id, data, run=waiter.run, wait=waiter.wait)
            if delivered is not None:
                reached += 1
                for run in delivered.due:
                    messages.publish_soon(app, parts.store, waiter.namespace, run)
    return reached

"""Which tasks start on which events, as the workers that know these tasks say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from celery_steps.codec import pack, unpack
from celery_steps.store.keys import decode, encode
from celery_steps.store.store import Store

_FORMAT = 1


class Subscriber(NamedTuple):
    """A task that a worker knows."""

    app: str
    task: str
    options: dict[str, Any]  # with which that worker's app would send it
    events: tuple[str, ...] = ()  # on which it starts


class Triggers:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._client = store.client
        self._keys = store.keys

    def renew(self, tasks: Iterable[Subscriber]) -> None:
        """What a worker knows, by the store's clock.

        What one of these tasks does not start on any more is dropped, and of any task what nobody has renewed for the
        retention time.
        """
        tasks = list(tasks)
        ours = {event for task in tasks for event in task.events}
        if ours:
            self._client.call("SADD", self._keys.triggering, *map(encode, sorted(ours)))
        for name in self._client.call("SMEMBERS", self._keys.triggering):
            event, said = decode(name.decode()), list[str | bytes]()
            for task in tasks:
                said += (f"{encode(task.app)} {encode(task.task)}", pack([_FORMAT, task.options]) if event in task.events else "")
            if not self._client.run("subscribe", [self._keys.triggers(event)], self._store.retention_ms, *said):
                self._client.call("SREM", self._keys.triggering, name)

    def of(self, event: str) -> list[Subscriber]:
        """The tasks that start on an event of this name. One round trip."""
        reply = self._client.call("HGETALL", self._keys.triggers(event))
        found = []
        for field, value in zip(reply[::2], reply[1::2], strict=True):
            app, task = field.decode().split(" ")
            _, options = unpack(value.partition(b" ")[2])
            found.append(Subscriber(decode(app), decode(task), options, (event,)))
        return sorted(found, key=lambda one: (one.app, one.task))

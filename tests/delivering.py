"""The testing kit's deliveries, to tasks of an app on a real Redis."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Any

from celery import Celery
from celery.backends.redis import RedisBackend

from celery_steps.store.keys import RunId
from celery_steps.testing import delivery
from celery_steps.testing.delivery import app_of_its_own as app_of_its_own
from celery_steps.worker import runtime
from servers import RedisServer

_databases = count(8, 3)


def make_app(server: RedisServer, **settings: Any) -> Celery:
    """An app whose store, broker and result backend are fresh databases of one server."""
    first = next(_databases)  # never one again: kombu keeps the closed pools of its URL
    for database in range(first, first + 3):
        server.flushdb(database)
    app = app_of_its_own(f"app{first}", broker=server.url(first), backend=server.url(first + 1))
    app.conf.update(steps_backend=server.url(first + 2), **settings)
    # Results are looked at, never listened for: whoever sends a task would keep a connection to its result.
    app.backend.on_task_call = lambda *_: None
    return app


def close(app: Celery) -> None:
    """Close every connection of an app that goes: the collector may come to a socket before its owner, and warn of it."""
    parts = runtime.of(app)
    parts.store.client.close()
    parts.main_store.client.close()
    app.pool.force_close_all()
    if isinstance(app.backend, RedisBackend):
        app.backend.client.connection_pool.disconnect()


def deliver(task: Any, *args: Any, id: str = "", **request: Any) -> Any:
    """One delivery; if it is one of a ticket, its message says how often the run was reopened."""
    if "steps_ticket" in (request.get("headers") or {}):
        request["headers"] = {**_reopened(task, id), **request["headers"]}
    return delivery.deliver(task, *args, id=id, **request)


def _reopened(task: Any, id: str) -> dict[str, int]:
    store = runtime.of(task.app).main_store
    times = store.fields(store.namespace_of(id)).get(f"{RunId(task.name, id)}:reopened")
    return {} if times is None else {"steps_reopened": int(times)}


def namespace_fields(app: Celery, namespace: str) -> dict[str, str]:
    return runtime.of(app).store.fields(namespace)


def published(app: Celery, queue: str = "celery") -> list[Any]:
    """Takes the messages that wait in the broker."""
    found = []
    with app.connection_for_write() as connection, connection.SimpleQueue(queue, no_ack=True) as waiting, suppress(waiting.Empty):
        while True:
            found.append(waiting.get_nowait())
    return found

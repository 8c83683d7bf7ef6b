"""Tasks that start on an event: `triggers=("order.created",)`."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_OID, uuid5

from celery import Celery
from celery.app.task import Task
from kombu import serialization
from kombu.entity import Queue

from celery_steps.engine.event import Emission, check_event
from celery_steps.errors import ResultError, StepsError
from celery_steps.store.triggers import Subscriber, Triggers
from celery_steps.worker import messages, runtime


def check(triggers: Any, said_by: str) -> tuple[str, ...]:
    """The names of events in a task's attribute. StepsError if it is anything else than a tuple or list of them."""
    if not isinstance(triggers, (tuple, list)):
        raise StepsError(f'{said_by} must be a tuple of events\' names, as in triggers=("order.created",), not {triggers!r:.80}.')
    return tuple(check_event(event, said_by) for event in triggers)


def renew(app: Celery) -> None:
    """Say in the store what this worker's durable tasks start on; emitters need not know the tasks."""
    found = [
        Subscriber(app.main or "", name, _options(app, task), task.triggers)
        for name, task in app.tasks.items()
        if hasattr(task.run, "records_steps")
    ]
    Triggers(runtime.of(app).main_store).renew(found)


def _options(app: Celery, task: Task) -> dict[str, Any]:
    """With what this app would send the task: it comes to the queue from which its own workers take it."""
    own = {name: value for name, value in task._get_exec_options().items() if value is not None}
    options = app.amqp.router.route({"serializer": app.conf.task_serializer, **own}, task.name, (), {}, task_type=task)
    plain = {name: getattr(value, "name", value) for name, value in options.items()}  # of a Queue, of an Exchange
    return {name: value for name, value in plain.items() if isinstance(value, (str, int, float))}


def start(app: Celery, emission: Emission, data: Any) -> int:
    """Start every task that starts on this event; again with the same event, the same runs. Returns how many.

    ResultError, before anything is sent: the data cannot travel to one of them.
    """
    tasks = [task for task in Triggers(runtime.of(app).store).of(emission.event) if emission.app in (None, task.app)]
    for task in tasks:
        _encodable(task, data)
    for task in tasks:
        options = dict(task.options)
        if "queue" in options:  # by its name alone: its exchange and its bindings are the matter of those who take from it
            options["queue"] = Queue(options["queue"])
        id = triggered_id(emission.id, task)
        # Its run may be known, of the same event sent before: it claims before its body.
        headers = {messages.TICKET: True}
        app.send_task(task.task, args=(data,), task_id=id, headers=headers, add_to_parent=False, declare=[], **options)
    return len(tasks)


def _encodable(task: Subscriber, data: Any) -> None:
    try:
        serialization.dumps([[data], {}, {}], serializer=task.options["serializer"])
    except Exception as error:
        raise ResultError(
            f"The event {task.events[0]!r} starts the task {task.task}, to which its data travels by Celery's serializer "
            f"{task.options['serializer']!r}, which cannot encode it: {error}. Send data that it can encode. Nothing was sent."
        ) from error


def triggered_id(event_id: str, task: Subscriber) -> str:
    """The task id of what an event starts: the same however often it is sent."""
    return str(uuid5(NAMESPACE_OID, f"{event_id}/{task.app}/{task.task}"))

"""Delivering a message in this process, through Celery's own tracer, as a worker's child does."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from datetime import datetime, timezone
from functools import partial
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.app.trace import build_tracer
from celery.utils.time import maybe_iso8601
from kombu import serialization


def app_of_its_own(name: str, **options: Any) -> Celery:
    """An app whose tasks are not shared with every other app of the process, as `@app.task` would."""
    app = Celery(name, set_as_current=False, **options)
    app.task = partial(app.task, shared=False)
    return app


def deliver(task: Any, *args: Any, id: str = "", retries: int = 0, redelivered: bool = False, **request: Any) -> Any:
    """One delivery. Returns what the tracer returns: `.retval`, and `.info` for an end other than success."""
    id = id or str(uuid4())
    request = {
        "id": id,
        "task": task.name,
        "args": list(args),
        "kwargs": request.pop("kwargs", {}),
        "retries": retries,
        "hostname": "worker@here",
        "delivery_info": {"exchange": "", "routing_key": "celery", "redelivered": redelivered},
        "is_eager": False,
        **request,
    }
    tracer = build_tracer(task.name, task, app=task.app)
    return tracer(id, request["args"], request["kwargs"], request)


class Message:
    """A task's message as the broker has it: serialised, and not to be delivered before it is due."""

    def __init__(self, message: Any, now_ms: int, serializer: str | None, headers: Mapping[str, Any] | None) -> None:
        """
        Args:
            message: what Celery is about to send, as `amqp.create_task_message` made it.
            now_ms: the time now, in ms since 1970; an eta counts from it.
        """
        self.headers: dict[str, Any] = {**message.headers, **(headers or {})}
        self._properties = dict(message.properties)
        self._body = serialization.dumps(message.body, serializer=serializer)
        self.id: str = self.headers["id"]
        self.task: str = self.headers["task"]
        self.due_ms = now_ms + _away(self.headers.get("eta"))
        self.redelivered = False

    def again(self, due_ms: int) -> Message:
        """The same, redelivered."""
        other = copy(self)
        other.due_ms, other.redelivered = due_ms, True
        return other

    @property
    def body(self) -> tuple[Any, Any, Any]:
        """args, kwargs and what is embedded, as they arrive."""
        content_type, encoding, data = self._body
        args, kwargs, embedded = serialization.loads(data, content_type, encoding, accept=[content_type])
        return args, kwargs, embedded

    def deliver(self, app: Celery) -> Any:
        """To the task of this name. Returns what the tracer returns."""
        args, kwargs, embedded = self.body
        request = {
            **self.headers,
            **(embedded or {}),
            "properties": self._properties,
            "reply_to": self._properties.get("reply_to"),
            "correlation_id": self._properties.get("correlation_id"),
        }
        for own in ("id", "task", "retries"):
            request.pop(own, None)
        retries = self.headers.get("retries") or 0
        return deliver(
            app.tasks[self.task], *args, id=self.id, retries=retries, redelivered=self.redelivered, kwargs=kwargs, **request
        )


def _away(eta: Any) -> int:
    """In how many ms that is."""
    at = maybe_iso8601(eta)
    if not isinstance(at, datetime):
        return 0
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return max(0, round((at - datetime.now(timezone.utc)).total_seconds() * 1000))

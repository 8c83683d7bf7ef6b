"""A run's Celery message as it is stored with its ticket, and how it is published again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from datetime import datetime, timezone
from typing import Any

from celery import Celery
from celery.app.task import Context, Task
from celery.utils.time import maybe_iso8601
from kombu import serialization
from kombu.exceptions import ContentDisallowed

from celery_steps.codec import pack, unpack
from celery_steps.errors import ResultError
from celery_steps.store.keys import RunId
from celery_steps.store.store import Store

logger = logging.getLogger("celery_steps")

#: Header of a message that comes from a ticket: its run is known, so it claims before its body.
TICKET = "steps_ticket"
#: Header that carries a namespace that is not the task id.
NAMESPACE = "steps_namespace"
#: Header that says how often the run was reopened: its messages from before are stale, however many retries they count.
REOPENED = "steps_reopened"

_FORMAT = 1
_OF_ONE_DELIVERY = ("eta", "countdown", "expires", "redelivered", "is_eager")
_ATOMS = (type(None), bool, int, float, str, bytes)


def header(request: Context, name: str) -> Any:
    """A header of the delivered message."""
    return (request.headers or {}).get(name)


def reopened(request: Context) -> int:
    """How often the run of the delivered message was reopened before it was sent."""
    return int(header(request, REOPENED) or 0)


class Snapshot:
    """The arguments of a delivery as they came: bodies mutate theirs. Called, it gives the serialised message."""

    def __init__(self, task: Task, request: Context, namespace: str) -> None:
        self._task, self._request, self._namespace = task, request, namespace
        self.args, self.kwargs = request.args, request.kwargs
        if not all(isinstance(value, _ATOMS) for value in (*self.args, *self.kwargs.values())):
            with suppress(Exception):  # what cannot be copied is sent as it is when it is asked for
                self.args, self.kwargs = deepcopy((self.args, self.kwargs))

    def __call__(self) -> bytes:
        request = self._request
        ignore = request.__dict__.get("ignore_result")  # Celery before 5.7 drops it
        options = self._task.signature_from_request(request, self.args, self.kwargs, retries=request.retries).options
        options.setdefault("ignore_result", self._task.ignore_result if ignore is None else ignore)
        return self.build(self.args, self.kwargs, options)

    def build(self, args: Any, kwargs: Any, options: dict[str, Any]) -> bytes:
        """Serialise a message with the task's serializer. It is due when its ticket is, so it has neither eta nor expiry."""
        kept = {name: value for name, value in options.items() if value is not None and name not in _OF_ONE_DELIVERY}
        kept["headers"] = {**(options.get("headers") or {}), TICKET: True}
        if self._namespace != self._request.id:
            kept["headers"][NAMESPACE] = self._namespace
        if list(args) == list(self.args) and kwargs == self.kwargs:  # what was masked stays masked
            kept["argsrepr"], kept["kwargsrepr"] = self._request.get("argsrepr"), self._request.get("kwargsrepr")
        serializer = kept["serializer"] = self._task.serializer or self._task.app.conf.task_serializer
        content_type, encoding, data = serialization.dumps([args, kwargs, kept], serializer=serializer)
        return pack([_FORMAT, self._task.name, content_type, encoding, data])

    def retry(self, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[float, int, bytes]:
        """A retry as a ticket: how long it waits, in s, its number, its message."""
        eta, countdown = maybe_iso8601(options.get("eta")), options.get("countdown") or 0
        if isinstance(eta, datetime):
            eta = eta if eta.tzinfo else eta.replace(tzinfo=timezone.utc)  # as Celery reads it
            countdown = (eta - datetime.now(timezone.utc)).total_seconds()
        return float(countdown), options["retries"], self.build(args, kwargs, options)


def accepted(app: Celery, tasks: Iterable[Any] = ()) -> set[str]:
    """The serializers of messages that this app reads: those it accepts, and those that it and these tasks write with."""
    own = (getattr(task, "serializer", None) for task in tasks)
    return {name for name in (*(app.conf.accept_content or ()), app.conf.task_serializer, *own) if name}


def loaded(what: str, payload: tuple[Any, Any, Any], serializers: Iterable[str], setting: str = "accept_content") -> Any:
    """What is in stored bytes, given as content type, encoding, data. ResultError, which begins with `what`, says what to do."""
    content_type, encoding, data = payload
    try:
        # Who writes to Redis must not choose by what it is read: pickle, for one, calls what it is told to call.
        accept = serialization.prepare_accept_content(set(serializers))
        return serialization.loads(data, content_type, encoding, accept=accept)
    except ContentDisallowed as error:
        raise ResultError(
            f"{what} cannot be read: this app does not accept the content type {content_type!r}. "
            f"If the app has written it, add its serializer to {setting}."
        ) from error
    except Exception as error:
        raise ResultError(f"{what} cannot be read: {error}. It is damaged, or its serializer is not installed here.") from error


def opened(app: Celery, message: bytes, task: Any = None) -> tuple[str, Any, Any, dict[str, Any]]:
    """What a stored message says: task, args, kwargs, options. ResultError if it cannot be read.

    `task`: by default the one of its name.
    """
    found = unpack(message)
    if not isinstance(found, list) or len(found) != 5 or not isinstance(found[1], str):
        raise ResultError("A stored message cannot be read: it is damaged.")
    _, name, *payload = found
    body = loaded(f"The stored message of {name}", tuple(payload), accepted(app, [task or app.tasks.get(name)]))
    match body:
        case [list() | tuple() as args, dict() as kwargs, dict() as options]:
            return name, args, kwargs, options
    raise ResultError(f"The stored message of {name} cannot be read: it does not hold arguments and options.")


def begun_anew(app: Celery, message: bytes, reopened: int) -> bytes:
    """The message of a run that is reopened for the nth time: its retries are still to come."""
    name, args, kwargs, options = opened(app, message)
    options["retries"] = 0
    options["headers"] = {**(options.get("headers") or {}), REOPENED: reopened}
    content_type, encoding, data = serialization.dumps([args, kwargs, options], serializer=options["serializer"])
    return pack([_FORMAT, name, content_type, encoding, data])


def publish(app: Celery, message: bytes, **extra: Any) -> None:
    """Send a stored message. Not through apply_async: that is overridden in many projects."""
    name, args, kwargs, options = opened(app, message)
    app.send_task(name, args, kwargs, task_type=app.tasks.get(name), add_to_parent=False, **options, **extra)


def publish_if_due(app: Celery, store: Store, namespace: str, run: RunId) -> bool:
    """Publish a run at once if its ticket is due and nobody else has taken it."""
    if not store.take(app.main or "", namespace, run):
        return False
    message = store.message(namespace, run)
    if message is None:
        return False
    publish(app, message)
    return True


def publish_soon(app: Celery, store: Store, namespace: str, run: RunId) -> None:
    """As `publish_if_due`; while that cannot be, the sweepers have the ticket, and what the caller does must not suffer."""
    try:
        publish_if_due(app, store, namespace, run)
    except Exception as error:  # the broker or Redis is away
        logger.warning("Run %s is due and could not be published yet: %s", run, error)

"""A run's result in Celery's result backend, as one delivery sees and writes it."""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import Celery, states
from celery.app.task import Context, Task
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore
from kombu import serialization
from kombu.exceptions import EncodeError

from celery_steps.codec import pack, unpack
from celery_steps.engine.entries import NEVER
from celery_steps.engine.telling import beginning, complain
from celery_steps.errors import ResultError
from celery_steps.worker import chords, messages

logger = logging.getLogger("celery_steps")

_PLAIN = (type(None), bool, int, float, str)


class Result:
    """The result of one request."""

    def __init__(self, task: Task, request: Context) -> None:
        self._task = task
        self._request = request
        self.wrote_open = False  # a state of an open run, which may lie over a final one of another attempt

    @property
    def ignored(self) -> bool:
        """Whether nobody wants it stored."""
        ignore = self._request.__dict__.get("ignore_result")
        return bool(self._task.ignore_result if ignore is None else ignore)

    def state(self) -> str:
        """What the result backend shows, PENDING where there is none."""
        if self.ignored:
            return str(states.PENDING)
        try:
            return str(self._task.backend.get_state(self._request.id))
        except NotImplementedError:  # no result backend
            return str(states.PENDING)

    def write_started(self, owner: bool) -> None:
        """Celery's tracer would write STARTED at every delivery, over anything: it is written here instead.

        Before the namespace is claimed, only over PENDING.
        """
        if not self._task.tracks_started() or self.ignored:
            return
        if owner or self.state() == states.PENDING:
            info = {"pid": os.getpid(), "hostname": self._request.hostname}
            self._task.backend.store_result(self._request.id, info, states.STARTED, request=self._request)
            self.wrote_open = True

    def write_suspended(self, info: dict[str, Any], away: int) -> int:
        """The state of a run that leaves the worker for `away` ms; `info` says what is awaited.

        Returns the ms after which it must come back, for the sake of its groups.
        """
        backend, id = self._task.backend, self._request.id
        try:
            if not self.ignored:
                self.wrote_open = True
                backend.store_result(id, info, "SUSPENDED", request=self._request)
                if backend.expires and away > backend.expires * 500 and isinstance(backend, RedisBackend):
                    chords.at_least(backend, [backend.get_key_for_task(id)], away + backend.expires * 1000)
            return chords.keep(self._task, self._request, away)
        except Exception as error:  # what is shown outside must not keep the run from leaving
            logger.warning("%s[%s] is suspended, which could not be stored as its state: %r", self._task.name, id, error)
            return NEVER

    def write_progress(self, info: dict[str, Any]) -> None:
        """The state of a run that executes and tells how far it is: never over a final one."""
        backend, id = self._task.backend, self._request.id
        try:
            if self.ignored or self.state() in states.READY_STATES:
                return
            self.wrote_open = True
            try:
                backend.store_result(id, info, "PROGRESS", request=self._request)
            except EncodeError:  # what we record, Celery's serializer may not know
                plain = {name: value if type(value) in _PLAIN else beginning(value) for name, value in info.items()}
                backend.store_result(id, plain, "PROGRESS", request=self._request)
        except Exception as error:
            complain(f"{self._task.name}[{id}]: its progress could not be stored as its state: {error!r}")

    def encoded(self, value: Any) -> bytes:
        """The result as Celery's own serializer writes it: that it can be stored is known before the run is finished."""
        try:
            value = self._task.backend.prepare_value(value)  # an AsyncResult becomes a tuple
            content_type, encoding, data = serialization.dumps(value, serializer=self._task.backend.serializer)
        except EncodeError as error:
            if self.ignored and not (self._request.callbacks or self._request.chain):
                content_type, encoding, data = serialization.dumps(None, serializer="json")
            else:
                raise ResultError(
                    f"The result of {self._task.name} cannot be encoded by Celery's result_serializer "
                    f"{self._task.backend.serializer!r}: {error}. "
                    "Return something that it can encode, or set ignore_result. Recorded steps are intact."
                ) from error
        return pack([content_type, encoding, data])

    def decoded(self, data: bytes) -> Any:
        """What `encoded` wrote."""
        return decoded(data, self._task.app, self._task.backend.serializer)

    def revoke(self) -> None:
        """Store REVOKED and count it for a chord."""
        # Celery's revoke command may have stored it, but counts no chord member; counting one twice changes nothing.
        if self._request.chord or self.state() != states.REVOKED:
            self._task.backend.mark_as_revoked(self._request.id, "revoked", request=self._request, store_result=not self.ignored)

    def put_back(self, state: str, value: Any) -> None:
        """A late duplicate, or an attempt that stalled, has stored something over this final state."""
        if self.state() != state:
            self._task.backend.store_result(self._request.id, value, state, request=self._request)

    def count_for_chord(self) -> None:
        """Celery stores a result, then counts it for its chord: a crash in between would leave the chord waiting for ever.

        It is counted again in case; the Redis backend knows a member that it has counted. Raises Ignore, for the ticket to bring
        the run back, while a process that may be dead has the chord's callback in hand.
        """
        if not self._request.chord:
            return
        backend, id, in_hand = self._task.backend, self._request.id, None
        try:
            backend.on_chord_part_return(self._request, backend.get_state(id), backend.get_result(id))
            if hasattr(type(backend), "_chord_claim_extend_script"):  # Celery 5.7: one process claims the callback, for a while
                in_hand = backend.client.get(backend.get_key_for_group(self._request.group, ".c"))
        except Exception as error:
            raise Ignore(f"The run could not be counted for its chord yet: {error!r}") from error
        if in_hand not in (None, b"done"):
            raise Ignore("The callback of the run's chord is being sent.")


def decoded(data: bytes, app: Celery, serializer: str | None = None) -> Any:
    """A recorded result, which Celery's own serializer wrote: one that the app accepts, or this one.

    ResultError if it cannot be read.
    """
    conf = app.conf
    accept = conf.accept_content if conf.result_accept_content is None else conf.result_accept_content
    found = unpack(data)
    if not isinstance(found, list) or len(found) != 3:
        raise ResultError("A recorded result cannot be read: it is damaged.")
    # What nobody wants and cannot be encoded is recorded as JSON's null.
    serializers = {"json", *(accept or ()), conf.result_serializer, serializer or "json"}
    return messages.loaded("A recorded result", tuple(found), serializers, "result_accept_content")

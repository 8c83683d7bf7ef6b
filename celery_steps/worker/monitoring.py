"""Celery events `step-*` for monitors, where a worker sends task events (`-E`, or worker_send_task_events).

They are sent from the process that executes: the worker's own dispatcher is in its main process.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any

from celery.app.task import Task

from celery_steps.details import RunDetails, StepDetails
from celery_steps.engine.telling import complain

#: Type of the event, by the name of the signal. A replay is none: it is nothing new, and there are many.
_TYPES = {
    "step_executed": "step-executed",
    "step_failed": "step-failed",
    "run_started": "step-run-started",
    "run_resumed": "step-run-resumed",
    "run_suspended": "step-run-suspended",
    "run_finished": "step-run-finished",
    "lease_lost": "step-lease-lost",
}
EVENTS = frozenset(_TYPES)

#: Whether this worker was started to send task events: known in its main process, and in what it forks.
worker_sends = False

#: Seconds for which nothing is sent after the broker could not be reached.
_SILENCE = 30.0
#: Seconds that the broker has for an answer, and a thread to wait for another one that sends.
_PATIENCE = 2.0
#: What bounds each answer, by the transport's driver: `connect_timeout` bounds none of Redis's, and RabbitMQ's first only.
_BOUNDS = {"redis": ("socket_timeout", "socket_connect_timeout"), "py-amqp": ("read_timeout", "write_timeout")}


def is_wanted(task: Task) -> bool:
    """Whether events of this task are sent here."""
    return worker_sends and bool(task.send_events)


def send(task: Task, name: str, details: StepDetails | RunDetails) -> None:
    """Send the event. What goes wrong is logged, and nothing is sent for a while: a broker that is away must not hold up runs."""
    _line.send(task, _TYPES[name], fields_of(details))


def send_revoked(task: Task, run_id: str) -> None:
    """Send Celery's own event of a cancelled run: of Ignore it sends none, and monitors would show it as started."""
    if is_wanted(task):
        _line.send(task, "task-revoked", {"uuid": run_id, "terminated": False, "signum": None, "expired": False})


def fields_of(details: StepDetails | RunDetails) -> dict[str, Any]:
    """Details as fields of an event: they go through JSON."""
    fields: dict[str, Any] = {"uuid": details.run_id, "task": details.task, "namespace": details.namespace}
    fields |= {"attempt": details.attempt, "took_ms": details.took_ms}
    if isinstance(details, StepDetails):
        fields |= {"key": details.key, "sequence": details.sequence, "verb": details.verb}
        fields |= {"recorded": details.recorded, "next_try": details.next_try and details.next_try.isoformat()}
    else:
        fields |= {"status": details.status, "until": details.until and details.until.isoformat()}
        fields["waiting_for"] = [f"{wait.waiting_for} ({wait.key})" if wait.key else wait.waiting_for for wait in details.waits]
    if details.error is not None:
        fields["exception"] = f"{details.error.type}: {details.error.message}"
    return fields


class _Line:
    """This process's connection for events, made when the first is sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._dispatcher: Any = None
        self._silent_until = 0.0

    def send(self, task: Task, type: str, fields: dict[str, Any]) -> None:
        if self._pid != os.getpid():  # after a fork
            self._pid, self._lock, self._dispatcher = os.getpid(), threading.Lock(), None
        if time.monotonic() < self._silent_until:
            return
        held = False
        try:
            held = self._lock.acquire(timeout=_PATIENCE)
            if not held:
                self._fall_silent("another thread waits for the broker")
            elif time.monotonic() >= self._silent_until:  # else the thread that was waited for has had no answer
                self._send(task, type, fields)
        finally:
            if held:
                self._lock.release()

    def _send(self, task: Task, type: str, fields: dict[str, Any]) -> None:
        try:
            if self._dispatcher is None or self._dispatcher.app is not task.app:
                self._connect(task)
            self._dispatcher.send(type, **fields)
        except BaseException as error:
            self._close()
            if not isinstance(error, Exception):
                raise
            self._fall_silent(repr(error))

    def _fall_silent(self, why: str) -> None:
        self._silent_until = time.monotonic() + _SILENCE
        complain(f"Events cannot be sent, which is tried again in {_SILENCE:g} s: {why}")

    def _connect(self, task: Task) -> None:
        self._close()
        connection = task.app.connection_for_write(connect_timeout=_PATIENCE)
        transport = connection.get_transport_cls()
        for option in _BOUNDS.get(transport.driver_name, ()):
            connection.transport_options = {**connection.transport_options, option: _PATIENCE}
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=_PATIENCE)
        hostname = getattr(task.request, "hostname", None)
        self._dispatcher = task.app.events.Dispatcher(connection, hostname=hostname, buffer_while_offline=False)

    def _close(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            with suppress(Exception):
                dispatcher.close()
            with suppress(Exception):
                dispatcher.connection.close()


_line = _Line()

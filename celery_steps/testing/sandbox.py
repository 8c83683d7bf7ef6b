"""An app taken out of the world for a test: its store, result backend and broker are in memory, what it sends is caught."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import fakeredis
from celery import Celery, signals

from celery_steps.testing.clock import Clock
from celery_steps.testing.delivery import Message
from celery_steps.testing.fake import fake_store
from celery_steps.testing.results import MemoryResults
from celery_steps.worker import notices, runtime
from celery_steps.worker.heartbeat import Heartbeat

#: What an app is told meanwhile. Its own steps_* and serializers stay.
_SETTINGS = {
    "broker_url": "memory://localhost/",
    "broker_read_url": "memory://localhost/",
    "broker_write_url": "memory://localhost/",
    "steps_backend": "redis://localhost/0",
    "steps_partitions": 1,  # each costs a command at every sweep
    "task_always_eager": False,
    "task_protocol": 2,
}
_ATTRIBUTES = ("_pool", "_local", "_backend_cache", "backend_cls")


class Still(Heartbeat):
    """No thread: virtual time does not pass while a body runs."""

    def hold(self, store: Any, attempt: Any) -> None:
        self._held[id(store)] = (store, attempt)


class Sandbox:
    """One app, from `enter` to `leave`. Sandboxes of the same app nest."""

    def __init__(self, app: Celery, server: fakeredis.FakeServer, clock: Clock, around: Callable[..., Any]) -> None:
        self.app = app
        self._server = server
        self._clock = clock
        self._around = around
        self._stack = ExitStack()

    def enter(self, sent: Callable[[Message], None]) -> None:
        """From now on the app is in here; `sent` gets every message that it sends. SettingsError: its own steps_* are wrong."""
        app = self.app
        app.conf.get("steps_backend")  # an app's configuration is read at the first look
        conf = app.conf
        with ExitStack() as stack:
            self._keep(stack)
            for name, value in _SETTINGS.items():
                conf[name] = value
            app._pool, app.backend_cls, app._local = None, None, threading.local()
            app._backend_cache = MemoryResults(app)
            app.amqp._producer_pool = None
            app.amqp.send_task_message = self._catcher(sent)
            runtime._runtimes[app] = self._runtime()
            _listen(stack)
            self._stack = stack.pop_all()

    def leave(self) -> None:
        """The app is as it was."""
        self._stack.close()

    def _keep(self, stack: ExitStack) -> None:
        app = self.app
        changes, before = app.conf.changes, dict(app.conf.changes)

        def restore() -> None:
            changes.clear()
            changes.update(before)

        stack.callback(restore)
        for name in _ATTRIBUTES:
            stack.callback(setattr, app, name, getattr(app, name, None))
        stack.callback(setattr, app.amqp, "_producer_pool", app.amqp._producer_pool)
        stack.callback(_put_back, app.amqp.__dict__, "send_task_message", app.amqp.__dict__.get("send_task_message"))
        stack.callback(_put_back, runtime._runtimes, app, runtime._runtimes.get(app))

    def _runtime(self) -> runtime.Runtime:
        parts = runtime.Runtime(self.app)
        parts.store = parts.main_store = fake_store(parts.settings, self._server, self._clock)
        parts.heartbeat = Still(parts.settings.lease_ttl)
        parts.doors = {"timer": self._clock, "around": self._around}
        return parts

    def _catcher(self, sent: Callable[[Message], None]) -> Callable[..., None]:
        def send_task_message(producer: Any, name: str, message: Any, *args: Any, **options: Any) -> None:
            serializer = options.get("serializer") or self.app.conf.task_serializer
            sent(Message(message, self._clock.now_ms, serializer, options.get("headers")))

        return send_task_message


def _put_back(mapping: Any, key: Any, value: Any) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _listen(stack: ExitStack) -> None:
    """Children tell their parents of their end, as in a worker: for as long as the sandbox is there."""
    listened = [signals.task_prerun, signals.task_postrun, signals.task_revoked]
    before = [list(signal.receivers or ()) for signal in listened]
    notices.connect()
    for signal, receivers in zip(listened, before, strict=True):
        if len(signal.receivers) > len(receivers):  # a worker of this process had not connected them
            stack.callback(signal.disconnect, dispatch_uid="celery-steps-child")

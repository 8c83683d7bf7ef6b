"""What the deliveries of one app share in a process."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery

from celery_steps.codec import Codec
from celery_steps.settings import Settings
from celery_steps.store.client import Client
from celery_steps.store.store import Store
from celery_steps.worker.heartbeat import Heartbeat


class Runtime:
    """Settings, store, codec and heartbeat of one app; nothing connects before it is used."""

    def __init__(self, app: Celery) -> None:
        settings = self.settings = Settings.of(app)
        self.codec = Codec(settings.codec, settings.max_result_size)
        self.store = Store(settings)
        # For the main process, whose event loop must not wait long for Redis.
        self.main_store = Store(settings, Client(settings.backend, settings.redis_options, patience=min(3.0, settings.lease_ttl)))
        self.heartbeat = Heartbeat(settings.lease_ttl)
        self.doors: dict[str, Any] = {}  # `timer` and `around` of every attempt, where the testing kit has its own


_runtimes: WeakKeyDictionary[Celery, Runtime] = WeakKeyDictionary()


def of(app: Celery) -> Runtime:
    """The runtime of an app. SettingsError if its `steps_*` settings are wrong."""
    app = app._get_current_object() if hasattr(app, "_get_current_object") else app
    found = _runtimes.get(app)
    if found is None:
        found = _runtimes[app] = Runtime(app)
    return found


def codec_of(app: Celery) -> Codec:
    """The codec for runs in memory: they need no Redis, so a missing one is no error."""
    try:
        return of(app).codec
    except Exception:
        return Codec()

"""In every worker: publishes the runs whose tickets are due.

Timer and safety net: who makes a ticket due publishes it at once.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from typing import Any, NamedTuple

from celery import Celery, bootsteps

from celery_steps.errors import SettingsError, StepsError, StoreUnavailable
from celery_steps.store.client import address_of
from celery_steps.store.keys import RunId
from celery_steps.store.server import Server
from celery_steps.worker import messages, runtime, triggers
from celery_steps.worker.verdicts import give_back, hand_over

logger = logging.getLogger("celery_steps")

#: At this pace, in seconds, finished runs past retention leave the indexes, and the worker says again which tasks events start.
_UPKEEP_INTERVAL = 60.0

#: Held while a sweep runs, and by who forks: a child forked in the middle would inherit locks that nobody opens any more.
_sweeping = threading.Lock()
os.register_at_fork(before=_sweeping.acquire, after_in_parent=_sweeping.release, after_in_child=_sweeping.release)


class Swept(NamedTuple):
    """What a sweep did."""

    published: int
    next_ms: int  # until the next ticket is due, -1: none waits


def sweep(app: Celery) -> Swept:
    """Publish every run of this app whose ticket is due now."""
    published = 0
    store = runtime.of(app).main_store
    while True:
        due = store.sweep(app.main or "")
        trouble = None
        for namespace, run in due.runs:
            try:
                published += _publish(app, namespace, run)
            except Exception as error:  # of one message perhaps: the others are taken too
                trouble = error
        if trouble is not None:
            raise trouble
        if due.next_ms != 0 or not due.runs:
            return Swept(published, due.next_ms)


def _publish(app: Celery, namespace: str, run: RunId) -> bool:
    message = runtime.of(app).main_store.message(namespace, run)
    if message is None:
        logger.error(
            "Run %s in namespace %r is due, but its message is gone from Redis: it cannot be delivered again. "
            "Send the task again.",
            run,
            namespace,
        )
        return False
    messages.publish(app, message)
    return True


class Sweeper(bootsteps.StartStopStep):  # type: ignore[misc]
    """A thread beside the pool of a worker whose app has durable tasks."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._app: Celery = worker.app
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._kept_up = -math.inf

    def start(self, worker: Any) -> None:
        """Check the store, then sweep until the worker stops.

        SettingsError ends the worker; an absent Redis is waited for.
        """
        parts = runtime.of(self._app)
        try:
            _warn_of_sharing(self._app, parts)
            for warning in Server(parts.store).check():
                logger.warning(warning)
        except StoreUnavailable as error:
            logger.critical("%s Durable tasks wait for it.", error)
        self._thread = threading.Thread(target=self._loop, name="celery-steps-sweeper", daemon=True)
        self._thread.start()

    def stop(self, worker: Any) -> None:
        """A warm shutdown: this comes before the pool waits for its tasks."""
        self._stopped.set()
        hand_over()

    def terminate(self, worker: Any) -> None:
        """A cold shutdown: this comes before the pool ends its children."""
        self._stopped.set()
        give_back(worker.pool)

    def _loop(self) -> None:
        interval = runtime.of(self._app).settings.sweep_interval
        pause = 0.0
        while not self._stopped.wait(pause):
            pause = interval
            try:
                with _sweeping:
                    next_ms = sweep(self._app).next_ms
                    if 0 <= next_ms < interval * 1000:
                        pause = next_ms / 1000
                    self._keep_up()
            except SettingsError:
                raise
            except Exception as error:  # the broker or Redis is away: the tickets wait
                level = logging.WARNING if isinstance(error, StepsError) else logging.ERROR
                logger.log(level, "Sweeping failed, it goes on: %s", error, exc_info=level == logging.ERROR)

    def _keep_up(self) -> None:
        now = time.monotonic()
        if now - self._kept_up >= _UPKEEP_INTERVAL:
            triggers.renew(self._app)
            runtime.of(self._app).main_store.forget()
            self._kept_up = now


def _warn_of_sharing(app: Celery, parts: runtime.Runtime) -> None:
    here = parts.store.client.address
    if isinstance(app.conf.broker_url, str) and address_of(app.conf.broker_url) == here:
        logger.warning(
            "steps_backend is the broker's database (%s): flushing the broker would lose every unfinished run. "
            "Give steps_backend a database of its own.", here,
        )  # fmt: skip

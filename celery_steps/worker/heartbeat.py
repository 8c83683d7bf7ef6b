"""A thread in the process that executes: renews the leases of its attempts, and sees what is asked of them from outside."""

from __future__ import annotations

import logging
import os
import threading

from celery_steps.engine.attempt import Attempt
from celery_steps.engine.journal import JournalStore

logger = logging.getLogger("celery_steps")

#: Held while the thread is started: two threads of a pool may hold their first leases at once. Nobody forks meanwhile.
_starting = threading.Lock()
os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)

_LOST = 1 << 62  # newer than any fence: makes the attempt ask before its next handler


class Heartbeat:
    """Renews every third of a lease. In the process itself, as a solo worker's own timer stalls while a task runs."""

    def __init__(self, lease: float) -> None:
        self._interval = lease / 3
        self._held: dict[int, tuple[JournalStore, Attempt]] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def hold(self, store: JournalStore, attempt: Attempt) -> None:
        """Keep this lease from now on."""
        with _starting:
            if self._pid != os.getpid():  # threads do not survive a fork, nor do the parent's leases concern the child
                self._held = {}
                self._wake = threading.Event()
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._beat, name="celery-steps-heartbeat", daemon=True)
                self._thread.start()
            self._held[id(store)] = (store, attempt)
            self._wake.set()

    def drop(self, store: JournalStore) -> None:
        self._held.pop(id(store), None)

    def _beat(self) -> None:
        pause = threading.Event()
        while True:
            self._wake.wait()
            pause.wait(self._interval)
            self._wake.clear()
            if self._held:
                self._wake.set()
            for store, attempt in list(self._held.values()):
                try:
                    fence = store.renew()
                except Exception as error:  # this thread must not end
                    logger.warning("The lease of namespace %r could not be renewed: %s", store.namespace, error)
                    continue
                if not fence and id(store) in self._held:
                    self.drop(store)
                    logger.warning("The lease of namespace %r is lost: another attempt owns it.", store.namespace)
                if store is attempt.store:
                    attempt.saw(fence or _LOST)

"""A result backend in memory, chords included, that is nobody else's."""

from __future__ import annotations

import threading
from typing import Any

from celery.backends.base import KeyValueStoreBackend


class MemoryResults(KeyValueStoreBackend):  # type: ignore[misc]
    """Celery's own backend logic over a dict."""

    thread_safe = True
    persistent = True
    supports_autoexpire = True
    implements_incr = True

    def __init__(self, app: Any) -> None:
        super().__init__(app=app, url="steps-testing://")
        self._values: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> Any:
        return self._values.get(key)

    def mget(self, keys: Any) -> list[Any]:
        return [self._values.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        self._values[key] = value

    def delete(self, key: Any) -> None:
        self._values.pop(key, None)

    def incr(self, key: Any) -> int:
        with self._lock:
            count = self._values[key] = int(self._values.get(key, 0)) + 1
            return int(count)

    def expire(self, key: Any, value: Any) -> None:
        """What is in memory goes with the test."""

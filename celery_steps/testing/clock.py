"""Virtual time: it stands still until somebody moves it, and fakeredis tells it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from math import ceil
from typing import Any

#: The clock by which a command is executed, in the thread that executes it. Other fakeredis servers keep the time of day.
_executing = threading.local()


class Clock:
    """A time in ms since 1970. It has what the engine asks of Python's `time`."""

    def __init__(self, start_ms: int | None = None) -> None:
        self.start_ms = self.now_ms = time.time_ns() // 1_000_000 if start_ms is None else start_ms

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_ms / 1000, timezone.utc)

    def monotonic(self) -> float:
        return (self.now_ms - self.start_ms) / 1000

    def sleep(self, seconds: float) -> None:
        """The time of a short rest passes at once."""
        self.now_ms += max(0, ceil(seconds * 1000))

    @contextmanager
    def told(self) -> Iterator[None]:
        """Commands that this thread sends meanwhile are executed at this clock's time."""
        before = getattr(_executing, "clock", None)
        _executing.clock = self
        try:
            yield
        finally:
            _executing.clock = before


class _Time:
    """Python's `time` as fakeredis sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        clock = getattr(_executing, "clock", None)
        # A float of ms may lie a little below its number: what fakeredis cuts off must still be that number.
        return time.time() if clock is None else clock.now_ms / 1000 + 2e-7


def let_fakeredis_tell() -> None:
    """From now on fakeredis asks the clock of who sends a command, where there is one."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "fakeredis" and getattr(module, "time", None) is time:
            module.time = _Time()  # type: ignore[attr-defined]

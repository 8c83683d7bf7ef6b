"""Async handlers: run to their end by the thread that calls the step."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

from celery_steps.errors import StepsError


class _Loops(threading.local):
    """One event loop per worker thread, kept for its life: clients that handlers keep are bound to it."""

    loop: asyncio.AbstractEventLoop | None = None


_loops = _Loops()


def wait_for(awaitable: Awaitable[Any]) -> Any:
    """The result of what an async handler returned."""

    async def outcome() -> Any:
        return await awaitable

    loop = _loops.loop = _loops.loop or asyncio.new_event_loop()
    if loop.is_running() or asyncio._get_running_loop() is not None:
        raise StepsError(
            "Async handlers cannot overlap in one thread, as greenlets do: use the prefork or threads pool for them."
        )
    task = loop.create_task(outcome())
    try:
        return loop.run_until_complete(task)
    except BaseException:
        if not task.done() and not loop.is_running():  # a signal: it must not go on beside the next handler
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        raise


def close() -> None:
    """The thread that calls this ends, and its loop with it."""
    if _loops.loop is not None:
        _loops.loop.close()
        _loops.loop = None

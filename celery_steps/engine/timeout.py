"""`timeout=`: a handler that takes too long is given up, not stopped. Its late result goes nowhere."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from celery_steps.engine.loops import wait_for
from celery_steps.errors import StepTimeout


def within(seconds: float, key: str, handler: Callable[[], Any]) -> Any:
    """What the handler returns within that time. StepTimeout if it does not return.

    An async handler is cancelled then. Another one goes on in its thread, as no thread can be stopped.
    """
    late = StepTimeout(f"Step {key!r} did not end within {seconds:g} s.")
    until = time.monotonic() + seconds
    if inspect.iscoroutinefunction(handler):
        return wait_for(_within(handler(), seconds, late))
    outcome: list[tuple[bool, Any]] = []
    ended = threading.Event()
    context = copy_context()

    def act() -> None:
        try:
            outcome.append((True, context.run(handler)))
        except BaseException as error:
            outcome.append((False, error))
        finally:
            ended.set()

    threading.Thread(target=act, name=f"celery-steps-{key}", daemon=True).start()
    if not ended.wait(seconds):
        raise late
    ((returned, value),) = outcome
    if not returned:
        raise value
    if inspect.isawaitable(value):
        return wait_for(_within(value, until - time.monotonic(), late))
    return value


async def _within(awaitable: Any, seconds: float, late: StepTimeout) -> Any:
    # Not asyncio.wait_for: its TimeoutError could be the handler's own.
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait({task}, timeout=max(0.0, seconds))
    if task.done():
        return task.result()
    task.cancel()
    raise late

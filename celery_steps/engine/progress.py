"""`step.progress`: how far a run is. The last value is kept."""

from __future__ import annotations

import math
from typing import Any

from celery_steps.codec import PLAIN, Codec
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.execution import step_of_handler
from celery_steps.engine.telling import LONGEST, beginning, complain, kept
from celery_steps.errors import StepsError

#: Whoever shows a number prints it, and beyond a few thousand digits Python refuses to.
_LARGEST = 2**63


def progress(attempt: Attempt, current: float, total: float | None, message: str | None, data: dict[str, Any]) -> None:
    """Say how far the run is. Written at once, or with the next value or line, or when the attempt leaves."""
    _check_number("current", current)
    if total is not None:
        _check_number("total", total)
    if message is not None and not isinstance(message, str):
        raise StepsError(f"step.progress: message must be text, not {beginning(message, 80)}.")
    if step_of_handler(attempt) is None:
        attempt.speak("progress")
        if not attempt.telling.new_word():
            return
    message = message if message is None else message[:LONGEST]
    info = {"current": current, "total": total, "message": message, **kept(attempt.codec, data)}
    try:
        packed = attempt.codec.encode(info, hint=PLAIN, limit=False, namespace=attempt.namespace)
    except Exception as error:  # of steps_codec
        complain(f"The progress of run {attempt.run_id} could not be encoded: {error!r}")
        return
    attempt.telling.progress(packed, info)


def progress_of(data: bytes, namespace: str, codec: Codec) -> dict[str, Any]:
    """What `progress` wrote. ResultError where it cannot be read."""
    info: dict[str, Any] = codec.decode(data, hint=PLAIN, namespace=namespace)
    return info


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise StepsError(f"step.progress: {name} must be a number, not {beginning(value, 80)}.")
    if not -_LARGEST <= value <= _LARGEST:  # which is not in the message: an int of thousands of digits cannot be printed
        raise StepsError(f"step.progress: {name} must be a number from -2**63 to 2**63. Give it in a larger unit.")

"""`step.log`: durable lines of a run. A replay does not repeat them."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, cast

from celery_steps.codec import PLAIN, Codec, pack, unpack
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.execution import step_of_handler
from celery_steps.engine.telling import LONGEST, beginning, complain, kept
from celery_steps.errors import ResultError, StepsError

FORMAT = 1

#: Gets every line as it is said, whatever becomes of it in the store.
python_logger = logging.getLogger("celery_steps.run")

_NUMBERS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Line(NamedTuple):
    """A line as it is stored."""

    level: str
    run: str
    attempt: int  # of that run, from 1
    key: str  # of the step whose handler said it, "": the body
    sequence: int
    body: bytes  # encoded [message, data]


def log(attempt: Attempt, level: str, message: str, data: dict[str, Any]) -> None:
    """Say a line, to Python logging at once and to the run's log in one round trip; a line that was written before is silent."""
    if not isinstance(message, str):
        raise StepsError(f"step.log.{level}: the message must be text, not {beginning(message, 80)}. Give values by name.")
    step = step_of_handler(attempt)
    if step is None:
        attempt.speak("log")
        if not attempt.telling.new_word():
            return
    key, sequence = ("", 0) if step is None else (step.key, step.sequence)
    if len(message) > LONGEST:
        message = f"{message[:LONGEST]}… ({len(message):,} characters)"
    data = kept(attempt.codec, data)
    extra = {"run_id": attempt.run_id, "namespace": attempt.namespace, "attempt": attempt.number, "data": data}
    _to_python(level, message, data, {**extra, "key": key, "sequence": sequence})
    try:
        body = attempt.codec.encode([message, data], hint=PLAIN, limit=False, namespace=attempt.namespace, key=key)
    except Exception as error:  # of steps_codec
        complain(f"A line of run {attempt.run_id} could not be encoded: {error!r}")
        return
    attempt.telling.line(pack([FORMAT, *Line(level, attempt.run, attempt.number, key, sequence, body)]))


def _to_python(level: str, message: str, data: dict[str, Any], extra: dict[str, Any]) -> None:
    if not python_logger.isEnabledFor(_NUMBERS[level]):
        return
    text = " ".join((message, *(f"{name}={beginning(value, 200)}" for name, value in data.items())))
    text = text.encode(errors="backslashreplace").decode()  # a lone surrogate would be an error of every file it is written to
    try:
        python_logger.log(_NUMBERS[level], "%s", text, extra=extra, stacklevel=4)  # of the caller of step.log.info
    except Exception as error:  # a handler or a filter of the user's
        complain(f"Python logging raised {error!r}: the run goes on")


def read_line(data: bytes) -> Line:
    """A stored line. ResultError where it is damaged or newer."""
    try:
        format, *fields = cast(list[Any], unpack(data))
        line = Line(*fields)
        if format == FORMAT and [type(field) for field in line] == [str, str, int, str, int, bytes] and line.level in _NUMBERS:
            return line
    except (ValueError, TypeError) as error:
        raise ResultError(f"A line of the log is corrupt: {error}") from error
    raise ResultError("A line of the log is corrupt, or was written by a newer celery-steps.")


def words_of(line: Line, namespace: str, codec: Codec) -> tuple[str, dict[str, Any]]:
    """The message and the data of a line. ResultError where they cannot be read."""
    message, data = codec.decode(line.body, hint=PLAIN, namespace=namespace, key=line.key)
    return message, data

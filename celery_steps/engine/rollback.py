"""`rollback=`: a run that ends failed or cancelled undoes what it executed, newest first, each undo recorded."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from celery_steps.codec import PLAIN
from celery_steps.engine import entries as fmt
from celery_steps.engine.attempt import Attempt, current, handling
from celery_steps.engine.entries import Identity
from celery_steps.engine.execution import CurrentStep, executing, said_value
from celery_steps.engine.identity import idempotency_key
from celery_steps.engine.loops import wait_for
from celery_steps.engine.pause import suspend
from celery_steps.engine.retry import RetryPolicy
from celery_steps.errors import StepsError

#: How often an undo is tried before the run fails with it undone.
_POLICY = RetryPolicy(max_retries=4, delay=1, max_delay=60)
#: Rests as short as this, in s, stay in the worker.
_SHORT = 1.0


def begin(attempt: Attempt, outcome: str, value: bytes) -> None:
    """Celery has stored how the run ends: from here it only undoes. A later attempt goes on with that."""
    attempt.store.begin_rollback(uuid4().hex, fmt.pack_rollback(attempt.run, outcome, value))
    attempt.leaving(attempt.journal.catch_up)
    attempt.tell_failures()
    if any(identity not in attempt.undos for identity in attempt.journal.undoable):
        # This attempt has not come by every step: one that replays the body has.
        suspend(attempt, "rollback", 0, {"waiting_for": "rollback", "until": None}, status="rolling_back")


def undo(attempt: Attempt) -> None:
    """Undo what is not undone yet, newest first. Raises Suspended between tries that are far apart.

    The first undo that keeps failing ends it: what is older stays, as it may be needed to put that one right.
    """
    journal = attempt.journal
    for identity in reversed(journal.undoable):
        while identity not in journal.undone:
            if not _undo(attempt, identity):
                return


@contextmanager
def _inside(attempt: Attempt, identity: Identity) -> Iterator[None]:
    """An undo is a handler: log, progress and current_step() are there, other verbs say why they are not."""
    key = idempotency_key(attempt.namespace, (f"undo {identity[0]}", identity[1]), attempt.journal.epoch)
    step = CurrentStep(*identity, attempt.namespace, attempt.journal.undo_failures[identity] + 1, key)
    tokens = current.set(attempt), handling.set(attempt), executing.set(step)
    was, attempt.active = attempt.active, True
    attempt.telling.stay()
    try:
        yield
    finally:
        attempt.active = was
        current.reset(tokens[0])
        handling.reset(tokens[1])
        executing.reset(tokens[2])


def _undo(attempt: Attempt, identity: Identity) -> bool:
    """One try. False: it was the last, and failed."""
    key, sequence = identity
    where: dict[str, Any] = {"namespace": attempt.namespace, "key": key, "sequence": sequence}
    began = attempt.clock()
    handler, hint = attempt.undos.get(identity, (None, PLAIN))
    try:
        if handler is None:
            raise StepsError(f"The code has no rollback= for step {key!r} (occurrence {sequence}) any more.")
        with _inside(attempt, identity):
            step, codec = attempt.journal.steps[identity], attempt.codec
            if not step.ok:
                raise StepsError(f"Step {key!r} (occurrence {sequence}) has no result that rollback= could be called with.")
            value = said_value(codec, step, hint, **where) if step.said else codec.decode(step.value, hint=hint, **where)
            done = handler(value)
            if inspect.isawaitable(done):
                wait_for(done)
    except Exception as error:
        failure = attempt.codec.encode_failure(error, **where)
        attempt.append([("undo", fmt.pack_undo(identity, False, failure, began, attempt.clock() - began))], record=False)
        pause = _POLICY.pause(attempt.journal.undo_failures[identity], error)
        if pause is None:
            return False
        if pause > _SHORT:
            suspend(
                attempt,
                f"rollback of {key!r} (occurrence {sequence})",
                attempt.now_ms() + int(pause * 1000),
                {"key": key, "sequence": sequence, "waiting_for": "rollback", "until": None},
                status="rolling_back",
            )
        elif attempt.store.skipped_ms is None:
            attempt.timer.sleep(pause)
        return True
    attempt.append([("undo", fmt.pack_undo(identity, True, b"", began, attempt.clock() - began))])
    return True

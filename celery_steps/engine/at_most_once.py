"""`at_most_once=True`: an intent is recorded before the handler is called, so that a crash leaves a doubt, not a second call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from celery_steps.engine import entries as fmt
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.entries import Identity
from celery_steps.engine.pause import Pause, rest
from celery_steps.errors import NotDone, StepsError


class Known(NamedTuple):
    """What `reconcile` found out."""

    value: Any


def intend(
    attempt: Attempt, identity: Identity, digest: bytes | None, undo: bool, reconcile: Callable[[], Any] | None
) -> Known | None:
    """Before the handler of such a step. Returns what it has already come to, or None: now it may be called.

    An intent without an outcome is a doubt: `reconcile` is asked, and returns the result or raises NotDone. Without one the run
    waits until somebody resolves it: raises Suspended.
    """
    if identity in attempt.journal.intents:
        if reconcile is None:
            doubt(attempt, identity)
        else:
            try:
                return Known(reconcile())
            except NotDone:
                pass
    attempt.append([("intent", fmt.pack_intent(identity, digest, undo))], record=False)
    attempt.ask()  # stalled meanwhile, it may not be the owner any more
    return None


def doubt(attempt: Attempt, identity: Identity, why: str = "") -> None:
    """Leave the worker until an operator says what became of this step. Raises Suspended. `why` it is in doubt again."""
    key, sequence = identity
    about = f"resolve of {key!r} (occurrence {sequence}), which is in doubt{why and f' again: {why}'}"
    info = {"key": key, "sequence": sequence, "waiting_for": "resolve", "until": None}
    rest(attempt, Pause(about, fmt.NEVER, info, "in_doubt"))


def check_at_most_once(key: str, options: dict[str, Any]) -> None:
    """Refuse options that do not go with at_most_once, and reconcile without it."""
    said_by = f"step.run({key!r})"
    reconcile = options.get("reconcile")
    if not options.get("at_most_once"):
        if reconcile is not None:
            raise StepsError(f"{said_by}: reconcile= is asked for a step in doubt, which only at_most_once=True makes.")
        return
    if reconcile is not None and not callable(reconcile):
        raise StepsError(f"{said_by}: reconcile must be callable with (input, idempotency_key), not {reconcile!r:.80}.")
    if options.get("retry") is not None:
        raise StepsError(f"{said_by}: at_most_once=True is never tried twice, so retry= cannot go with it. Use reconcile=.")
    if options.get("namespace") is not None:
        raise StepsError(f"{said_by}: at_most_once=True works in the run's own namespace only, not with namespace=.")

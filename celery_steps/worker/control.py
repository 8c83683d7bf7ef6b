"""What is asked of a run from outside: an entry in its journal, which whoever executes it meets."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

from celery import Celery

from celery_steps.codec import PLAIN
from celery_steps.engine.entries import Identity, pack_control, pack_resolve, read
from celery_steps.engine.journal import Journal
from celery_steps.errors import JournalLost, RunRefused, StepFailed
from celery_steps.store.keys import FINAL, RunId
from celery_steps.worker import messages, runtime

logger = logging.getLogger("celery_steps")

#: What can be done instead, by the status that was found.
_INSTEAD = {
    "suspended": "It waits already; to stop it, pause or cancel it.",
    "retrying": "It waits for its retry; to stop it, pause or cancel it.",
    "running": "Wait until it leaves its worker, or cancel it.",
    "held": "It waits for another run of its namespace; it can be cancelled.",
    "paused": "Unpause or cancel it.",
    "in_doubt": "Resolve or cancel it.",
}


def journal_of(app: Celery, namespace: str, run: RunId) -> Journal:
    """The journal of a run as it is now."""
    store = runtime.of(app).main_store
    journal = Journal(store.bind(namespace, run, "", app.main or ""), str(run))
    journal.absorb(list(store.entries(namespace)))
    return journal


def ask(app: Celery, namespace: str, run: RunId, what: str, entry: bytes) -> None:
    """Append a control entry to an open run; where it waits, it is published at once.

    Raises RunRefused that names the status found and what can be done instead; JournalLost.
    """
    store = runtime.of(app).main_store
    answer, detail = store.control(namespace, run, what=what, nonce=uuid4().hex, entry=entry)
    if answer == "OK":
        messages.publish_soon(app, store, namespace, run)
        return
    where = f"Run {run.id} ({run.task}) in namespace {namespace!r}"
    if answer == "LOST":
        raise JournalLost(f"{where} has lost its journal: it fails at its next attempt.")
    if answer == "UNKNOWN":
        raise RunRefused(f"{where} is not known any more.")
    instead = "It is finished." if detail in FINAL else _INSTEAD.get(detail, "")
    raise RunRefused(f"{where} is {detail}, so it cannot be asked to {what}. {instead}".strip())


def cancel(app: Celery, namespace: str, run: RunId, reason: str = "cancelled") -> None:
    """Ask an open run to end as cancelled."""
    ask(app, namespace, run, "cancel", pack_control(str(run), reason))


def resolve(app: Celery, namespace: str, run: RunId, key: str | None, sequence: int, how: str, value: Any) -> None:
    """Say what became of a step in doubt: done with a result, failed with a text, or rerun.

    Raises RunRefused if it is not in doubt, or somebody else has said so first.
    """
    identity = _in_doubt(app, namespace, run, key, sequence)
    codec = runtime.of(app).codec
    where: dict[str, Any] = {"namespace": namespace, "key": identity[0], "sequence": identity[1]}
    data = b""
    if how == "done":
        data = codec.encode(value, where="done", hint=PLAIN, **where)
    elif how == "failed":
        data = codec.encode_failure(StepFailed(value), **where)
    said = pack_resolve(str(run), identity, how, data)
    ask(app, namespace, run, "resolve", said)
    first = _first_word(app, namespace, identity)
    if first not in (None, said):
        raise RunRefused(
            f"Step {identity[0]!r} (occurrence {identity[1]}) of run {run.id} was resolved by somebody else a moment before, "
            "and that counts: see its records."
        )


def _first_word(app: Celery, namespace: str, identity: Identity) -> bytes | None:
    """What was said first of a step, since it was begun last. None: nothing, or it was begun anew."""
    first = None
    for entry in runtime.of(app).main_store.entries(namespace):
        if entry.kind == "intent" and tuple(read(entry)[:2]) == identity:
            first = None
        elif entry.kind == "resolve" and tuple(read(entry)[1:3]) == identity and first is None:
            first = entry.data
    return first


def _in_doubt(app: Celery, namespace: str, run: RunId, key: str | None, sequence: int) -> Identity:
    journal, status = journal_of(app, namespace, run), runtime.of(app).main_store.status(namespace, run)
    doubts = list(journal.intents)
    named = ", ".join(f"{key!r} (occurrence {sequence})" for key, sequence in doubts) or "none"
    found = [doubt for doubt in doubts if key is None or doubt == (key, sequence)]
    if status != "in_doubt" or not found:
        asked = "nothing" if key is None else f"{key!r} (occurrence {sequence})"
        raise RunRefused(
            f"Run {run.id} ({run.task}) in namespace {namespace!r} is {status}; steps in doubt: {named}. "
            f"There is nothing to resolve{'' if key is None else f' about {asked}'}."
        )
    if len(found) > 1:
        raise RunRefused(f"Run {run.id} has several steps in doubt: {named}. Name one by its key.")
    return found[0]


def cancel_unknown(app: Celery, task_id: str) -> None:
    """A task that has not begun a step: a mark for its first claim, and Celery's revoke for the workers that run now."""
    runtime.of(app).main_store.mark_cancelled(task_id)
    try:
        app.control.revoke(task_id)
    except Exception as error:  # the broker is away: the mark counts, and workers that hear of it only spare the task's start
        logger.warning("Task %s is cancelled at its first step; workers could not be told to drop it before: %s", task_id, error)

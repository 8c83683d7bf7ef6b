"""A run once more: the same one from where it failed, or a copy of it from one of its steps."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend

from celery_steps.engine.entries import (
    Identity,
    Step,
    Wait,
    pack_call,
    pack_intent,
    pack_reopen,
    pack_resolve,
    pack_step,
)
from celery_steps.engine.identity import check_namespace
from celery_steps.engine.journal import Journal
from celery_steps.errors import JournalLost, RunRefused, StepsError
from celery_steps.store.index import Index
from celery_steps.store.keys import FINAL, RunId
from celery_steps.store.replies import Append
from celery_steps.store.store import Store
from celery_steps.worker import messages, runtime
from celery_steps.worker.control import journal_of

logger = logging.getLogger("celery_steps")

#: What ties a message to others: a copy has none of it.
_TIES = ("chord", "chain", "group_id", "group_index", "link", "link_error", "reply_to", "root_id", "parent_id")


def retry(app: Celery, namespace: str, run: RunId, from_step: str | None, sequence: int) -> None:
    """Let a failed or cancelled run begin again, at once.

    Recorded results stay, failures are done anew, and what was undone. With `from_step` that step and all that was recorded
    after it is done anew. A rollback that was left undone goes on instead. RunRefused, JournalLost, and StepsError for a result
    backend that cannot be reached: nothing was changed. A broker that is away is no error, as the sweepers have the ticket.
    """
    store = runtime.of(app).main_store
    journal = journal_of(app, namespace, run)
    undoing = from_step is None and any(step not in journal.undone for step in journal.undoable) and journal.rollback is not None
    anew = [] if undoing else _anew(journal, _from(journal, namespace, from_step, sequence))
    times = int(store.fields(namespace).get(f"{run}:reopened") or 0) + 1
    message = store.message(namespace, run)
    begun = b"" if message is None else messages.begun_anew(app, message, times)  # REOPEN refuses a run without a message
    before, answer = None, ""
    ignored = message is None or messages.opened(app, message)[3].get("ignore_result")
    # Celery's rpc:// sends a result to who asked, once: there is nothing to take out.
    kept = not ignored and not isinstance(app.backend, (DisabledBackend, RPCBackend))
    if not undoing and kept and store.status(namespace, run) in ("failed", "cancelled"):
        before = _taken_out(app, store, namespace, run)
    try:
        answer, status = store.reopen(namespace, run, uuid4().hex, pack_reopen(str(run), anew, undoing), begun, times, undoing)
    finally:
        if answer != "OK" and before is not None:
            _put_back(app, store, namespace, run, before)
    where = f"Run {run.id} ({run.task}) in namespace {namespace!r}"
    if answer == "LOST":
        raise JournalLost(f"{where} has lost its journal or its message: send the task again.")
    if answer == "UNKNOWN":
        raise RunRefused(f"{where} is not known any more.")
    if answer == "REFUSED":
        instead = "To do it once more, fork it." if status == "succeeded" else "Only what failed or was cancelled can be retried."
        raise RunRefused(f"{where} is {status}, so it cannot be retried. {instead}")
    messages.publish_soon(app, store, namespace, run)


def _taken_out(app: Celery, store: Store, namespace: str, run: RunId) -> dict[str, Any]:
    """Take out the old end, which must not be taken for the new one: before it begins again, or this would lie over that."""
    before: dict[str, Any] | None = None
    try:
        before = app.backend.get_task_meta(run.id)
        app.backend.store_result(run.id, {"waiting_for": "retry", "until": None}, "SUSPENDED")
    except Exception as error:
        if before is not None:  # it may have been stored, and only its answer lost
            _put_back(app, store, namespace, run, before)
        raise StepsError(
            f"Run {run.id} ({run.task}) was not retried, as the result backend cannot be used: {error!r}. "
            "Retry it once that answers."
        ) from error
    return before


def _put_back(app: Celery, store: Store, namespace: str, run: RunId, before: dict[str, Any]) -> None:
    """It was not reopened: whoever asks for its result would wait for ever."""
    try:
        final = store.status(namespace, run) in FINAL
    except StepsError:  # Redis is away, and nobody can tell: one that was reopened after all will store its new end
        final = True
    try:
        if final and app.backend.get_state(run.id) == "SUSPENDED":
            app.backend.store_result(run.id, before["result"], before["status"], traceback=before.get("traceback"))
    except Exception as error:
        logger.error("Run %s stays %s, and its result backend may say SUSPENDED: %r. Retry it.", run, before["status"], error)


def fork(app: Celery, namespace: str, run: RunId, from_step: str | None, sequence: int, to: str | None) -> str:
    """Start a copy of a run, with what it recorded before `from_step`, in a namespace of its own. Returns the new task id.

    The copy has the arguments, and none of the callbacks, chain, group and chord. RunRefused if the namespace has a journal.
    StepsError if it cannot be sent: no copy is left.
    """
    store, codec, id = runtime.of(app).main_store, runtime.of(app).codec, str(uuid4())
    to = id if to is None else check_namespace(to, "fork's namespace")
    message = store.message(namespace, run)
    if message is None:
        raise JournalLost(f"The message of run {run.id} is gone: it cannot be forked.")
    name, args, kwargs, options = messages.opened(app, message)
    journal = journal_of(app, namespace, run)
    first = _from(journal, namespace, from_step, sequence)
    standing = [step for id, step in journal.steps.items() if id not in journal.undone]
    copied = [step for step in standing if first is None or _order(step) < _order(first)]
    copy = store.bind(to, RunId(run.task, id), f"fork/{id}", app.main or "").elsewhere(to)
    if any(True for _ in store.entries(to)):
        raise RunRefused(f"Namespace {to!r} has a journal: fork into another one.")
    there = Journal(copy, str(run))
    claim = there.borrow(pack_call(copy.token, str(run), run.task, None, 0))
    if claim.verdict != "OK":
        raise RunRefused(f"Namespace {to!r} is in use: fork into another one.")
    entries = [entry for step in copied for entry in _copied(codec, namespace, to, step, str(run))]
    if first is None:  # a doubt is one of the copy's, too
        entries += [("intent", pack_intent(identity, digest, False)) for identity, (digest, _) in journal.intents.items()]

    def send(before: str, after: str, ids: list[str]) -> Append:
        return copy.giveback(before, after, [(id, *entry) for id, entry in zip(ids, entries, strict=True)])

    if entries:
        there.write(send, entries)
    else:
        copy.giveback("", "", [])
    try:
        app.send_task(name, args, kwargs, task_type=app.tasks.get(name), add_to_parent=False, **_untied(options, id, to))
    except Exception as error:
        store.mark_cancelled(id)  # it may have been sent all the same, and would begin with nothing recorded
        Index(store).purge([("cancelled", to, RunId(run.task, id))])
        raise StepsError(
            f"Run {run.id} ({run.task}) was not forked, as the copy cannot be sent: {error!r}. Fork it once the broker answers."
        ) from error
    return id


def _order(step: Step | Wait) -> tuple[int, int]:
    ms, _, n = step.id.partition("-")
    return int(ms), int(n)


def _from(journal: Journal, namespace: str, key: str | None, sequence: int) -> Step | None:
    if key is None:
        return None
    step = journal.steps.get((key, sequence))
    if step is None:
        known = ", ".join(f"{key!r} ({sequence})" for key, sequence in list(journal.steps)[:20]) or "none"
        raise RunRefused(
            f"There is no recorded step {key!r} (occurrence {sequence}) in namespace {namespace!r}. Recorded steps: {known}."
        )
    return step


def _anew(journal: Journal, first: Step | None) -> list[Identity]:
    own = {id: step for id, step in journal.steps.items() if journal.writers.get(id) == journal.run}
    anew = [id for id, step in own.items() if (not step.ok and id not in journal.once) or id in journal.undone]
    # What was waited for when it ended: the child was cancelled with it.
    open = [wait for id, wait in journal.waits.items() if id not in journal.steps and journal.writers.get(id) == journal.run]
    anew += [(wait.key, wait.sequence) for wait in open if wait.verb == "run_task"]
    if first is not None:
        begun: list[tuple[Identity, Step | Wait]] = [*own.items(), *(((wait.key, wait.sequence), wait) for wait in open)]
        anew += [id for id, one in begun if _order(one) >= _order(first) and id not in anew]
    return anew


def _copied(codec: Any, namespace: str, to: str, step: Step, run: str) -> list[tuple[str, bytes]]:
    old = {"namespace": namespace, "key": step.key, "sequence": step.sequence}
    new = {**old, "namespace": to}
    input = None if step.input is None else codec.moved(step.input, old, new)
    value = codec.moved(step.value, old, new)
    identity = (step.key, step.sequence)
    if step.said:  # and no attempt has come by since
        return [("intent", pack_intent(identity, step.digest, False)), ("resolve", pack_resolve(run, identity, "done", value))]
    return [("step", pack_step(identity, step.digest, step.ok, value, input, step.began, step.took, step.verb, step.undo))]


def _untied(options: dict[str, Any], id: str, namespace: str) -> dict[str, Any]:
    """The options of a copy."""
    kept = {option: value for option, value in options.items() if option not in _TIES}
    original = (messages.TICKET, messages.REOPENED)
    headers = {name: value for name, value in (options.get("headers") or {}).items() if name not in original}
    kept.pop("replaced_task_nesting", None)
    return kept | {"task_id": id, "retries": 0, "headers": {**headers, messages.NAMESPACE: namespace}}

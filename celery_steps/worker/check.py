"""A rehearsal: an open run's body over its journal, with the code as it is now. Nothing is written, no handler called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject, Retry

from celery_steps.codec import input_digest
from celery_steps.engine.attempt import Attempt, current
from celery_steps.engine.entries import Identity
from celery_steps.engine.history import History
from celery_steps.engine.memory import MemoryStore
from celery_steps.errors import AttemptEnded, InputMismatch, ResultError, StepsError
from celery_steps.store.keys import RunId
from celery_steps.store.replies import Claim, Entry
from celery_steps.worker import messages, runtime
from celery_steps.worker.result import Result


@dataclass(frozen=True)
class Check:
    """What the code as it is now would make of an open run."""

    namespace: str
    id: str
    task: str
    status: str
    diverges: str = ""  # how recorded and attempted differ
    unmet: tuple[tuple[str, int], ...] = ()  # recorded (key, occurrence) that the code does not come by any more
    next: tuple[str, int] | None = None  # the step that would newly run

    @property
    def ok(self) -> bool:
        return not self.diverges and not self.unmet


class Rehearsed(AttemptEnded):
    """The rehearsal came to where the run really goes on."""


class Script(MemoryStore):
    """A journal as it was read. What would be written ends the rehearsal before."""

    def __init__(self, namespace: str, entries: list[Entry]) -> None:
        super().__init__(namespace)
        self.entries = entries
        self._fence = max((int(entry.id.partition("-")[0]) for entry in entries), default=0)

    def claim(self, nonce: str, entry: bytes, **options: Any) -> tuple[Claim, list[Entry]]:
        return self._grant("attempt", entry)


class Rehearsal(Attempt):
    """An attempt that ends where it would do something new."""

    rehearses = True

    def before_effect(self) -> None:
        self.ended = Rehearsed()
        raise self.ended


def check(app: Celery, namespace: str, run: RunId, status: str) -> Check:
    """Rehearse one run: how would the code diverge from what is recorded, and what would it do next?"""
    store = runtime.of(app).main_store
    return rehearse(app, namespace, run, status, store.message(namespace, run), lambda: list(store.entries(namespace)))


def rehearse(
    app: Celery,
    namespace: str,
    run: RunId,
    status: str,
    message: bytes | None,
    journal: Callable[[], list[Entry]],
    task: Any = None,
) -> Check:
    """As `check`, of what was read before: the run's message and its journal. Of a run that is over, also its end.

    `task`: by default the one of the run's name.
    """
    known: dict[str, Any] = {"namespace": namespace, "id": run.id, "task": run.task, "status": status}
    task = app.tasks.get(run.task) if task is None else task
    if task is None or not hasattr(task, "step"):
        return Check(**known, diverges=f"There is no durable task {run.task!r} in this code.")
    if message is None:
        return Check(**known, diverges="Its message is gone from Redis: it cannot be delivered again.")
    try:
        _, args, kwargs, options = messages.opened(app, message, task)
    except StepsError as error:
        return Check(**known, diverges=f"Its message cannot be read: {error}")
    attempt = Rehearsal(
        store=Script(namespace, journal()),
        run=str(run),
        run_id=run.id,
        task=run.task,
        token="check",
        codec=runtime.codec_of(app),
        call_digest=lambda: input_digest([list(args), dict(kwargs)]),
        passing=(Retry, Ignore, Reject),
        max_crashes=1 << 30,
    )
    diverges = _rehearse(task, attempt, args, kwargs, options)
    unmet = _unmet(attempt) if not diverges else ()
    return Check(**known, diverges=diverges, unmet=unmet, next=_next(attempt))


def _rehearse(task: Any, attempt: Attempt, args: Any, kwargs: Any, options: dict[str, Any]) -> str:
    headers = {name: value for name, value in (options.get("headers") or {}).items() if name != messages.TICKET}
    task.push_request(
        id=attempt.run_id, args=args, kwargs=kwargs, retries=options.get("retries", 0), headers=headers, called_directly=False
    )
    attempt.request = task.request
    token = current.set(attempt)
    try:
        attempt.open()
        return _other_end(task, attempt, task.run(*args, **kwargs))
    except Rehearsed:
        return _goes_on(attempt)
    except InputMismatch as error:
        return str(error)
    except AttemptEnded:  # it would end here: cancelled, say
        pass
    except Exception as error:
        finish = attempt.journal.finishes.get(attempt.run)
        if finish is not None and finish.outcome == "failed":
            return _other_failure(attempt.codec.decode_failure(finish.value), error)
        if not any(error is raised for raised, _ in attempt.raised):
            return f"The body raises {error!r} before it comes to where the run goes on."
    finally:
        attempt.active = False
        current.reset(token)
        task.pop_request()
    return ""


def _other_end(task: Any, attempt: Attempt, value: Any) -> str:
    """The body came to its end: how that differs from a recorded one."""
    finish = attempt.journal.finishes.get(attempt.run)
    if finish is None or finish.outcome in ("ignored", "replaced", "rejected"):
        return ""
    if finish.outcome != "succeeded":
        return f"The body returns {value!r:.200}, the recorded run ended as {finish.outcome}."
    result = Result(task, task.request)
    try:
        recorded, given = result.decoded(finish.value), result.decoded(result.encoded(value))
    except ResultError as error:
        return str(error)
    return "" if given == recorded else f"The body returns {given!r:.200}, the recorded run returned {recorded!r:.200}."


def _goes_on(attempt: Attempt) -> str:
    """The body came to something new, which a run that had succeeded did not do."""
    finish = attempt.journal.finishes.get(attempt.run)
    if finish is None or finish.outcome != "succeeded" or attempt.at is None:
        return ""
    key, sequence = attempt.at
    return f"The body comes to the new step {key!r} (occurrence {sequence}), the recorded run had ended without it."


def _other_failure(recorded: Exception, error: Exception) -> str:
    if type(recorded) is type(error) and str(recorded) == str(error):
        return ""
    return f"The body raises {error!r:.200}, the recorded run failed with {recorded!r:.200}."


def _unmet(attempt: Attempt) -> tuple[Identity, ...]:
    """Steps recorded by this run that the code has not come by."""
    seen = {(key, nth + 1) for (ns, key), count in attempt.seen.items() if ns == attempt.namespace for nth in range(count)}
    history = History.of(attempt.store.read("-"))
    own = [past.identity for past in history.steps if past.attempt is not None and past.attempt.run == attempt.run]
    steps = attempt.journal.steps
    # An answer of step.patched is there to be taken out of the code.
    left = [step for step in own if step in steps and steps[step].verb != "patched" and step not in seen]
    return tuple(dict.fromkeys(left))


def _next(attempt: Attempt) -> Identity | None:
    """The step that would newly run. A wait that was begun is none."""
    known = attempt.journal.steps.keys() | attempt.journal.waits.keys()
    return attempt.at if attempt.at is not None and attempt.at not in known else None

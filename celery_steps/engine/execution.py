"""A step's handler is called, tried again, given up, and what came of it is recorded."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache, partial
from typing import Any

from celery_steps.codec import PLAIN, Codec, fit
from celery_steps.engine import entries as fmt
from celery_steps.engine import news
from celery_steps.engine.at_most_once import Known, doubt, intend
from celery_steps.engine.attempt import Attempt, handling
from celery_steps.engine.borrow import borrowed
from celery_steps.engine.entries import Identity, Step
from celery_steps.engine.failure import Failure, record
from celery_steps.engine.identity import NO_INPUT, idempotency_key
from celery_steps.engine.journal import Journal
from celery_steps.engine.loops import wait_for
from celery_steps.engine.pause import Pause, rest
from celery_steps.engine.retry import RetryPolicy
from celery_steps.engine.timeout import within
from celery_steps.errors import NoActiveRun, ResultError, StepTimeout
from celery_steps.times import duration

logger = logging.getLogger("celery_steps")

Append = Callable[[Sequence[tuple[str, bytes]]], None]

_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
#: Rests as short as this, in ms, stay in the worker.
_SHORT = 1000


@dataclass(frozen=True, slots=True)
class CurrentStep:
    """The step whose handler runs.

    `try_number` counts from 1; `idempotency_key` is the same over every attempt, for the service that the handler calls.
    """

    key: str
    sequence: int
    namespace: str
    try_number: int
    idempotency_key: str


#: The step whose handler runs in this context.
executing: ContextVar[CurrentStep | None] = ContextVar("celery_steps_current_step", default=None)


def current_step() -> CurrentStep:
    """The step whose handler is running in this context. Raises NoActiveRun outside a handler."""
    step = executing.get()
    if step is None:
        raise NoActiveRun("There is no step here: current_step() is for a handler that step.run calls.")
    return step


def step_of_handler(attempt: Attempt) -> CurrentStep | None:
    """The step whose handler speaks, None: the body does."""
    return executing.get() if attempt.in_handler else None


@dataclass(slots=True)
class Call:
    """One call of step.run, its arguments checked."""

    attempt: Attempt
    namespace: str
    identity: Identity
    handler: Callable[..., Any]
    gets_input: bool
    input: Any
    digest: bytes | None
    options: dict[str, Any]
    verb: str
    failures: list[Failure]  # where its own is put

    @property
    def where(self) -> dict[str, Any]:
        return {"namespace": self.namespace, "key": self.identity[0], "sequence": self.identity[1]}

    @property
    def hint(self) -> Any:
        return hint_of(self.handler, self.options)

    @property
    def undo(self) -> bool:
        return self.options.get("rollback") is not None


def execute(call: Call, journal: Journal, append: Append) -> Any:
    """Call the handler until the step has an outcome, which is recorded. The run leaves between tries that are far apart."""
    while True:
        if journal.due:
            _rest_until(call, journal.due.get(call.identity, 0))
        done = _try(call, journal, append)
        if done is not None:
            return done.value


def _try(call: Call, journal: Journal, append: Append) -> Known | None:
    """One call of the handler. None: it failed, and is tried again."""
    attempt, options, hint = call.attempt, call.options, call.hint
    attempt.before_effect()
    step = _begin(call, journal)
    known = _said(call, journal)
    if known is None and options.get("at_most_once"):
        known = _intended(call, step)
    began, returned = attempt.clock(), False
    try:
        value = _called(call, step) if known is None else known.value
        returned = True
        encoded = attempt.codec.encode(value, where="result", hint=hint, **call.where)
    except attempt.passing:
        raise
    except Exception as error:
        retries = options.get("retry") is not None and not isinstance(error, attempt.prompt)
        if retries and not returned and _retried(call, journal, step.try_number, error, began):
            return None
        if options.get("at_most_once") and isinstance(error, (StepTimeout, *attempt.prompt)):
            doubt(attempt, call.identity)  # it may have had its effect all the same
        call.failures.append(failure_of(call, error, began))
        if retries or options.get("at_most_once"):
            _record_failure(call)
        raise
    reference = _referred(call, step, value, began) if attempt.before_commit is not None else None
    took = attempt.clock() - began
    entry = fmt.pack_step(call.identity, call.digest, True, encoded, _input(call), began, took, call.verb, call.undo, reference)
    try:
        append([("step", entry)])
    finally:
        recorded = journal.steps.get(call.identity)
        if recorded is not None and not recorded.said:  # also where a signal in the middle of the commit is raised after it
            news.of_step(attempt, "step_executed", call.identity, call.verb, began, took, namespace=call.namespace)
    # What the first call returns and what a replay returns are the same: the decoded record.
    return Known(value if type(value) in _ATOMS else attempt.codec.decode(encoded, hint=hint, **call.where))


def _begin(call: Call, journal: Journal) -> CurrentStep:
    """The step, with the number of this try. It is recorded where it must be known after a crash."""
    attempt, identity = call.attempt, call.identity
    # After a crash the next attempt records what it begins: so the poison step has a name.
    recorded = attempt.records_starts or call.options.get("retry") is not None
    if recorded and not call.options.get("at_most_once"):  # that records its intent
        attempt.append([("start", fmt.pack_start(identity))], record=False)
        number = attempt.journal.started[identity]
    else:
        number = attempt.journal.started[identity] + 1
    key = idempotency_key(call.namespace, identity, journal.epoch, journal.redone[identity])
    return CurrentStep(*identity, call.namespace, number, key)


def _called(call: Call, step: CurrentStep) -> Any:
    around = call.attempt.around
    handler = call.handler if around is None else partial(around, step, call.verb, call.handler)
    token, handling_token = executing.set(step), handling.set(call.attempt)
    try:
        timeout = call.options.get("timeout") if call.options else None
        if timeout is not None:
            return within(duration(timeout, "timeout"), step.key, partial(handler, call.input) if call.gets_input else handler)
        value = handler(call.input) if call.gets_input else handler()
        return wait_for(value) if inspect.isawaitable(value) else value
    finally:
        handling.reset(handling_token)
        executing.reset(token)


def _intended(call: Call, step: CurrentStep) -> Known | None:
    reconcile = call.options.get("reconcile")
    input = None if call.input is NO_INPUT else call.input
    ask = None if reconcile is None else lambda: reconcile(input, step.idempotency_key)
    return intend(call.attempt, call.identity, call.digest, call.undo, ask)


def _said(call: Call, journal: Journal) -> Known | None:
    """What an operator said that this step came to. Where it does not fit the code, the step is in doubt again."""
    step = journal.steps.get(call.identity)
    if step is None or not step.said:
        return None
    try:
        value = said_value(call.attempt.codec, step, call.hint, **call.where)
        call.attempt.codec.encode(value, where="result", hint=call.hint, **call.where)  # as it will be recorded
        return Known(value)
    except ResultError as error:
        if call.namespace != call.attempt.namespace:
            raise
        why = f"what was said of it cannot be its result: {error}"
        logger.warning("%s[%s]: step %r is in doubt again: %s", call.attempt.task, call.attempt.run_id, call.identity[0], why)
        call.attempt.append([("intent", fmt.pack_intent(call.identity, call.digest, call.undo))], record=False)
        doubt(call.attempt, call.identity, why)
        raise


def said_value(codec: Codec, step: Step, hint: Any, **where: Any) -> Any:
    """What was said of a step, in the classes that the hint names. ResultError says what does not fit."""
    return fit(codec.decode(step.value, hint=hint, **where), hint)


def _referred(call: Call, step: CurrentStep, value: Any, began: int) -> bytes:
    """What the task's before_commit returns, to be kept with the record. If it raises, there is no record."""
    attempt = call.attempt
    assert attempt.before_commit is not None
    try:
        reference = attempt.before_commit(step, value)
        return attempt.codec.encode(reference, where="what before_commit returns", hint=PLAIN, **call.where)
    except Exception as error:
        if not call.options.get("at_most_once"):  # its effect is there: that stays a doubt
            call.failures.append(failure_of(call, error, began))
        raise


# -- tries ----------------------------------------------------------------------------------------------------------------


def _retried(call: Call, journal: Journal, number: int, error: Exception, began: int) -> bool:
    """Whether a failed try is followed by another, which is recorded with its time."""
    attempt = call.attempt
    pause = RetryPolicy.of(call.options["retry"]).pause(number - journal.spent.get(call.identity, 0), error)
    if pause is None:
        return False
    due = attempt.now_ms() + int(pause * 1000)
    failure = attempt.codec.encode_failure(error, **call.where)
    tried = fmt.pack_tried(call.identity, due, failure, began, attempt.clock() - began)
    attempt.append([("tried", tried)], record=False)
    when = began, attempt.clock() - began
    news.of_step(attempt, "step_failed", call.identity, call.verb, *when, error=error, recorded=False, next_try=due)
    return True


def _rest_until(call: Call, due: int) -> None:
    """The pause before the next try: in the worker where it is short."""
    left = due - call.attempt.now_ms() if due else 0
    if left > _SHORT:
        key, sequence = call.identity
        until = datetime.fromtimestamp(due / 1000, timezone.utc).isoformat()
        told = {"key": key, "sequence": sequence, "waiting_for": "retry", "until": until}
        rest(call.attempt, Pause(f"retry of {key!r} (occurrence {sequence})", due, told))
    elif left > 0 and call.attempt.store.skipped_ms is None:
        call.attempt.timer.sleep(left / 1000)


def _record_failure(call: Call) -> None:
    """No try is left: what the last one raised is the outcome."""
    while call.failures:
        record(call.attempt, [call.failures.pop()])


def failure_of(call: Call, error: Exception, began: int, cause: BaseException | None = None, *, called: bool = True) -> Failure:
    """This step has no result, but `error`. `cause`: what leaves the body for it, if that is another."""
    took = call.attempt.clock() - began

    def pack() -> bytes:
        value = call.attempt.codec.encode_failure(error, **call.where)
        return fmt.pack_step(call.identity, call.digest, False, value, _input(call), began, took, call.verb)

    def elsewhere(entries: Sequence[tuple[str, bytes]]) -> None:
        borrowed(call.attempt, call.namespace, call.identity[0], lambda journal, give_back: give_back(entries))

    commit = call.attempt.append if call.namespace == call.attempt.namespace else elsewhere
    return Failure(call.identity, error, pack, commit, cause or error, called, call.verb, began, took, call.namespace)


def _input(call: Call) -> bytes | None:
    if call.input is NO_INPUT or not call.options.get("record_input", call.attempt.record_input):
        return None
    try:
        return call.attempt.codec.encode(call.input, where="input", hint=PLAIN, **call.where)
    except ResultError:  # too large: it is hashed and not stored
        return None


def hint_of(handler: Any, options: dict[str, Any]) -> Any:
    """The class to rebuild results as: `returns=`, or the handler's return annotation."""
    if options and options.get("returns") is not None:
        return options["returns"]
    while isinstance(handler, partial):
        handler = handler.func
    if "return" not in getattr(handler, "__annotations__", ()):
        return None
    return _return_annotation(handler)


@lru_cache(maxsize=1024)
def _return_annotation(handler: Any) -> Any:
    try:
        return typing.get_type_hints(handler).get("return")
    except Exception:  # names that are not there at run time (TYPE_CHECKING): as if not annotated
        return None

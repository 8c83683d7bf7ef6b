"""`step.run`: a handler that is executed until its outcome is recorded, and never again after."""

from __future__ import annotations

import inspect
import logging
import time
import typing
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache, partial
from typing import Any

from celery_steps.codec import PLAIN, input_digest
from celery_steps.engine import entries as fmt
from celery_steps.engine.at_most_once import Known, check_at_most_once, doubt, intend
from celery_steps.engine.attempt import Attempt, Failure
from celery_steps.engine.borrow import borrowed
from celery_steps.engine.entries import Identity, Step
from celery_steps.engine.identity import NO_INPUT, bind, check_key, check_namespace, check_options, idempotency_key
from celery_steps.engine.journal import Journal
from celery_steps.engine.loops import wait_for
from celery_steps.engine.retry import RetryPolicy
from celery_steps.engine.timeout import within
from celery_steps.errors import InputMismatch, NoActiveRun, ResultError, StepsError, StepTimeout
from celery_steps.times import duration

Append = Callable[[Sequence[tuple[str, bytes]]], None]

logger = logging.getLogger("celery_steps")

OPTIONS = ("namespace", "retry", "timeout", "at_most_once", "reconcile", "rollback", "returns", "record_input", "on_input_change")
#: Rests as short as this, in ms, stay in the worker.
_SHORT = 1000
_ATOMS = frozenset({type(None), bool, int, float, str, bytes})


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


_current_step: ContextVar[CurrentStep | None] = ContextVar("celery_steps_current_step", default=None)


def current_step() -> CurrentStep:
    """The step whose handler is running in this context. Raises NoActiveRun outside a handler."""
    step = _current_step.get()
    if step is None:
        raise NoActiveRun("There is no step here: current_step() is for a handler that step.run calls.")
    return step


@dataclass(slots=True)
class _Call:
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

    @property
    def where(self) -> dict[str, Any]:
        return {"namespace": self.namespace, "key": self.identity[0], "sequence": self.identity[1]}

    @property
    def undo(self) -> bool:
        return self.options.get("rollback") is not None

    @property
    def hint(self) -> Any:
        return _hint(self.handler, self.options)


def run_step(attempt: Attempt, key: str, input: Any, handler: Any, options: dict[str, Any], verb: str = "run") -> Any:
    """Return the recorded result of this step, or call its handler and record what comes of it.

    The input of another `verb` that is done as a step is recorded, and not checked on replay.
    """
    if type(key) is not str or not key or key.isspace():
        check_key(key)
    if options:
        _check(key, options)
    gets_input, given = bind(key, input, handler)
    digest = None if given is NO_INPUT or verb != "run" else input_digest(given)
    attempt.enter(verb)
    namespace = options.get("namespace", attempt.namespace) if options else attempt.namespace
    place = (namespace, key)
    sequence = attempt.seen[place] = attempt.seen.get(place, 0) + 1
    identity = attempt.at = (key, sequence)
    if options and options.get("rollback") is not None:
        attempt.undos[identity] = options["rollback"], _hint(handler, options)
    recorded = attempt.journal.steps.get(identity)
    if (
        recorded is not None
        and recorded.digest == digest
        and recorded.ok
        and recorded.verb == verb
        and namespace == attempt.namespace
    ):
        hint = _hint(handler, options)  # the usual case of a replay, which is all that a long run does for a while
        return attempt.codec.decode(recorded.value, hint=hint, namespace=namespace, key=key, sequence=sequence)
    call = _Call(attempt, namespace, identity, handler, gets_input, given, digest, options, verb)
    if namespace != attempt.namespace:
        return _run_elsewhere(call)
    if recorded is not None:
        return _replay(call, recorded)
    return _execute(call, attempt.journal, attempt.append)


def _check(key: str, options: dict[str, Any]) -> None:
    check_options(options, OPTIONS)
    check_at_most_once(key, options)
    if options.get("retry") is not None:
        RetryPolicy.of(options["retry"])
        if options.get("namespace") is not None:
            raise StepsError(f"step.run({key!r}): retry= works in the run's own namespace only, not with namespace=.")
    if options.get("rollback") is not None:
        if not callable(options["rollback"]):
            raise StepsError(f"step.run({key!r}): rollback must be callable with the result, not {options['rollback']!r:.80}.")
        if options.get("namespace") is not None:
            raise StepsError(f"step.run({key!r}): rollback= works in the run's own namespace only, not with namespace=.")
    if options.get("timeout") is not None and duration(options["timeout"], f"step.run({key!r})'s timeout") <= 0:
        raise StepsError(f"step.run({key!r})'s timeout must be more than 0.")
    if "namespace" in options:
        check_namespace(options["namespace"], "step.run's namespace")
    if options.get("on_input_change", "raise") not in ("raise", "warn"):
        raise StepsError(f'on_input_change must be "raise" or "warn", not {options["on_input_change"]!r}.')


# -- replay -------------------------------------------------------------------------------------------------------------


def _replay(call: _Call, step: Step) -> Any:
    check_verb(call.namespace, step, call.verb)
    if step.digest != call.digest:
        _mismatch(call, step)
    codec = call.attempt.codec
    if step.ok:
        key, sequence = call.identity
        return codec.decode(step.value, hint=call.hint, namespace=call.namespace, key=key, sequence=sequence)
    error = codec.decode_failure(step.value, **call.where)
    if not call.options.get("at_most_once"):
        call.attempt.raised.append((error, call.identity))
    raise error


def check_verb(namespace: str, step: Step, verb: str) -> None:
    """InputMismatch where this identity was recorded by another verb."""
    if step.verb != verb:
        raise InputMismatch(
            f"Step {step.key!r} (occurrence {step.sequence}) in namespace {namespace!r} was recorded by step.{step.verb}, and is "
            f"asked for by step.{verb} now. Give one of them another key."
        )


def _mismatch(call: _Call, step: Step) -> None:
    key, sequence = call.identity
    text = (
        f"Step {key!r} (occurrence {sequence}) in namespace {call.namespace!r} was recorded with another input: recorded hash "
        f"{fmt.hash_text(step.digest)}, this call's hash {fmt.hash_text(call.digest)}."
    )
    if step.input is not None and call.input is not NO_INPUT:
        codec = call.attempt.codec
        recorded = codec.decode(step.input, hint=PLAIN, **call.where)
        given = codec.decode(codec.encode(call.input, hint=PLAIN, limit=False, **call.where), hint=PLAIN, **call.where)
        text += f" They differ in: {'; '.join(_differences(recorded, given, 'input')[:5])}."
    if call.options.get("on_input_change", "raise") == "raise":
        raise InputMismatch(text + ' Give the step another key, or on_input_change="warn" to keep the recorded result.')
    logger.warning("%s The recorded result is kept.", text)


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if type(old) is type(new) and isinstance(old, dict):
        found: list[str] = []
        for name in [*old, *(name for name in new if name not in old)]:
            found += _differences(old.get(name, "(absent)"), new.get(name, "(absent)"), f"{path}[{name!r}]")
        return found
    if type(old) is type(new) and isinstance(old, (list, tuple)) and len(old) == len(new):
        return [line for i, pair in enumerate(zip(old, new, strict=True)) for line in _differences(*pair, f"{path}[{i}]")]
    return [] if type(old) is type(new) and old == new else [f"{path} was {old!r:.80}, is {new!r:.80}"]


# -- execution ----------------------------------------------------------------------------------------------------------


def _execute(call: _Call, journal: Journal, append: Append) -> Any:
    """Call the handler until the step has an outcome, which is recorded. Suspends between tries that are far apart."""
    while True:
        _rest_until(call, journal.due.get(call.identity, 0))
        done = _try(call, journal, append)
        if done is not None:
            return done.value


def _try(call: _Call, journal: Journal, append: Append) -> Known | None:
    """One call of the handler. None: it failed, and is tried again."""
    attempt, options, hint = call.attempt, call.options, call.hint
    attempt.before_effect()
    number = _begin(call, journal)
    known = _intended(call, journal, number) if options.get("at_most_once") else None
    began = attempt.clock()
    try:
        value = _called(call, journal, number) if known is None else known.value
        encoded = attempt.codec.encode(value, where="result", hint=hint, **call.where)
    except attempt.passing:
        raise
    except Exception as error:
        if _retried(call, journal, number, error):
            return None
        attempt.failure = _failure(call, error, began)
        if options.get("retry") is not None or options.get("at_most_once"):
            _final(call, error)
        raise
    reference = _referred(call, journal, number, value, began) if attempt.before_commit is not None else None
    record = fmt.pack_step(
        call.identity, call.digest, True, encoded, _input(call), began, attempt.clock() - began, call.verb, call.undo, reference
    )
    append([("step", record)])
    # What the first call returns and what a replay returns are the same: the decoded record.
    return Known(value if type(value) in _ATOMS else attempt.codec.decode(encoded, hint=hint, **call.where))


def _referred(call: _Call, journal: Journal, number: int, value: Any, began: int) -> bytes:
    """What the task's before_commit returns, to be kept with the record. If it raises, there is no record."""
    attempt = call.attempt
    assert attempt.before_commit is not None
    try:
        reference = attempt.before_commit(_step_of(call, journal, number), value)
        return attempt.codec.encode(reference, where="what before_commit returns", hint=PLAIN, **call.where)
    except Exception as error:
        if not call.options.get("at_most_once"):  # its effect is there: that stays a doubt
            attempt.failure = _failure(call, error, began)
        raise


def _step_of(call: _Call, journal: Journal, number: int) -> CurrentStep:
    key, sequence = call.identity
    return CurrentStep(key, sequence, call.namespace, number, idempotency_key(call.namespace, call.identity, journal.epoch))


def _begin(call: _Call, journal: Journal) -> int:
    """The number of this try. It is recorded where it must be known after a crash."""
    attempt, identity = call.attempt, call.identity
    # After a crash the next attempt records what it begins: so the poison step has a name.
    recorded = attempt.records_starts or call.options.get("retry") is not None
    if recorded and not call.options.get("at_most_once"):
        attempt.append([("start", fmt.pack_start(identity))], record=False)
        return attempt.journal.started[identity]
    return attempt.journal.started[identity] + 1


def _called(call: _Call, journal: Journal, number: int) -> Any:
    attempt, key = call.attempt, call.identity[0]
    token = _current_step.set(_step_of(call, journal, number))
    attempt.in_handler = True
    try:
        handler = partial(call.handler, call.input) if call.gets_input else call.handler
        timeout = call.options.get("timeout")
        if timeout is not None:
            return within(duration(timeout, "timeout"), key, handler)
        value = handler()
        return wait_for(value) if inspect.isawaitable(value) else value
    finally:
        attempt.in_handler = False
        _current_step.reset(token)


def _intended(call: _Call, journal: Journal, number: int) -> Known | None:
    reconcile = call.options.get("reconcile")
    input = None if call.input is NO_INPUT else call.input
    key = idempotency_key(call.namespace, call.identity, journal.epoch)
    ask = None if reconcile is None else lambda: reconcile(input, key)
    return intend(call.attempt, call.identity, call.digest, call.undo, ask)


def _retried(call: _Call, journal: Journal, number: int, error: Exception) -> bool:
    """Whether a failed try is followed by another, which is recorded with its time."""
    if call.options.get("retry") is None:
        return False
    attempt = call.attempt
    pause = RetryPolicy.of(call.options["retry"]).pause(number - journal.spent.get(call.identity, 0), error)
    if pause is None:
        return False
    due = attempt.now_ms() + int(pause * 1000)
    tried = ("tried", fmt.pack_tried(call.identity, due, attempt.codec.encode_failure(error, **call.where)))
    if pause * 1000 <= _SHORT:
        attempt.append([tried], record=False)
    else:
        _leave_until(call, due, [tried])
    return True


def _rest_until(call: _Call, due: int) -> None:
    """The pause before the next try goes on: in the worker where it is short."""
    left = due - call.attempt.now_ms() if due else 0
    if left > _SHORT:
        _leave_until(call, due, [])
    if left > 0 and call.attempt.store.skipped_ms is None:
        time.sleep(left / 1000)


def _leave_until(call: _Call, due: int, begins: list[tuple[str, bytes]]) -> None:
    key, sequence = call.identity
    until = datetime.fromtimestamp(due / 1000, timezone.utc).isoformat()
    info = {"key": key, "sequence": sequence, "waiting_for": "retry", "until": until}
    call.attempt.suspend(f"retry of {key!r} (occurrence {sequence})", due, info, begins)


def _final(call: _Call, error: Exception) -> None:
    """No try is left: what the last one raised is the outcome. Of at_most_once it stands, whatever Celery retries."""
    attempt = call.attempt
    if call.options.get("at_most_once") and isinstance(error, (StepTimeout, *attempt.interrupts)):
        attempt.failure = None  # it may have had its effect all the same
        doubt(attempt, call.identity)
    attempt.record_failure()
    if call.options.get("at_most_once"):
        attempt.raised = [pair for pair in attempt.raised if pair[0] is not error]


def _failure(call: _Call, error: Exception, began: int) -> Failure:
    took = call.attempt.clock() - began

    def record() -> None:
        value = call.attempt.codec.encode_failure(error, **call.where)
        entry = fmt.pack_step(call.identity, call.digest, False, value, _input(call), began, took, call.verb)
        call.attempt.raised.append((error, call.identity))
        if call.namespace == call.attempt.namespace:
            call.attempt.append([("step", entry)])
        else:
            borrowed(call.attempt, call.namespace, call.identity[0], lambda journal, give_back: give_back([("step", entry)]))

    return Failure(call.identity, error, record)


def _input(call: _Call) -> bytes | None:
    if call.input is NO_INPUT or not call.options.get("record_input", call.attempt.record_input):
        return None
    try:
        return call.attempt.codec.encode(call.input, where="input", hint=PLAIN, **call.where)
    except ResultError:  # too large: it is hashed and not stored
        return None


def _hint(handler: Any, options: dict[str, Any]) -> Any:
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


# -- another namespace ----------------------------------------------------------------------------------------------------


def _run_elsewhere(call: _Call) -> Any:
    def inside(journal: Journal, give_back: Callable[[Sequence[tuple[str, bytes]]], None]) -> Any:
        recorded = journal.steps.get(call.identity)
        if recorded is None:
            return _execute(call, journal, give_back)
        give_back([])
        return _replay(call, recorded)

    return borrowed(call.attempt, call.namespace, call.identity[0], inside)

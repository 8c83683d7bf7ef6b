"""`step.run`: a handler that is executed until its outcome is recorded, and never again after."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from celery_steps.codec import PLAIN, input_digest
from celery_steps.engine import entries as fmt
from celery_steps.engine.attempt import Attempt, Failure, handling
from celery_steps.engine.borrow import borrowed
from celery_steps.engine.entries import Identity, Step
from celery_steps.engine.identity import NO_INPUT, bind, check_key, check_namespace, check_options, idempotency_key
from celery_steps.engine.journal import Journal
from celery_steps.engine.loops import wait_for
from celery_steps.errors import InputMismatch, NoActiveRun, ResultError, StepsError

logger = logging.getLogger("celery_steps")

OPTIONS = ("namespace", "returns", "record_input", "on_input_change")
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


def step_of_handler(attempt: Attempt) -> CurrentStep | None:
    """The step whose handler speaks, None: the body does."""
    return _current_step.get() if attempt.in_handler else None


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
        return _hint(self.handler, self.options)


def run_step(attempt: Attempt, key: str, input: Any, handler: Any, options: dict[str, Any], verb: str = "run") -> Any:
    """Return the recorded result of this step, or call its handler and record what comes of it.

    The input of another `verb` that is done as a step is recorded, and not checked on replay.
    """
    gets_input, given, digest, namespace, identity = _begin(attempt, key, input, handler, options, verb)
    recorded = attempt.journal.steps.get(identity)
    if (
        recorded is not None
        and recorded.digest == digest
        and recorded.ok
        and recorded.verb == verb
        and namespace == attempt.namespace
    ):
        hint = _hint(handler, options)  # the usual case of a replay, which is all that a long run does for a while
        return attempt.codec.decode(recorded.value, hint=hint, namespace=namespace, key=key, sequence=identity[1])
    call = Call(attempt, namespace, identity, handler, gets_input, given, digest, options, verb, attempt.failures)
    if namespace != attempt.namespace:
        return _run_elsewhere(call)
    if recorded is not None:
        return _replay(call, recorded)
    return execute(call, attempt.journal, attempt.append)


def branch_call(attempt: Attempt, key: str, input: Any, handler: Any, options: dict[str, Any]) -> Call:
    """A step that a branch is to do: checked, and its occurrence counted."""
    gets_input, given, digest, namespace, identity = _begin(attempt, key, input, handler, options, "run")
    return Call(attempt, namespace, identity, handler, gets_input, given, digest, options, "run", [])


def _begin(
    attempt: Attempt, key: str, input: Any, handler: Any, options: dict[str, Any], verb: str
) -> tuple[bool, Any, bytes | None, str, Identity]:
    if type(key) is not str or not key or key.isspace():
        check_key(key)
    if options:
        _check(options)
    gets_input, given = bind(key, input, handler)
    digest = None if given is NO_INPUT or verb != "run" else input_digest(given)
    attempt.enter(verb)
    namespace = options.get("namespace", attempt.namespace) if options else attempt.namespace
    place = (namespace, key)
    sequence = attempt.seen[place] = attempt.seen.get(place, 0) + 1
    identity = attempt.at = (key, sequence)
    return gets_input, given, digest, namespace, identity


def _check(options: dict[str, Any]) -> None:
    check_options(options, OPTIONS)
    if "namespace" in options:
        check_namespace(options["namespace"], "step.run's namespace")
    if options.get("on_input_change", "raise") not in ("raise", "warn"):
        raise StepsError(f'on_input_change must be "raise" or "warn", not {options["on_input_change"]!r}.')


# -- replay -------------------------------------------------------------------------------------------------------------


def _replay(call: Call, step: Step) -> Any:
    check_record(call, step)
    return recorded_result(call, step)


def check_record(call: Call, step: Step) -> None:
    """InputMismatch where something else was recorded for this identity."""
    check_verb(call.namespace, step, call.verb)
    if step.digest != call.digest:
        _mismatch(call, step)


def recorded_result(call: Call, step: Step) -> Any:
    """What the recorded outcome means to the caller; raises a recorded failure."""
    codec = call.attempt.codec
    if step.ok:
        key, sequence = call.identity
        return codec.decode(step.value, hint=call.hint, namespace=call.namespace, key=key, sequence=sequence)
    error = codec.decode_failure(step.value, **call.where)
    call.attempt.raised.append((error, call.identity))
    raise error


def check_verb(namespace: str, step: Step, verb: str) -> None:
    """InputMismatch where this identity was recorded by another verb."""
    if step.verb != verb:
        raise InputMismatch(
            f"Step {step.key!r} (occurrence {step.sequence}) in namespace {namespace!r} was recorded by step.{step.verb}, and is "
            f"asked for by step.{verb} now. Give one of them another key."
        )


def _mismatch(call: Call, step: Step) -> None:
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


def execute(call: Call, journal: Journal, append: Callable[[Sequence[tuple[str, bytes]]], None]) -> Any:
    attempt, hint = call.attempt, call.hint
    attempt.before_effect()
    if attempt.records_starts:  # after a crash the next attempt records what it begins: so the poison step has a name
        attempt.append([("start", fmt.pack_start(call.identity))], record=False)
    began = attempt.clock()
    where = call.where
    key, sequence = call.identity
    tries = attempt.journal.started[call.identity] + (0 if attempt.records_starts else 1)
    step = CurrentStep(key, sequence, call.namespace, tries, idempotency_key(call.namespace, call.identity, journal.epoch))
    token = _current_step.set(step)
    handling_token = handling.set(attempt)
    try:
        value = call.handler(call.input) if call.gets_input else call.handler()
        if inspect.isawaitable(value):
            value = wait_for(value)
        encoded = attempt.codec.encode(value, where="result", hint=hint, **where)
    except attempt.passing:
        raise
    except Exception as error:
        call.failures.append(failure_of(call, error, began))
        raise
    finally:
        handling.reset(handling_token)
        _current_step.reset(token)
    took = attempt.clock() - began
    record = fmt.pack_step(call.identity, call.digest, True, encoded, _input(call), began, took, call.verb)
    append([("step", record)])
    # What the first call returns and what a replay returns are the same: the decoded record.
    return value if type(value) in _ATOMS else attempt.codec.decode(encoded, hint=hint, **where)


def failure_of(call: Call, error: Exception, began: int, cause: BaseException | None = None, *, called: bool = True) -> Failure:
    """This step has no result, but `error`. `cause`: what leaves the body for it, if that is another."""
    took = call.attempt.clock() - began

    def pack() -> bytes:
        value = call.attempt.codec.encode_failure(error, **call.where)
        return fmt.pack_step(call.identity, call.digest, False, value, _input(call), began, took, call.verb)

    def elsewhere(entries: Sequence[tuple[str, bytes]]) -> None:
        borrowed(call.attempt, call.namespace, call.identity[0], lambda journal, give_back: give_back(entries))

    commit = call.attempt.append if call.namespace == call.attempt.namespace else elsewhere
    return Failure(call.identity, error, pack, commit, cause or error, called)


def _input(call: Call) -> bytes | None:
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


def _run_elsewhere(call: Call) -> Any:
    def inside(journal: Journal, give_back: Callable[[Sequence[tuple[str, bytes]]], None]) -> Any:
        recorded = journal.steps.get(call.identity)
        if recorded is None:
            return execute(call, journal, give_back)
        give_back([])
        return _replay(call, recorded)

    return borrowed(call.attempt, call.namespace, call.identity[0], inside)

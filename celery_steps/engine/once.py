"""`step.run`: a handler that is executed until its outcome is recorded, and never again after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from celery_steps.codec import PLAIN, input_digest
from celery_steps.engine import entries as fmt
from celery_steps.engine import news
from celery_steps.engine.at_most_once import check_at_most_once
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.borrow import borrowed
from celery_steps.engine.entries import Identity, Step
from celery_steps.engine.execution import Call, execute, hint_of
from celery_steps.engine.identity import NO_INPUT, bind, check_key, check_namespace, check_options
from celery_steps.engine.journal import Journal
from celery_steps.engine.retry import RetryPolicy
from celery_steps.errors import InputMismatch, StepsError
from celery_steps.times import duration

logger = logging.getLogger("celery_steps")

OPTIONS = ("namespace", "retry", "timeout", "at_most_once", "reconcile", "rollback", "returns", "record_input", "on_input_change")


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
        and not recorded.said
        and recorded.verb == verb
        and namespace == attempt.namespace
    ):
        if attempt.hears:
            news.of_replay(attempt, recorded)
        hint = hint_of(handler, options)  # the usual case of a replay, which is all that a long run does for a while
        return attempt.codec.decode(recorded.value, hint=hint, namespace=namespace, key=key, sequence=identity[1])
    call = Call(attempt, namespace, identity, handler, gets_input, given, digest, options, verb, attempt.failures)
    if namespace != attempt.namespace:
        return _run_elsewhere(call)
    if recorded is not None:
        check_record(call, recorded)
        if not recorded.said:
            news.of_replay(attempt, recorded)
            return recorded_result(call, recorded)
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
        _check(key, options)
    gets_input, given = bind(key, input, handler)
    digest = None if given is NO_INPUT or verb != "run" else input_digest(given)
    attempt.enter(verb)
    namespace = options.get("namespace", attempt.namespace) if options else attempt.namespace
    place = (namespace, key)
    sequence = attempt.seen[place] = attempt.seen.get(place, 0) + 1
    identity = attempt.at = (key, sequence)
    if options and options.get("rollback") is not None:
        attempt.undos[identity] = options["rollback"], hint_of(handler, options)
    return gets_input, given, digest, namespace, identity


def _check(key: str, options: dict[str, Any]) -> None:
    check_options(options, OPTIONS)
    check_at_most_once(key, options)
    said_by = f"step.run({key!r})"
    if options.get("retry") is not None:
        RetryPolicy.of(options["retry"])
    rollback = options.get("rollback")
    if rollback is not None and not callable(rollback):
        raise StepsError(f"{said_by}: rollback must be callable with the result, not {rollback!r:.80}.")
    for name in ("retry", "rollback"):
        if options.get(name) is not None and options.get("namespace") is not None:
            raise StepsError(f"{said_by}: {name}= works in the run's own namespace only, not with namespace=.")
    if options.get("timeout") is not None and duration(options["timeout"], f"{said_by}'s timeout") <= 0:
        raise StepsError(f"{said_by}'s timeout must be more than 0.")
    if "namespace" in options:
        check_namespace(options["namespace"], "step.run's namespace")
    if options.get("on_input_change", "raise") not in ("raise", "warn"):
        raise StepsError(f'on_input_change must be "raise" or "warn", not {options["on_input_change"]!r}.')


# -- replay -------------------------------------------------------------------------------------------------------------


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


# -- another namespace ----------------------------------------------------------------------------------------------------


def _run_elsewhere(call: Call) -> Any:
    def inside(journal: Journal, give_back: Callable[[Sequence[tuple[str, bytes]]], None]) -> Any:
        recorded = journal.steps.get(call.identity)
        if recorded is not None:
            check_record(call, recorded)
        if recorded is None or recorded.said:
            return execute(call, journal, give_back)
        give_back([])
        news.of_replay(call.attempt, recorded, call.namespace)
        return recorded_result(call, recorded)

    return borrowed(call.attempt, call.namespace, call.identity[0], inside)

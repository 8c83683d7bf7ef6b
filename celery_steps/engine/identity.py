"""What makes a step the same step: its namespace, its key, the how-manieth use of the key, and its input."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from types import FunctionType
from typing import Any

from celery_steps.codec import pack
from celery_steps.engine.entries import Identity
from celery_steps.errors import StepsError

LONGEST_NAMESPACE = 512


class NoInput:
    """Stands for "no input was given": None is an input like any other."""


NO_INPUT = NoInput()


def check_namespace(namespace: object, said_by: str) -> str:
    """Return `namespace`, or raise StepsError that names who said it."""
    if not isinstance(namespace, str) or not namespace.strip():
        raise StepsError(f"{said_by} must be text that is not blank, not {namespace!r}.")
    if len(namespace) > LONGEST_NAMESPACE:
        raise StepsError(
            f"{said_by} has {len(namespace)} characters, at most {LONGEST_NAMESPACE} are allowed: {namespace[:60]!r}…"
        )
    return namespace


def check_key(key: object) -> None:
    if not isinstance(key, str) or not key.strip():
        raise StepsError(f"A step's key must be text that is not blank, not {key!r}: the key comes first.")


def check_options(options: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise StepsError(f"step.run has no option {name!r}: did you mean {nearest!r}? Options: {', '.join(known)}.")


def idempotency_key(namespace: str, identity: Identity, epoch: int, redone: int = 0) -> str:
    """Stable over every attempt. `epoch` tells the runs apart that `replace` puts into one namespace; `redone`
    tells how often the step was undone before: a payment that was refunded is not the one that is made anew.
    """
    parts: list[Any] = [namespace, *identity] + ([epoch, redone] if redone else [epoch] if epoch else [])
    return sha256(pack(parts)).hexdigest()[:32]


def bind(key: str, input: Any, handler: Any) -> tuple[bool, Any]:
    """How the handler is called, and what its input is: (gets the input as its one argument, input to record and hash).

    Without input the handler is called with nothing, and a partial's bound arguments are its input; with one, the input is its
    one positional argument, and a handler without parameters is called without. Whatever does not fit raises before the call.
    """
    given = input is not NO_INPUT
    if type(handler) is FunctionType and not handler.__dict__:  # the usual case, without inspection
        code = handler.__code__
        if not code.co_kwonlyargcount and code.co_argcount - len(handler.__defaults__ or ()) <= given:
            return given and (code.co_argcount > 0 or code.co_flags & inspect.CO_VARARGS != 0), input
    if not callable(handler):
        if callable(input):
            raise StepsError(
                f"step.run({key!r}): the arguments are swapped, the handler comes last: step.run(key, input, handler)."
            )
        raise StepsError(f"step.run({key!r}): the handler must be callable, not {type(handler).__name__} {handler!r:.80}.")
    required, positional, keyword_only = _parameters(handler)
    if keyword_only:
        raise StepsError(
            f"step.run({key!r}): the handler requires the keyword argument {keyword_only!r}; bind it with functools.partial."
        )
    if required > (1 if given else 0):
        takes = "only the input as its one argument" if given else "no arguments, as there is no input"
        raise StepsError(
            f"step.run({key!r}): the handler requires {required} argument(s), but it gets {takes}. "
            "Bind the others with functools.partial, or give an input: step.run(key, input, handler)."
        )
    if not given and isinstance(handler, partial):
        return False, (handler.args, handler.keywords)
    return given and positional, input


def _parameters(handler: Callable[..., Any]) -> tuple[int, bool, str]:
    """Required positional parameters, whether one positional argument fits, and a required keyword-only parameter's name."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # some builtins have none: they are called as they are asked to be
        return 0, True, ""
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    keyword_only = next((p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty), "")
    return len(required), bool(positional) or variadic, keyword_only

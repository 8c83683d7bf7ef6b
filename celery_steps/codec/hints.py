"""Hints: what a type or an annotation, its string parts resolved, says about the classes in a value."""

from __future__ import annotations

import functools
import types
import typing
from enum import Enum
from typing import Annotated, Any, Literal, NewType, TypeVar, Union

from celery_steps.codec.objects import is_model, is_object

Hints = tuple[Any, ...]


class PLAIN:
    """The hint for readers without classes: any object is taken, and comes back as a dict of its fields."""


def alternatives(*hints: Any) -> Hints:
    """The types that annotations allow, out of Optional, unions, Annotated, NewType, Literal and aliases."""
    found: list[Any] = []
    waiting = list(reversed(hints))
    while waiting:
        hint = waiting.pop()
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (Union, types.UnionType):
            waiting.extend(reversed(args))
        elif origin in (Annotated, typing.Final, typing.ClassVar):
            waiting.append(args[0])
        elif origin is Literal:
            found.extend(type(arg) for arg in args if isinstance(arg, Enum))
        elif isinstance(hint, NewType):
            waiting.append(hint.__supertype__)
        elif isinstance(hint, TypeVar):
            waiting.extend([*hint.__constraints__, hint.__bound__])
        elif type(origin or hint).__name__ == "TypeAliasType":  # `type Orders = list[Order]`, from Python 3.12
            waiting.append((origin or hint).__value__)
        elif hint is not None and hint is not Any:
            found.append(hint)
    return tuple(found)


def inside(hints: Hints, kind: type, place: int = 0) -> Hints:
    """The hints for what a container holds: of a dict at 0 its keys, at 1 its values; of a tuple at an index."""
    if not hints or PLAIN in hints:
        return hints
    found: list[Any] = []
    for hint in hints:
        origin: Any = typing.get_origin(hint)
        args = typing.get_args(hint)
        # Others, such as a Protocol, may refuse to be asked.
        if getattr(origin, "__module__", "") in ("builtins", "collections.abc") and issubclass(kind, origin):
            by_place = kind is dict or (origin is tuple and args[-1:] != (...,))
            found.extend(args[place : place + 1] if by_place else args[:1])
    return alternatives(*found)


def typed_dict_hints(hints: Hints) -> dict[str, Hints]:
    """The hints for the values of a dict by key, from TypedDicts."""
    found: dict[str, Hints] = {}
    for hint in hints:
        if typing.is_typeddict(hint):
            found |= field_hints(hint)
    return found


@functools.lru_cache(maxsize=1024)
def field_hints(cls: type) -> dict[str, Hints]:
    """The hints for the fields of a class: none where an annotation cannot be resolved (a local class, say)."""
    if is_model(cls):
        fields: dict[str, Any] = cls.model_fields  # type: ignore[attr-defined]
        return {name: alternatives(field.annotation) for name, field in fields.items()}
    try:
        return {name: alternatives(hint) for name, hint in typing.get_type_hints(cls).items()}
    except (NameError, AttributeError, TypeError, SyntaxError):
        return {}


def classes(hints: Hints) -> list[Any]:
    """The classes of objects that hints name."""
    found: list[Any] = []
    for hint in hints:
        origin: Any = typing.get_origin(hint)
        cls = hint if origin is None else origin
        if isinstance(cls, type) and is_object(cls) and cls not in found:
            found.append(cls)
    return found

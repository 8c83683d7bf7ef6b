"""Objects lowered to plain values, where a hint names their class."""

from __future__ import annotations

from datetime import datetime, time
from enum import Enum
from typing import Any

from celery_steps.codec.hints import PLAIN, Hints, classes, field_hints, inside, typed_dict_hints
from celery_steps.codec.objects import (
    Place,
    beside_fields,
    class_name,
    fields_of,
    is_model,
    is_object,
    member_of,
    refusal,
    too_deep,
)
from celery_steps.codec.values import ATOMS, ENUM, MAX_DEPTH, OBJECT, SEQUENCES, Typed, zone_text


def lower(value: Any, hints: Hints, place: Place, room: int = MAX_DEPTH) -> Any:
    """Replace the objects in a value whose classes the hints name by `Typed`.

    Raises ResultError, naming the place, for everything that cannot be recorded.
    """
    kind = type(value)
    if kind in ATOMS:
        return _checked(value, place)
    if not room:
        raise too_deep(place)
    room -= 1
    if kind is dict:
        keys, items, named = inside(hints, dict, 0), inside(hints, dict, 1), typed_dict_hints(hints)
        return {
            lower(key, keys, (place, "key", key), room): lower(item, named.get(key, items), (place, "[]", key), room)
            for key, item in value.items()
        }
    if kind is tuple:
        return tuple(lower(item, inside(hints, tuple, index), (place, "[]", index), room) for index, item in enumerate(value))
    if kind in SEQUENCES:
        each = inside(hints, kind)
        return kind(
            [
                lower(item, each, (place, "[]", index) if kind is list else (place, "element", None), room)
                for index, item in enumerate(value)
            ]
        )
    if not is_object(kind):
        raise refusal(value, place)
    if PLAIN not in hints and kind not in classes(hints):
        raise refusal(value, place, _unnamed(kind, hints))
    return _lower_object(value, hints, place, room)


def _checked(value: Any, place: Place) -> Any:
    if type(value) in (datetime, time):
        try:
            zone_text(value.tzinfo)
        except ValueError as error:
            raise refusal(value, place, str(error)) from None
    return value


def _unnamed(kind: type, hints: Hints) -> str:
    name = kind.__name__
    for cls in classes(hints):
        if issubclass(kind, cls):
            return f"a subclass of {cls.__name__}, and only that is named: add returns={cls.__name__} | {name}"
    return (
        f"its class must be known to read it back: add returns={name} (in a container returns=list[{name}] or the like, "
        "in an object its field's annotation, with names of module level), or annotate what the handler returns"
    )


def _lower_object(value: Any, hints: Hints, place: Place, room: int) -> Typed:
    kind: Any = type(value)
    if issubclass(kind, Enum):
        member = lower(member_of(value), (), (place, ".", "value"), room)
        return Typed(ENUM, class_name(kind), [member])
    try:
        fields = fields_of(value)
    except ValueError as error:
        raise refusal(value, place, str(error)) from None
    of = dict.fromkeys(fields, hints) if PLAIN in hints else field_hints(kind)
    state: list[Any] = [
        {name: lower(item, of.get(name, ()), (place, ".", name), room) for name, item in fields.items()},
    ]
    if is_model(kind):
        state.append(sorted(value.__pydantic_fields_set__))
    every = hints if PLAIN in hints else ()
    for beside in beside_fields(value):
        # None and {} mean different things to pydantic.
        lowered = {name: lower(item, every, (place, ".", name), room) for name, item in (beside or {}).items()}
        state.append(None if beside is None else lowered)
    return Typed(OBJECT, class_name(kind), state)

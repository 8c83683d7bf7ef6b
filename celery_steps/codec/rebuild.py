"""Lowered objects given back, in the classes that a hint names.

The class is taken from the hint alone, never from the record: the name in a record only tells the members of a union
apart. Objects come back without `__init__`, `__post_init__` and validators: these ran when the object was made, and
a second time could change it or the world. A field that the class has gained since takes its default; one that it
has lost is dropped.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

from celery_steps.codec.hints import PLAIN, Hints, classes, field_hints, inside, typed_dict_hints
from celery_steps.codec.objects import class_name, field_names, is_model, is_named_tuple
from celery_steps.codec.values import ATOMS, ENUM, MAX_DEPTH, SEQUENCES, Typed

_MISSING: Any = object()


def rebuild(value: Any, hints: Hints, room: int = MAX_DEPTH) -> Any:
    """Replace every `Typed` in a value by an object of the class that the hints name. Raises one of CORRUPT."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if not room:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    room -= 1
    if kind is Typed:
        return _object(value, hints, room)
    if kind is dict:
        return _dict(value, hints, room)
    if kind is tuple:
        return tuple(rebuild(item, inside(hints, tuple, index), room) for index, item in enumerate(value))
    if kind not in SEQUENCES:
        raise ValueError(f"a {kind.__name__} is out of place")
    each = inside(hints, kind)
    items = [rebuild(item, each, room) for item in value]
    # Fields shown as dicts are not hashable.
    return items if PLAIN in hints and kind is not list and not _hashable(items) else kind(items)


def _dict(value: dict[Any, Any], hints: Hints, room: int) -> dict[Any, Any]:
    keys, items, named = inside(hints, dict, 0), inside(hints, dict, 1), typed_dict_hints(hints)
    found = {}
    for key, item in value.items():
        rebuilt = rebuild(key, keys, room)
        if PLAIN in hints and not _hashable([rebuilt]):
            rebuilt = repr(rebuilt)
        found[rebuilt] = rebuild(item, named.get(key, items), room)
    return found


def _hashable(items: list[Any]) -> bool:
    try:
        hash(tuple(items))
    except TypeError:
        return False
    return True


def _object(typed: Typed, hints: Hints, room: int) -> Any:
    if PLAIN in hints:
        return _shown(typed, hints, room)
    cls = _class_of(typed, hints)
    if typed.code == ENUM:
        return _member(cls, typed.state[0])
    recorded, *rest = typed.state
    if type(recorded) is not dict:
        raise ValueError("an object without fields")
    if is_model(cls) and len(rest) != 3:
        raise ValueError(f"{class_name(cls)} is a pydantic model, and what was recorded was none")
    of = field_hints(cls)
    fields = {name: rebuild(recorded[name], of.get(name, ()), room) for name in field_names(cls) if name in recorded}
    if is_model(cls):
        return _model(cls, fields, *(rebuild(part, (), room) for part in rest))
    if is_named_tuple(cls):
        defaults = cls._field_defaults
        return tuple.__new__(cls, [_value(cls, name, fields, defaults.get(name, _MISSING)) for name in cls._fields])
    return _dataclass(cls, fields)


def _class_of(typed: Typed, hints: Hints) -> Any:
    fitting = [cls for cls in classes(hints) if issubclass(cls, Enum) == (typed.code == ENUM)]
    if len(fitting) == 1:
        return fitting[0]
    for cls in fitting:
        if class_name(cls) == typed.name:
            return cls
    name = typed.name.rpartition(".")[2]
    raise ValueError(f"it holds a {typed.name}, whose class is not given: add returns={name}, or what holds {name}")


def _member(cls: Any, member: Any) -> Any:
    if type(member) is not str:
        return cls(member)
    if member not in cls.__members__:
        raise ValueError(f"{class_name(cls)} has no member {member!r} any more")
    return cls.__members__[member]


def _value(cls: type, name: str, fields: dict[str, Any], default: Any) -> Any:
    found = fields.get(name, default)
    if found is _MISSING:
        raise ValueError(f"{class_name(cls)} has a field {name!r} that was not recorded: give it a default")
    return found


def _dataclass(cls: type, fields: dict[str, Any]) -> Any:
    made: Any = object.__new__(cls)
    for field in dataclasses.fields(cls):
        default: Any = _MISSING
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING and field.name not in fields:
            default = field.default_factory()
        if field.init or field.name in fields or default is not _MISSING:
            # Not setattr: the class may be frozen.
            object.__setattr__(made, field.name, _value(cls, field.name, fields, default))
    return made


def _model(cls: Any, fields: dict[str, Any], fields_set: list[str], extra: Any, private: Any) -> Any:
    values = {}
    for name, field in cls.model_fields.items():
        default = _MISSING
        if name not in fields and not field.is_required():
            default = field.get_default(call_default_factory=True)
        values[name] = _value(cls, name, fields, default)
    made = cls.__new__(cls)
    # What unpickling a model does, in pydantic's own words.
    made.__setstate__(
        {
            "__dict__": values,
            "__pydantic_fields_set__": set(fields_set),
            "__pydantic_extra__": extra,
            "__pydantic_private__": private,
        }
    )
    return made


def _shown(typed: Typed, hints: Hints, room: int) -> Any:
    if typed.code == ENUM:
        return typed.state[0]
    shown = rebuild(typed.state[0], hints, room)
    extra = typed.state[2] if len(typed.state) > 2 else None
    return {**shown, **rebuild(extra or {}, hints, room)}

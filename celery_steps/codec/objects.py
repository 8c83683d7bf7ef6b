"""Objects taken apart: dataclasses, named tuples, pydantic models and Enums; and how to name the place of a value."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any

from celery_steps.codec.values import ATOMS, MAX_DEPTH, SEQUENCES
from celery_steps.errors import ResultError

# Where a value stands: the name of the outermost, or (place of what holds it, how it stands there, key).
Place = str | tuple[Any, str, Any]

# datetime before date, whose subclass it is.
_BASES: tuple[type, ...] = (dict, list, tuple, set, frozenset, str, bytes, int, float)
_BASES += tuple(sorted(ATOMS - {type(None), bool, *_BASES}, key=lambda kind: -len(kind.__mro__)))


def is_model(cls: type) -> bool:
    """Whether this is a class of pydantic models."""
    # Whoever has a model has imported pydantic.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def is_named_tuple(cls: type) -> bool:
    """Whether this is a class made by NamedTuple or namedtuple."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_field_defaults")


def is_object(cls: type) -> bool:
    """Whether values of this class can be taken apart."""
    if issubclass(cls, Enum) or is_named_tuple(cls) or is_model(cls):
        return True
    # What a builtin base holds is in no field.
    return dataclasses.is_dataclass(cls) and not issubclass(cls, (*_BASES, BaseException))


def class_name(cls: type) -> str:
    """Module and qualified name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def member_of(value: Enum) -> Any:
    """What tells an Enum's members apart: the name, or the number of a combination of flags."""
    return value.name if value.name in type(value).__members__ else value.value


def field_names(cls: Any) -> tuple[str, ...]:
    """The names of the fields of a dataclass, named tuple or model."""
    if is_named_tuple(cls):
        return tuple(cls._fields)
    if is_model(cls):
        return tuple(cls.model_fields)
    return tuple(field.name for field in dataclasses.fields(cls))


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, named tuple or model. Raises ValueError for an attribute that is no field."""
    cls = type(value)
    names = field_names(cls)
    if is_named_tuple(cls):
        fields = dict(zip(names, tuple.__iter__(value), strict=True))
    elif is_model(cls):
        fields = {name: value.__dict__[name] for name in names if name in value.__dict__}
    else:
        fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    for name in getattr(value, "__dict__", ()):
        # Page[Order](...) notes its own class.
        if name in names or name == "__orig_class__":
            continue
        if not isinstance(inspect.getattr_static(cls, name, None), functools.cached_property):
            raise ValueError(f"it has an attribute {name!r} that is not one of its fields: make it a field")
    return fields


def beside_fields(value: Any) -> list[Any]:
    """What a model holds beside its fields: extra values and private attributes. Empty for other objects."""
    return [value.__pydantic_extra__, value.__pydantic_private__] if is_model(type(value)) else []


def children(value: Any, place: Place) -> Iterator[tuple[Any, Place]]:
    """What a value consists of, each with its place: elements, keys, values, fields."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            yield key, (place, "key", key)
            yield item, (place, "[]", key)
    elif kind in SEQUENCES:
        for index, item in enumerate(value):
            yield item, ((place, "[]", index) if kind in (list, tuple) else (place, "element", None))
    elif is_object(kind) and not issubclass(kind, Enum):
        for name, item in fields_of(value).items():
            yield item, (place, ".", name)
        for beside in beside_fields(value):
            for name, item in (beside or {}).items():
                yield item, (place, ".", name)


def place_text(place: Place) -> str:
    """A place as people write it: `result["items"][3].price`."""
    if isinstance(place, str):
        return place
    outer, how, key = place
    text = place_text(outer)
    if text.startswith(("the key ", "an element ")):
        text = f"({text})"
    if how == ".":
        return f"{text}.{key}"
    if how == "element":
        return f"an element of {text}"
    return f"the key {_key_text(key)} of {text}" if how == "key" else f"{text}[{_key_text(key)}]"


def _key_text(key: Any) -> str:
    if type(key) is str:
        return json.dumps(key if len(key) <= 40 else key[:40] + "...")
    # Only a repr that is nobody's own code.
    return repr(key)[:60] if type(key) in ATOMS else f"<{type(key).__qualname__}>"


def too_deep(place: Place) -> ResultError:
    """The error for what is nested too deep."""
    while not isinstance(place, str):
        place = place[0]
    return ResultError(f"{place} is nested more than {MAX_DEPTH} levels deep, or contains itself: flatten it")


def refusal(value: Any, place: Place, why: str = "") -> ResultError:
    """The error for a value that cannot be recorded or hashed: its place, its type, what to do."""
    kind = type(value)
    name = class_name(kind).removeprefix("builtins.")
    return ResultError(f"{place_text(place)} is a {name}: {why or _advice(kind)}")


def _advice(kind: type) -> str:
    if issubclass(kind, bytearray | memoryview):
        return "make it bytes(...)"
    for base in _BASES:
        if issubclass(kind, base):
            return f"a subclass of {base.__name__} would come back as another type: make it a plain {base.__name__}"
    return (
        "use None, bool, numbers, text, bytes, lists, tuples, dicts, sets, dates, Decimal, UUID; "
        "or a dataclass, Enum or pydantic model"
    )

"""Plain data made into what a hint names: what a person says of a result in JSON, in the class that the code works with.

Unlike `rebuild`, this makes objects for the first time: constructors and validators run. Plain values are not held against their
hint, as those of a handler are not.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Union
from uuid import UUID

from celery_steps.codec.objects import Place, class_name, is_model, is_named_tuple, is_object, place_text
from celery_steps.errors import ResultError
from celery_steps.times import utc_written_out


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no number") from None


#: What JSON has no word for, from what stands for it there.
_FROM_TEXT: dict[Any, Callable[[str], Any]] = {
    Decimal: _decimal,
    UUID: UUID,
    datetime: lambda text: datetime.fromisoformat(utc_written_out(text)),
    date: date.fromisoformat,
    time: lambda text: time.fromisoformat(utc_written_out(text)),
}
_SEQUENCES = (tuple, set, frozenset)


def fit(value: Any, hint: Any, place: Place = "result") -> Any:
    """The value, plain data in it replaced by objects of the classes that the hint names. ResultError says what does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _either(value, args, place)
    if origin is Literal:
        members = [arg for arg in args if isinstance(arg, Enum) and value in (arg, arg.value, arg.name)]
        return members[0] if members and value not in args else value
    if origin in (Annotated, typing.Final):
        return fit(value, args[0], place)
    if isinstance(hint, NewType):
        return fit(value, hint.__supertype__, place)
    if type(origin or hint).__name__ == "TypeAliasType":
        return fit(value, (origin or hint).__value__, place)
    cls = origin or hint
    if typing.is_typeddict(cls):
        return _dict_by_key(value, _hints(cls), place)
    if isinstance(cls, type) and is_object(cls):
        return value if isinstance(value, cls) else _made(cls, value, place)
    read = _FROM_TEXT.get(cls) if isinstance(cls, type) else None
    if read is not None and isinstance(value, str):
        return _called(cls, lambda: read(value), place)
    if cls is Decimal and type(value) in (int, float):
        return Decimal(repr(value))  # of a float what was written, not its binary fraction
    if cls is timedelta and type(value) in (int, float):
        return _called(cls, lambda: timedelta(seconds=value), place)
    return _contained(value, cls, args, place)


def _either(value: Any, hints: tuple[Any, ...], place: Place) -> Any:
    if any(hint is type(value) for hint in hints):
        return value
    as_it_is, error = False, None
    for hint in hints:
        if hint is type(None):
            continue
        try:
            fitted = fit(value, hint, place)
        except ResultError as raised:
            error = error or raised
            continue
        if fitted is not value:
            return fitted
        as_it_is = True
    if error is not None and not as_it_is:
        raise error
    return value


def _contained(value: Any, cls: Any, args: tuple[Any, ...], place: Place) -> Any:
    kind: Any = type(value)
    if kind is dict and args and isinstance(cls, type) and issubclass(dict, cls) and len(args) == 2:
        return {_key(key, args[0], (place, "key", key)): fit(item, args[1], (place, "[]", key)) for key, item in value.items()}
    if kind not in (list, *_SEQUENCES) or not isinstance(cls, type):
        return value
    if cls in _SEQUENCES and kind is list:
        kind = cls
    elif not issubclass(kind, cls):
        return value
    by_place = cls is tuple and args[-1:] != (...,)
    if by_place and args and len(args) != len(value):
        raise ResultError(f"{place_text(place)} has {len(value)} elements, not {len(args)}")
    each = args if by_place else args[:1] * len(value)
    items = [fit(item, each[i] if each else None, (place, "[]", i)) for i, item in enumerate(value)]
    return _called(kind, lambda: kind(items), place)


def _key(key: Any, hint: Any, place: Place) -> Any:
    """JSON has only text for keys, also where they are numbers."""
    if hint in (int, float) and isinstance(key, str):
        return _called(hint, lambda: hint(key), place)
    return fit(key, hint, place)


def _dict_by_key(value: Any, hints: Mapping[str, Any], place: Place) -> Any:
    if type(value) is not dict:
        return value
    return {key: fit(item, hints.get(key), (place, "[]", key)) for key, item in value.items()}


def _made(cls: Any, value: Any, place: Place) -> Any:
    if issubclass(cls, Enum):
        by_name = isinstance(value, str) and value in cls.__members__
        return cls.__members__[value] if by_name else _called(cls, lambda: cls(value), place)
    if is_model(cls):
        return _called(cls, lambda: cls.model_validate(value), place)
    if is_named_tuple(cls) and type(value) in (list, tuple):
        value = dict(zip(cls._fields, value, strict=True)) if len(value) == len(cls._fields) else value
    if type(value) is not dict:
        raise ResultError(f"{place_text(place)} is a {type(value).__name__}, not a {class_name(cls)}: give its fields as a dict")
    hints = _hints(cls)
    fields = {name: fit(item, hints.get(name), (place, ".", name)) for name, item in value.items()}
    return _called(cls, lambda: cls(**fields), place)


def _called(cls: Any, make: Callable[[], Any], place: Place) -> Any:
    try:
        return make()
    except Exception as error:  # whatever a constructor raises
        raise ResultError(f"{place_text(place)} does not fit {class_name(cls)}: {error}") from error


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, AttributeError, TypeError, SyntaxError):  # a local class, say
        return {field.name: field.type for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}

"""A decoded value as JSON can hold it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

#: Digits in which Python still writes an int.
_LONGEST_INT = 4000


def as_json(value: Any) -> Any:
    """A decoded value as JSON can hold it. What JSON does not know is an object with one key that begins with $."""
    if value is None or isinstance(value, (bool, str)):
        return value
    writer = _WRITERS.get(type(value))
    return {"$repr": repr(value)} if writer is None else writer(value)


def _int(value: int) -> Any:
    return value if value.bit_length() < _LONGEST_INT * 3 else {"$int": hex(value)}


def _float(value: float) -> Any:
    return value if value - value == 0 else {"$float": repr(value)}  # nan, inf


def _dict(value: dict[Any, Any]) -> Any:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: as_json(item) for key, item in value.items()}
    return {"$dict": [[as_json(key), as_json(item)] for key, item in value.items()]}


def _many(value: Any) -> list[Any]:
    return [as_json(item) for item in value]


_WRITERS: dict[type, Callable[[Any], Any]] = {
    int: _int,
    float: _float,
    dict: _dict,
    list: _many,
    tuple: lambda value: {"$tuple": _many(value)},
    set: lambda value: {"$set": _many(sorted(value, key=repr))},
    frozenset: lambda value: {"$frozenset": _many(sorted(value, key=repr))},
    bytes: lambda value: {"$bytes": base64.b64encode(value).decode()},
    Decimal: lambda value: {"$decimal": str(value)},
    UUID: lambda value: {"$uuid": str(value)},
    datetime: lambda value: {"$datetime": value.isoformat()},
    date: lambda value: {"$date": value.isoformat()},
    time: lambda value: {"$time": value.isoformat()},
    timedelta: lambda value: {"$seconds": value.total_seconds()},
}

"""What journals hold is never trusted: texts and values as a terminal and a JSON reader may get them."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

#: Control and format characters (ANSI escapes, bidi overrides, zero width), line and paragraph separators, surrogates,
#: private use and unassigned ones.
_HOSTILE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
#: Digits in which Python still writes an int.
_LONGEST_INT = 4000


def safe(text: str) -> str:
    """One line that shows every character as itself or as an escape."""
    if text.isprintable() and not any(map(_stacks, text)):
        return text
    return "".join(_escaped(c) if _is_hostile(c) else c for c in text)


def _is_hostile(character: str) -> bool:
    return unicodedata.category(character) in _HOSTILE or (not character.isprintable()) or _stacks(character)


def _stacks(character: str) -> bool:
    """Enclosing marks draw over their neighbours."""
    return unicodedata.category(character) == "Me"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def error_text(error: BaseException) -> str:
    """Type and message of an exception, whose __str__ may be anybody's."""
    return f"{type(error).__qualname__}: {message_of(error)}"


def message_of(error: BaseException) -> str:
    try:
        return str.__str__(str(error))
    except Exception as trouble:
        return f"<its text cannot be had: {type(trouble).__qualname__}>"


def shown(value: Any, most: int) -> str:
    """A decoded value for people: Python's notation in one line, cut after `most` characters."""
    try:
        text = repr(value)
    except ValueError:  # an int with more digits than Python writes
        text = json.dumps(as_json(value))
    text = safe(text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def as_json(value: Any) -> Any:
    """A decoded value as JSON can hold it. What JSON does not know is an object with one key that begins with $."""
    if value is None or isinstance(value, (bool, str)):
        return value
    writer = _WRITERS.get(type(value))
    return {"$repr": repr(value)} if writer is None else writer(value)


def document(value: Any, indent: int | None = 2) -> str:
    """One JSON document, in ASCII; its strings hold no control characters. Without indent it is one line."""
    return json.dumps(value, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


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

"""The input hash: sha256 over a canonical text of a value.

The text of a value is a letter for its type, then what cannot be confused with what follows: text of a fixed or a
given length, or up to a semicolon. Lengths count characters, or what a container holds. The rows of a dict and the
elements of a set are sorted as texts. Frozen: another text for a value makes open runs fail (tests/test_input_hash.py).

n None · t True · f False · i int, hexadecimal · r float, as `float.hex()` (every NaN: nan) · s str · b bytes, as
Latin-1 · d Decimal · u UUID · D date · T time · S datetime · P timedelta in microseconds · l list · a tuple · m dict ·
e set · z frozenset · o object: class and fields · E Enum: class and member · - no input
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import Any
from uuid import UUID

from celery_steps.codec.objects import (
    Place,
    beside_fields,
    children,
    class_name,
    fields_of,
    is_object,
    member_of,
    refusal,
    too_deep,
)
from celery_steps.codec.values import MAX_DEPTH, clock_text, decimal_text
from celery_steps.errors import ResultError

#: Stands before the digest, so that another encoding can come beside this one.
HASH_VERSION = "v1:sha256:"
_MICROSECOND = timedelta(microseconds=1)


class _Unhashable(ValueError):
    """Somewhere inside is what cannot be hashed; the message says why, where it is more than the type."""


def input_hash(value: Any, *, where: str = "input") -> str:
    """The fingerprint of a step's input: `v1:sha256:` and 64 hexadecimal digits.

    Takes what a result may be, and dataclasses, Enums, named tuples and pydantic models without any hint. `"1"`, `1`,
    `1.0` and `True` differ, 0.0 and -0.0 too; the order of dicts and sets does not matter. The same in every process,
    Python version and machine. Raises ResultError naming the place, from `where` on, of what cannot be hashed.
    """
    return HASH_VERSION + input_digest(value, where=where).hex()


def input_digest(value: Any, *, where: str = "input") -> bytes:
    """The 32 bytes of `input_hash`, as records keep them."""
    try:
        return _digest(_text(value, MAX_DEPTH))
    except _Unhashable as error:
        raise _located(value, where, MAX_DEPTH, str(error)) from None


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _text(value: Any, room: int) -> str:
    write = _ATOM_TEXTS.get(type(value))
    if write is not None:
        return write(value)
    if not room:
        raise _Unhashable
    write_holder = _HOLDER_TEXTS.get(type(value))
    return write_holder(value, room - 1) if write_holder is not None else _object_text(value, room - 1)


def _str_text(value: str) -> str:
    return f"s{len(value)}:{value}"


def _bytes_text(value: bytes) -> str:
    return f"b{len(value)}:{value.decode('latin-1')}"


def _clock_text(letter: str) -> Callable[[Any], str]:
    def write(value: datetime | time) -> str:
        try:
            text = clock_text(value)
        except ValueError as error:
            raise _Unhashable(str(error)) from None
        return f"{letter}{len(text)}:{text}"

    return write


def _rows_text(letter: str, rows: list[str]) -> str:
    return f"{letter}{len(rows)}:{''.join(rows)}"


def _dict_text(value: dict[Any, Any], room: int) -> str:
    rows = []
    for key, item in value.items():
        # A call costs as much as the work: atoms are written from here.
        write = _ATOM_TEXTS.get(type(item))
        item_text = _text(item, room) if write is None else write(item)
        rows.append(f"s{len(key)}:{key}{item_text}" if type(key) is str else _text(key, room) + item_text)
    rows.sort()
    return _rows_text("m", rows)


def _in_order(letter: str) -> Callable[[Iterable[Any], int], str]:
    return lambda value, room: _rows_text(letter, [_text(item, room) for item in value])


def _sorted(letter: str) -> Callable[[Iterable[Any], int], str]:
    return lambda value, room: _rows_text(letter, sorted(_text(item, room) for item in value))


def _object_text(value: Any, room: int) -> str:
    kind = type(value)
    if not is_object(kind):
        raise _Unhashable
    if issubclass(kind, Enum):
        return f"E{_str_text(class_name(kind))}{_text(member_of(value), room)}"
    try:
        fields = fields_of(value)
    except ValueError as error:
        raise _Unhashable(str(error)) from None
    parts = [_dict_text(part, room) for part in (fields, *(beside or {} for beside in beside_fields(value)))]
    return f"o{_str_text(class_name(kind))}{_rows_text('', parts)}"


_ATOM_TEXTS: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "n",
    bool: lambda value: "t" if value else "f",
    int: lambda value: f"i{value:x};",
    float: lambda value: f"r{value.hex()};",
    str: _str_text,
    bytes: _bytes_text,
    Decimal: lambda value: f"d{decimal_text(value)};",
    UUID: lambda value: f"u{value.hex}",
    date: lambda value: f"D{value.isoformat()}",
    time: _clock_text("T"),
    datetime: _clock_text("S"),
    timedelta: lambda value: f"P{value // _MICROSECOND};",
}
_HOLDER_TEXTS: dict[type, Callable[[Any, int], str]] = {
    dict: _dict_text,
    list: _in_order("l"),
    tuple: _in_order("a"),
    set: _sorted("e"),
    frozenset: _sorted("z"),
}

NO_INPUT_HASH = HASH_VERSION + _digest("-").hex()


def _located(value: Any, place: Place, room: int, why: str) -> ResultError:
    """The error for the first thing inside `value` that cannot be hashed."""
    if not room and type(value) not in _ATOM_TEXTS:
        return too_deep(place)
    try:
        inner = list(children(value, place))
    except ValueError:
        inner = []
    for child, child_place in inner:
        try:
            _text(child, room - 1)
        except _Unhashable as error:
            return _located(child, child_place, room - 1, str(error))
    return refusal(value, place, why)

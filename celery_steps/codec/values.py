"""Values as bytes: msgpack, with extension types for what msgpack lacks.

Containers other than list and dict are arrays whose first element is an empty extension, the marker: so the C
decoder, which does not recurse, sees every level, and no payload is ever unpacked inside another. Frozen: a code
keeps its meaning for ever (tests/test_codec.py).

| code | type | written as |
| --- | --- | --- |
| 1 | tuple | array: marker, elements |
| 2 | set | array: marker, elements |
| 3 | frozenset | array: marker, elements |
| 4 | dataclass, named tuple | array: marker, class name, map of fields |
| 4 | pydantic model | the same, then names of fields set, map of extra values or nil, map of private attributes or nil |
| 5 | Enum | array: marker, class name, member name (of a combination of flags: its number) |
| 16 | int beyond 64 bits | big-endian two's complement |
| 17 | Decimal | text |
| 18 | UUID | 16 bytes |
| 19 | timedelta | days, seconds, microseconds: three big-endian int32 |
| 20 | date | ISO text |
| 21 | time | fold, ISO text, zone |
| 22 | datetime | fold, ISO text, zone |

A zone is empty; or ` @` and the key of a ZoneInfo; or a space and the microseconds of a fixed offset, then, where the
offset has a name, a space and that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgpack

from celery_steps.errors import ResultError

MAX_DEPTH = 64

SCALARS = frozenset({type(None), bool, int, float, str, bytes})
ATOMS = SCALARS | {Decimal, UUID, timedelta, date, time, datetime}
SEQUENCES = frozenset({list, tuple, set, frozenset})

# What reading bytes that somebody damaged can raise. Not Exception: a soft time limit may strike at any line.
CORRUPT = (ValueError, TypeError, ArithmeticError, LookupError, struct.error)

_MICROSECOND = timedelta(microseconds=1)
_SPAN = struct.Struct(">iii")
# Not str(): that follows the thread's decimal context.
_DECIMAL_TEXT = Context(capitals=1).to_sci_string


class Typed:
    """An object lowered to plain values: what stands for it in a record, until a hint gives its class back."""

    __slots__ = ("code", "name", "state")

    def __init__(self, code: int, name: str, state: list[Any]) -> None:
        self.code = code
        self.name = name
        self.state = state


class _Marker:
    __slots__ = ("build", "ext")

    def __init__(self, code: int, build: Callable[[list[Any]], Any]) -> None:
        self.ext = msgpack.ExtType(code, b"")
        self.build = build


def _typed(code: int, parts: list[Any]) -> Typed:
    name, *state = parts
    if type(name) is not str or not state:
        raise ValueError("an object without class name or state")
    return Typed(code, name, state)


OBJECT, ENUM = 4, 5
_INT, _DECIMAL, _UUID, _TIMEDELTA, _DATE, _TIME, _DATETIME = range(16, 23)
_MARKERS = {
    1: _Marker(1, tuple),
    2: _Marker(2, set),
    3: _Marker(3, frozenset),
    OBJECT: _Marker(OBJECT, partial(_typed, OBJECT)),
    ENUM: _Marker(ENUM, partial(_typed, ENUM)),
}
_TUPLE, _SET, _FROZENSET = (_MARKERS[code].ext for code in (1, 2, 3))


def is_plain(value: Any, room: int = MAX_DEPTH) -> bool:
    """Whether a value consists of ATOMS, SEQUENCES and dicts alone, at most `room` levels deep."""
    kind = type(value)
    if kind in ATOMS:
        return True
    if not room:
        return False
    room -= 1
    if kind is dict:
        for key, item in value.items():
            if type(key) not in ATOMS and not is_plain(key, room):
                return False
            if type(item) not in ATOMS and not is_plain(item, room):
                return False
        return True
    # In C for the usual case, that all are atoms.
    return kind in SEQUENCES and (ATOMS.issuperset(map(type, value)) or all(is_plain(item, room) for item in value))


def _is_scalar_tree(value: Any, room: int = MAX_DEPTH) -> bool:
    kind = type(value)
    if kind is not dict and kind is not list:
        return kind in SCALARS
    items = value.values() if kind is dict else value
    return room > 0 and (SCALARS.issuperset(map(type, items)) or all(_is_scalar_tree(item, room - 1) for item in items))


def zone_text(zone: tzinfo | None) -> str:
    """A time zone as text. Raises ValueError for one that cannot be rebuilt from text."""
    if zone is None:
        return ""
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return " ".join(["", str(offset // _MICROSECOND), *name])
    if type(zone) is ZoneInfo and zone.key:
        return f" @{zone.key}"
    name = f"{type(zone).__module__}.{type(zone).__qualname__}"
    raise ValueError(f"its time zone is a {name}: use datetime.timezone, or zoneinfo.ZoneInfo with a key")


def _zone(text: str) -> tzinfo | None:
    if not text:
        return None
    if text.startswith("@"):
        try:
            return ZoneInfo(text[1:])
        except ZoneInfoNotFoundError:
            raise ValueError(f"time zone {text[1:]!r} is not known here: install tzdata") from None
    offset, *name = text.split(" ", 1)
    return timezone(int(offset) * _MICROSECOND, *name)


def clock_text(value: datetime | time) -> str:
    """A datetime or time as text that gives it back: fold, clock, zone."""
    return f"{value.fold}{value.replace(tzinfo=None).isoformat()}{zone_text(value.tzinfo)}"


def _clock(kind: Any, data: bytes) -> Any:
    clock, _, zone = data.decode("utf-8", "surrogatepass").partition(" ")
    return kind.fromisoformat(clock[1:]).replace(fold=int(clock[0]), tzinfo=_zone(zone))


def decimal_text(value: Decimal) -> str:
    """A Decimal as text that gives it back exactly, in every decimal context."""
    return _DECIMAL_TEXT(value)


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


_TO_BYTES: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    int: (_INT, _int_bytes),
    Decimal: (_DECIMAL, lambda value: _DECIMAL_TEXT(value).encode()),
    UUID: (_UUID, lambda value: value.bytes),
    timedelta: (_TIMEDELTA, lambda value: _SPAN.pack(value.days, value.seconds, value.microseconds)),
    date: (_DATE, lambda value: value.isoformat().encode()),
    time: (_TIME, lambda value: clock_text(value).encode("utf-8", "surrogatepass")),
    datetime: (_DATETIME, lambda value: clock_text(value).encode("utf-8", "surrogatepass")),
}
_FROM_BYTES: dict[int, Callable[[bytes], Any]] = {
    _INT: lambda data: int.from_bytes(data, "big", signed=True),
    _DECIMAL: lambda data: Decimal(data.decode("ascii")),
    _UUID: lambda data: UUID(bytes=data),
    _TIMEDELTA: lambda data: timedelta(*_SPAN.unpack(data)),
    _DATE: lambda data: date.fromisoformat(data.decode("ascii")),
    _TIME: partial(_clock, time),
    _DATETIME: partial(_clock, datetime),
}


def to_ext(value: Any) -> Any:
    """What msgpack writes in place of a value that it does not know. Raises ValueError saying what is wrong with it."""
    kind = type(value)
    if kind is tuple:
        return [_TUPLE, *value]
    if kind is set:
        return [_SET, *value]
    if kind is frozenset:
        return [_FROZENSET, *value]
    if kind is Typed:
        return [_MARKERS[value.code].ext, value.name, *value.state]
    code, to_bytes = _TO_BYTES[kind]
    return msgpack.ExtType(code, to_bytes(value))


def _from_ext(code: int, data: bytes) -> Any:
    from_bytes = _FROM_BYTES.get(code)
    if from_bytes is not None:
        return from_bytes(data)
    if code not in _MARKERS or data:
        raise ValueError(f"extension type {code} is unknown: damaged, or written by a newer version of celery-steps")
    return _MARKERS[code]


def _from_list(items: list[Any]) -> Any:
    if items and type(items[0]) is _Marker:
        return items[0].build(items[1:])
    return items


def _refuse_ext(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is unknown here")


_pack = partial(msgpack.packb, strict_types=True)
_pack_loose = partial(_pack, unicode_errors="surrogatepass")
_unpack = partial(msgpack.unpackb, strict_map_key=False, unicode_errors="surrogatepass", ext_hook=_refuse_ext)

_pack_value = partial(_pack, default=to_ext)
_pack_value_loose = partial(_pack_loose, default=to_ext)
_unpack_value = partial(_unpack, ext_hook=_from_ext, list_hook=_from_list)


def pack(value: Any) -> bytes:
    """Pack None, bool, int up to 64 bits, float, str, bytes, list and dict: for the envelopes of entries.

    Raises TypeError, OverflowError or ValueError for anything else.
    """
    try:
        return _pack(value)  # type: ignore[no-any-return]
    except UnicodeEncodeError:  # lone surrogates: the strict packer is the faster one
        return _pack_loose(value)  # type: ignore[no-any-return]


def unpack_flat(data: bytes) -> list[Any]:
    """Give back a list of scalars that `pack` packed, without looking at its depth. Raises ValueError for damaged bytes."""
    return _unpack(data)  # type: ignore[no-any-return]


def unpack(data: bytes) -> Any:
    """Give back what `pack` packed. Raises ResultError for damaged bytes and for more than 64 levels."""
    try:
        value = _unpack(data)
    except CORRUPT as error:
        raise ResultError(f"{len(data)} bytes cannot be read: {error}") from error
    if not _is_scalar_tree(value):
        raise ResultError(f"{len(data)} bytes cannot be read: damaged, or nested more than {MAX_DEPTH} levels deep")
    return value


def pack_value(value: Any) -> bytes:
    """Pack a plain value, with `Typed` where an object was. Raises one of CORRUPT for what cannot be written."""
    try:
        return _pack_value(value)  # type: ignore[no-any-return]
    except UnicodeEncodeError:
        return _pack_value_loose(value)  # type: ignore[no-any-return]


def unpack_value(data: bytes) -> Any:
    """Give back what `pack_value` packed, with `Typed` where an object was. Raises one of CORRUPT.

    Lengths are held against the bytes there are before anything is allocated. The decoder does not recurse and refuses
    more than 1,024 levels; more than 64 are refused by `is_plain` and `rebuild`, one of which comes next.
    """
    return _unpack_value(data)

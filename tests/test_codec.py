"""Values in records: they come back equal in value and type, or an error says where and why not."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import OrderedDict, defaultdict
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, localcontext
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from any_value import TEXT, VALUES, same
from hypothesis import given
from hypothesis import strategies as st

from celery_steps.codec import MAX_DEPTH, Codec, pack, unpack
from celery_steps.errors import ResultError

codec = Codec()


@given(VALUES)
def test_a_value_comes_back_equal_in_value_and_type_at_every_depth(value: Any) -> None:
    assert same(codec.decode(codec.encode(value)), value)


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | TEXT | st.binary(), st.lists))
def test_an_envelope_comes_back_as_it_was(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(st.binary(max_size=200))
def test_whatever_bytes_are_read_there_is_a_value_or_a_clear_error(data: bytes) -> None:
    for read in (codec.decode, lambda data: codec.decode(b"\x01" + data), unpack, codec.decode_failure):
        with suppress(ResultError):
            read(data)


@given(VALUES, st.data())
def test_a_damaged_record_gives_a_value_or_a_clear_error(value: Any, data: st.DataObject) -> None:
    record = bytearray(codec.encode(value))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ResultError):
        codec.decode(bytes(record))


# Frozen: a change here makes every journal in use unreadable.
VECTORS: list[tuple[Any, str]] = [
    (None, "01c0"),
    (True, "01c3"),
    (1, "0101"),
    (-1, "01ff"),
    (2**63, "01cf8000000000000000"),
    (2**64, "01c70910010000000000000000"),
    (-(2**63) - 1, "01c70910ff7fffffffffffffff"),
    (1.5, "01cb3ff8000000000000"),
    (-0.0, "01cb8000000000000000"),
    (math.inf, "01cb7ff0000000000000"),
    ("é", "01a2c3a9"),
    ("\ud800", "01a3eda080"),
    (b"\x00", "01c40100"),
    ([1, [2]], "0192019102"),
    ((1,), "0192c7000101"),
    ((), "0191c70001"),
    ({"a": (1,)}, "0181a16192c7000101"),
    ({(1, 2): 3}, "018193c70001010203"),
    ({1}, "0192c7000201"),
    (frozenset({1}), "0192c7000301"),
    (Decimal("1.50"), "01d611312e3530"),
    (UUID(int=1), "01d81200000000000000000000000000000001"),
    (timedelta(1, 2, 3), "01c70c13000000010000000200000003"),
    (date(2024, 2, 29), "01c70a14323032342d30322d3239"),
    (time(1, 2, 3), "01c709153030313a30323a3033"),
    (
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        "01c7231631323032342d31302d32375430323a33303a303020404575726f70652f4265726c696e",
    ),
    (
        datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=1), "CET")),
        "01c7231630323032342d30312d30325430303a30303a303020333630303030303030302043" + "4554",
    ),
]


@pytest.mark.parametrize(("value", "record"), VECTORS, ids=lambda part: str(part)[:30])
def test_the_format_is_frozen(value: Any, record: str) -> None:
    assert codec.encode(value).hex() == record
    assert same(codec.decode(bytes.fromhex(record)), value)


def test_a_decimal_is_written_alike_in_every_decimal_context() -> None:
    value = Decimal("1E+1000")
    with localcontext() as context:
        context.capitals, context.prec = 0, 1
        record = codec.encode([value, Decimal("1.2345")])
    assert record == codec.encode([value, Decimal("1.2345")])


class Odd(tzinfo):
    def utcoffset(self, at: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, at: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, at: datetime | None) -> str:
        return "odd"


class Percent(float):
    pass


class Anything:
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Anything(), "result is a {here}.Anything: use None, bool, numbers"),
        ({"items": [1, 2, 3, Anything()]}, 'result["items"][3] is a {here}.Anything'),
        ({"a": {1.5: (0, Anything())}}, 'result["a"][1.5][1] is a {here}.Anything'),
        ({(1, Anything()): 1}, "(the key <tuple> of result)[1] is a {here}.Anything"),
        ([{Anything()}], "an element of result[0] is a {here}.Anything"),
        (bytearray(b"x"), "result is a bytearray: make it bytes(...)"),
        ([memoryview(b"x")], "result[0] is a memoryview: make it bytes(...)"),
        (defaultdict(list), "a subclass of dict would come back as another type: make it a plain dict"),
        (OrderedDict(), "make it a plain dict"),
        ([Percent(1)], "result[0] is a {here}.Percent: a subclass of float"),
        (range(3), "result is a range: use None"),
        (print, "result is a builtin_function_or_method: use None"),
        (msgpack.ExtType(1, b""), "result is a msgpack.ext.ExtType"),
        (msgpack.Timestamp(1), "result is a msgpack.ext.Timestamp"),
        ([datetime(2024, 1, 1, tzinfo=Odd())], "result[0] is a datetime.datetime: its time zone is a {here}.Odd: use"),
        (time(1, tzinfo=Odd()), "use datetime.timezone, or zoneinfo.ZoneInfo with a key"),
    ],
    ids=lambda part: str(part)[:40] if isinstance(part, str) else type(part).__name__,
)
def test_what_cannot_be_recorded_is_refused_by_place_and_type(value: Any, message: str) -> None:
    with pytest.raises(ResultError) as caught:
        codec.encode(value)
    assert message.format(here=__name__) in str(caught.value)


def test_the_error_names_the_place_from_the_given_root_on() -> None:
    with pytest.raises(ResultError, match=r'^input\["card"\] is a '):
        codec.encode({"card": Anything()}, where="input")


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def test_64_levels_are_recorded_and_65_are_refused() -> None:
    assert codec.decode(codec.encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(ResultError, match="result is nested more than 64 levels deep, or contains itself"):
        codec.encode(nested(MAX_DEPTH + 1))


def test_a_list_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ResultError, match="contains itself"):
        codec.encode({"a": endless})


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 500, 1_000_000])
def test_a_record_that_is_nested_too_deep_is_refused(levels: int) -> None:
    for data in (b"\x91" * levels + b"\x01", b"\x92\xc7\x00\x01" * levels + b"\x01"):
        with pytest.raises(ResultError, match=r"cannot be read"):
            codec.decode(b"\x01" + data)
    with pytest.raises(ResultError, match="cannot be read"):
        unpack(b"\x91" * levels + b"\x01")


def test_a_length_beyond_the_bytes_that_there_are_is_refused_before_anything_is_allocated() -> None:
    for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6"):
        with pytest.raises(ResultError, match="cannot be read"):
            codec.decode(b"\x01" + head + b"\xff\xff\xff\xff")


def test_an_envelope_takes_plain_values_only() -> None:
    for value in ((1,), {1}, datetime(2024, 1, 1)):
        with pytest.raises(TypeError):
            pack(value)
    with pytest.raises(ResultError, match="extension type 1 is unknown here"):
        unpack(b"\xc7\x00\x01")


def test_a_record_reads_alike_in_another_process() -> None:
    value = {"a": [1, (2, "x")], "when": datetime(2024, 1, 2, tzinfo=timezone.utc)}
    program = "import sys; from celery_steps.codec import Codec; print(Codec().decode(bytes.fromhex(sys.argv[1])))"
    command = [sys.executable, "-c", program, codec.encode(value).hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert done.stdout.strip() == str(value)

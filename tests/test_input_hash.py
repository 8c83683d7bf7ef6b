"""The input hash: the same for the same value everywhere and always, another for everything else."""

from __future__ import annotations

import enum
import hashlib
import math
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from any_value import KEYS, VALUES, same
from hypothesis import given
from hypothesis import strategies as st

from celery_steps.codec import NO_INPUT_HASH, Codec, input_hash
from celery_steps.errors import ResultError

codec = Codec()


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Order:
    id: int
    colour: Colour = Colour.RED
    note: object = None


@dataclass
class Invoice:
    id: int
    colour: Colour = Colour.RED
    note: object = None


class Card(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    cents: int = 5
    _secret: str = "s"


def text(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    return f"s{len(name)}:{name}"


def card(**values: Any) -> Card:
    return Card.model_validate(values)


# Frozen: a change here makes open runs fail with InputMismatch.
TEXTS: list[tuple[Any, str]] = [
    (None, "n"),
    (True, "t"),
    (False, "f"),
    (0, "i0;"),
    (-(2**64), "i-10000000000000000;"),
    (1.5, "r0x1.8000000000000p+0;"),
    (-0.0, "r-0x0.0p+0;"),
    (math.nan, "rnan;"),
    ("é\ud800", "s2:é\ud800"),
    (b"\x00\xff", "b2:\x00\xff"),
    ([1, "a", [None]], "l3:i1;s1:al1:n"),
    ((1, "a"), "a2:i1;s1:a"),
    ({"b": 1, "a": {"x": 2.5}, 3: None}, "m3:i3;ns1:am1:s1:xr0x1.4000000000000p+1;s1:bi1;"),
    ({1, 2, "x"}, "e3:i1;i2;s1:x"),
    (frozenset({1}), "z1:i1;"),
    (Decimal("1.50"), "d1.50;"),
    (Decimal("1E+3"), "d1E+3;"),
    (UUID(int=1), "u00000000000000000000000000000001"),
    (timedelta(1, 2, 3), "P86402000003;"),
    (date(2024, 2, 29), "D2024-02-29"),
    (time(1, 2, 3, fold=1), "T9:101:02:03"),
    (datetime(2024, 1, 2, tzinfo=timezone.utc), "S22:02024-01-02T00:00:00 0"),
    (datetime(2024, 1, 2, tzinfo=ZoneInfo("Europe/Berlin")), "S35:02024-01-02T00:00:00 @Europe/Berlin"),
    (datetime(2024, 1, 2, tzinfo=timezone(timedelta(0, 1), "x")), "S30:02024-01-02T00:00:00 1000000 x"),
    (Order(1), f"o{text(Order)}1:m3:s2:idi1;s4:notens6:colourE{text(Colour)}s3:RED"),
    (Point(1, 2), f"o{text(Point)}1:m2:s1:xi1;s1:yi2;"),
    (Right.READ | Right.WRITE, f"E{text(Right)}i3;"),
    (card(cents=3, note="n"), f"o{text(Card)}3:m1:s5:centsi3;m1:s4:notes1:nm1:s7:_secrets1:s"),
]


@pytest.mark.parametrize(("value", "canonical"), TEXTS, ids=[ascii(text)[:30] for _, text in TEXTS])
def test_the_text_that_is_hashed_is_frozen(value: Any, canonical: str) -> None:
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    assert input_hash(value) == f"v1:sha256:{digest}"


def test_the_hash_is_frozen_to_the_last_digit() -> None:
    value = {"id": 42, "lines": [("pen", Decimal("1.50")), ("cup", None)], "when": datetime(2024, 1, 2, tzinfo=timezone.utc)}
    assert input_hash(value) == "v1:sha256:c54fc3ceae4166b3d8995bf28b506b83262fb122f81ab8a796783d4080fb59f7"
    assert NO_INPUT_HASH == "v1:sha256:3973e022e93220f9212c18d0d0c543ae7c309e46640da93a4a0314de999f5112"


def test_no_input_is_not_the_input_none() -> None:
    assert input_hash(None) != NO_INPUT_HASH


DIFFERENT: list[Any] = [
    None,
    "",
    "1",
    1,
    1.0,
    True,
    Decimal(1),
    Decimal("1.0"),
    b"1",
    0,
    -0.0,
    0.0,
    False,
    math.nan,
    math.inf,
    -math.inf,
    [],
    (),
    {},
    set(),
    frozenset(),
    [1],
    (1,),
    {1},
    frozenset({1}),
    [[]],
    [1, 2],
    [2, 1],
    [[1], 2],
    [1, [2]],
    ["1", "2"],
    ["1s1:2"],
    ["12"],
    {"a": 1},
    {"a": "1"},
    {"a": 1.0},
    {1: "a"},
    {"1": "a"},
    {"a": {"b": 1}},
    {("a", "b"): 1},
    date(2024, 1, 1),
    datetime(2024, 1, 1),
    datetime(2024, 1, 1, fold=1),
    datetime(2024, 1, 1, tzinfo=timezone.utc),
    datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
    "2024-01-01",
    time(0),
    timedelta(0),
    timedelta(microseconds=1),
    UUID(int=1),
    Order(1),
    Order(2),
    Order(1, Colour.GREEN),
    Order(1, note=1),
    Order(1, note="1"),
    Invoice(1),
    {"id": 1, "colour": Colour.RED, "note": None},
    Point(1, 2),
    Colour.RED,
    Colour.GREEN,
    "RED",
    Card(),
    Card(cents=6),
    card(note=1),
]


def test_values_that_differ_in_value_or_type_differ_in_hash() -> None:
    hashes = [input_hash(value) for value in DIFFERENT] + [NO_INPUT_HASH]
    assert len(set(hashes)) == len(DIFFERENT) + 1


@given(VALUES)
def test_a_value_that_went_through_a_record_has_the_same_hash(value: Any) -> None:
    assert input_hash(codec.decode(codec.encode(value))) == input_hash(value)


@given(VALUES, VALUES)
def test_two_values_have_the_same_hash_only_if_they_are_the_same(one: Any, other: Any) -> None:
    if input_hash(one) == input_hash(other):
        # What may differ: the order in dicts and the payload of a NaN.
        assert repr(codec.decode(codec.encode(one))) == repr(other) or same(one, other) or one == other


@given(st.lists(st.tuples(KEYS, VALUES)), st.randoms())
def test_the_order_of_a_dict_does_not_matter(items: list[tuple[Any, Any]], random: Any) -> None:
    unique = list(dict(items).items())
    shuffled = random.sample(unique, len(unique))
    assert input_hash(dict(unique)) == input_hash(dict(shuffled))


@given(st.lists(KEYS), st.randoms())
def test_the_order_of_a_set_does_not_matter(items: list[Any], random: Any) -> None:
    unique = list(set(items))
    shuffled = random.sample(unique, len(unique))
    assert input_hash(set(unique)) == input_hash(set(shuffled))


def test_every_nan_has_the_same_hash() -> None:
    other = struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]
    assert input_hash(other) == input_hash(math.nan)


def test_the_decimal_context_does_not_matter() -> None:
    value = Decimal("1.23E+40")
    with localcontext() as context:
        context.capitals, context.prec = 0, 1
        digest = input_hash(value)
    assert digest == input_hash(value)


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_the_hash_is_the_same_in_every_process(seed: str) -> None:
    program = "import test_input_hash as t; print([t.input_hash(v) for v in t.DIFFERENT] + [t.NO_INPUT_HASH])"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == str([input_hash(value) for value in DIFFERENT] + [NO_INPUT_HASH])


class Anything:
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Anything(), r"^input is a .*Anything: use None"),
        ({"items": [1, Anything()]}, r'^input\["items"\]\[1\] is a .*Anything'),
        ({(1, Anything()): 1}, r"^\(the key <tuple> of input\)\[1\] is a .*Anything"),
        ({Anything()}, r"^an element of input is a .*Anything"),
        (Order(1, note=[Anything()]), r"^input\.note\[0\] is a .*Anything"),
        (card(extra=Anything()), r"^input\.extra is a .*Anything"),
        (bytearray(b"x"), r"^input is a bytearray: make it bytes"),
        (type("Text", (str,), {})("x"), r"^input is a .*Text: a subclass of str .* make it a plain str"),
        (lambda: 1, r"^input is a function: use None"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_cannot_be_hashed_is_refused_by_place_and_type(value: Any, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        input_hash(value)


def test_the_error_names_the_place_from_the_given_root_on() -> None:
    with pytest.raises(ResultError, match=r"^argument\[0\] is a "):
        input_hash([Anything()], where="argument")


def test_an_attribute_that_is_no_field_is_refused_and_not_dropped() -> None:
    order = Order(1)
    order.extra = 2  # type: ignore[attr-defined]
    with pytest.raises(ResultError, match=r"^input\[0\] is a .*Order: it has an attribute 'extra'"):
        input_hash([order])


def test_a_computed_value_that_was_kept_does_not_change_the_hash_of_a_model() -> None:
    assert input_hash(Card(cents=5)) == input_hash(Card())


def test_64_levels_are_hashed_and_65_or_a_circle_are_refused() -> None:
    value: Any = 1
    for _ in range(64):
        value = [value]
    assert input_hash(value)
    circle: dict[str, Any] = {}
    circle["me"] = [circle]
    for deep in ([value], circle):
        with pytest.raises(ResultError, match="input is nested more than 64 levels deep, or contains itself"):
            input_hash(deep)

"""Objects in results: dataclasses, Enums, named tuples and pydantic models come back where a hint names them."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, Protocol, TypedDict, TypeVar, Union

import pydantic
import pytest

from celery_steps.codec import PLAIN, Codec
from celery_steps.errors import ResultError

codec = Codec()
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Size(enum.IntEnum):
    SMALL = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int = 0


Pair = namedtuple("Pair", "left right")


@dataclass
class Line:
    item: str
    price: Decimal
    colour: Colour = Colour.RED


@dataclass
class Order:
    id: int
    lines: list[Line] = field(default_factory=list)
    parent: Order | None = None


@dataclass(frozen=True, slots=True)
class Frozen:
    at: Point
    tags: frozenset[Colour] = frozenset()


@dataclass
class Counted:
    made = 0
    start: int
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        type(self).made += 1
        self.twice = 2 * self.start

    @functools.cached_property
    def thrice(self) -> int:
        return 3 * self.start


@dataclass
class Special(Line):
    pass


@dataclass
class Page(Generic[T]):
    number: int


class Shelf(TypedDict):
    best: Line


class Card(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    number: str = pydantic.Field(alias="no")
    line: Line | None = None
    cents: int = 5
    _secret: str = pydantic.PrivateAttr(default="s")

    @pydantic.field_validator("number")
    @classmethod
    def mask(cls, number: str) -> str:
        return "*" + number


class Bare(pydantic.BaseModel):
    pass


class Speaks(Protocol[T_co]):
    def speak(self) -> T_co: ...


def card(**values: Any) -> Card:
    return Card.model_validate(values)


Reference = NewType("Reference", Line)
LINE = Line("pen", Decimal("1.50"))

ROUND_TRIPS: list[tuple[Any, Any]] = [
    (LINE, Line),
    (LINE, Optional[Line]),  # noqa: UP045 - how older code writes it
    (LINE, Union[None, Order, Line]),  # noqa: UP007
    (LINE, Order | Line),
    (LINE, Annotated[Line | None, "checked"]),
    (LINE, Reference),
    ([LINE, None, 3], list[Line | int | None]),
    ([LINE], Sequence[Line]),
    ([LINE], list[int] | list[Line]),
    ((LINE,), Sequence[Line]),
    ((1, LINE), tuple[int, Line]),
    ((LINE, LINE), tuple[Line, ...]),
    ({"a": LINE}, dict[str, Line]),
    ({"a": [LINE]}, Mapping[str, list[Line]]),
    ({Colour.RED: 1}, dict[Colour, int]),
    ({"best": LINE, "worst": 1}, Shelf),
    ({Frozen(Point(1, 2))}, set[Frozen]),
    (frozenset({Point(1, 2)}), frozenset[Point]),
    (Order(1, [LINE, Line("cup", Decimal(2), Colour.GREEN)], Order(0)), Order),
    (Frozen(Point(1, 2), frozenset({Colour.GREEN})), Frozen),
    (Page(3), Page[int]),
    (Colour.GREEN, Colour),
    (Colour.GREEN, Literal[Colour.GREEN, Colour.RED]),
    (Size.SMALL, Size),
    (Right.READ | Right.WRITE, Right),
    (Right(0), Right),
    (Point(1, 2), Point),
    (Pair((1,), [2]), Pair),
    (Card(no="42", line=LINE), Card),
    (card(no="42", cents=7, note=(1, 2)), Card),
    ([LINE], list[Line] | Speaks[int]),
    (LINE, Line | Speaks[int]),
    (1, Line),
    ({"item": "pen"}, Line | dict[str, str]),
]


@pytest.mark.parametrize(("value", "hint"), ROUND_TRIPS, ids=lambda part: str(part)[:40])
def test_an_object_comes_back_in_the_class_that_the_hint_names(value: Any, hint: Any) -> None:
    found = codec.decode(codec.encode(value, hint=hint), hint=hint)
    assert found == value
    assert repr(found) == repr(value)
    assert type(found) is type(value)


def test_neither_init_nor_post_init_nor_validators_run_again() -> None:
    counted, gold = Counted(1), card(no="42")
    made = Counted.made
    assert codec.decode(codec.encode(counted, hint=Counted), hint=Counted) == counted
    assert Counted.made == made
    assert codec.decode(codec.encode(gold, hint=Card), hint=Card).number == "*42"


def test_a_model_keeps_its_private_attributes_its_extras_and_what_was_set() -> None:
    gold = card(no="42", note="n")
    gold._secret = "changed"
    found = codec.decode(codec.encode(gold, hint=Card), hint=Card)
    assert (found._secret, found.note, found.model_fields_set) == ("changed", "n", {"number", "note"})


def test_a_cached_property_is_computed_again() -> None:
    counted = Counted(1)
    assert counted.thrice == 3
    found = codec.decode(codec.encode(counted, hint=Counted), hint=Counted)
    assert "thrice" not in vars(found)
    assert found.thrice == 3


def test_an_attribute_that_is_no_field_is_refused_and_not_dropped() -> None:
    line = dataclasses.replace(LINE)
    line.note = "n"  # type: ignore[attr-defined]
    with pytest.raises(ResultError, match=r"result is a .*Line: it has an attribute 'note' that is not one of its fields"):
        codec.encode(line, hint=Line)


@pytest.mark.parametrize("value", [LINE, Colour.RED, Size.SMALL, Point(1), Card(no="4")], ids=lambda v: type(v).__name__)
def test_an_object_that_no_hint_names_is_refused_with_what_to_add(value: Any) -> None:
    name = type(value).__name__
    for hint in (None, int, Any, list[Any], "Line"):
        with pytest.raises(ResultError, match=rf"result is a .*\.{name}: .* add returns={name} .*list\[{name}\]"):
            codec.encode(value, hint=hint)
    with pytest.raises(ResultError, match=rf'result\["a"\]\[0\] is a .*\.{name}: '):
        codec.encode({"a": [value]}, hint=dict[str, list[int]])


def test_a_field_whose_annotation_does_not_name_the_class_is_refused() -> None:
    with pytest.raises(ResultError, match=r"result\.item is a .*Colour: "):
        codec.encode(Line(Colour.RED, Decimal(1)), hint=Line)  # type: ignore[arg-type]


def test_an_annotation_that_cannot_be_resolved_does_not_hide_plain_fields() -> None:
    class Local:
        pass

    @dataclass
    class Holder:
        number: int
        local: Local | None = None

    assert codec.decode(codec.encode(Holder(1), hint=Holder), hint=Holder) == Holder(1)
    with pytest.raises(ResultError, match=r"result\.local is a .*Local: "):
        codec.encode(Holder(1, Local()), hint=Holder)


def test_a_subclass_of_what_the_hint_names_is_refused_with_what_to_add() -> None:
    special = Special("pen", Decimal(1))
    with pytest.raises(ResultError, match=r"a subclass of Line, and only that is named: add returns=Line \| Special"):
        codec.encode(special, hint=Line)
    assert type(codec.decode(codec.encode(special, hint=Line | Special), hint=Line | Special)) is Special


def test_a_dataclass_that_is_also_a_dict_or_an_exception_is_refused() -> None:
    @dataclass
    class Odd(dict[str, int]):
        number: int = 1

    @dataclass
    class Broken(Exception):
        number: int = 1

    for value in (Odd(), Broken()):
        with pytest.raises(ResultError, match="result is a "):
            codec.encode(value, hint=type(value))


def test_a_record_of_an_object_is_not_read_without_its_class() -> None:
    record = codec.encode([LINE], hint=list[Line])
    for hint in (None, int, list[int], list[Colour], list[Order | Counted]):
        with pytest.raises(ResultError, match=r"cannot be read: it holds a .*\.Line, whose class is not given: add returns=Line"):
            codec.decode(record, hint=hint)


def test_a_renamed_class_takes_over_the_records_of_the_old_one() -> None:
    Renamed = dataclasses.make_dataclass("Renamed", [("item", str), ("price", Decimal), ("colour", Colour)])
    found = codec.decode(codec.encode(LINE, hint=Line), hint=Renamed | None)
    assert dataclasses.astuple(found) == dataclasses.astuple(LINE)


def test_a_field_gained_since_takes_its_default_and_one_lost_is_dropped() -> None:
    changes: list[tuple[Any, Any, Any]] = [
        (
            dataclasses.make_dataclass("Old", [("a", int), ("b", int)])(1, 2),
            dataclasses.make_dataclass("New", [("a", int), ("c", list, field(default_factory=list)), ("d", int, 4)]),
            {"a": 1, "c": [], "d": 4},
        ),
        (Pair(1, 2), namedtuple("New", "left c", defaults=[3]), {"left": 1, "c": 3}),
        (
            pydantic.create_model("Old", a=(int, ...), b=(int, 2))(a=1),
            pydantic.create_model("New", a=(int, ...), c=(int, 3)),
            {"a": 1, "c": 3},
        ),
    ]
    for old, new, expected in changes:
        found = codec.decode(codec.encode(old, hint=type(old)), hint=new)
        assert {name: getattr(found, name) for name in expected} == expected
        assert not hasattr(found, "b")
        assert not hasattr(found, "right")


def test_a_field_gained_without_a_default_is_an_error_that_names_it() -> None:
    changes: list[tuple[Any, Any]] = [
        (LINE, dataclasses.make_dataclass("New", [("item", str), ("z", int)])),
        (Pair(1, 2), namedtuple("New", "left z")),
        (Bare(), pydantic.create_model("New", z=(int, ...))),
    ]
    for old, new in changes:
        with pytest.raises(ResultError, match=r"New has a field 'z' that was not recorded: give it a default"):
            codec.decode(codec.encode(old, hint=type(old)), hint=new)


def test_a_dataclass_that_became_a_model_is_an_error() -> None:
    with pytest.raises(ResultError, match=r"Card is a pydantic model, and what was recorded was none"):
        codec.decode(codec.encode(LINE, hint=Line), hint=Card)


def test_a_member_that_the_enum_has_lost_is_an_error_that_names_it() -> None:
    Fewer = enum.Enum("Fewer", "RED")
    with pytest.raises(ResultError, match=r"Fewer has no member 'GREEN' any more"):
        codec.decode(codec.encode(Colour.GREEN, hint=Colour), hint=Fewer)


def test_without_classes_objects_are_shown_as_their_fields() -> None:
    value = {"order": Order(1, [LINE]), "at": (Point(1), Colour.RED, {Frozen(Point(2))}), "card": card(no="4", note="n")}
    shown = codec.decode(codec.encode(value, hint=PLAIN), hint=PLAIN)
    assert shown == {
        "order": {"id": 1, "lines": [{"item": "pen", "price": Decimal("1.50"), "colour": "RED"}], "parent": None},
        "at": ({"x": 1, "y": 0}, "RED", [{"at": {"x": 2, "y": 0}, "tags": frozenset()}]),
        "card": {"number": "*4", "line": None, "cents": 5, "note": "n"},
    }
    assert codec.decode(codec.encode({Point(1): 1}, hint=PLAIN), hint=PLAIN) == {"{'x': 1, 'y': 0}": 1}


def test_an_object_nested_too_deep_is_refused() -> None:
    order = Order(0)
    for number in range(70):
        order = Order(number, parent=order)
    with pytest.raises(ResultError, match="result is nested more than 64 levels deep"):
        codec.encode(order, hint=Order)


# Frozen: a change here makes every journal in use unreadable. (m stands for the module.)
@pytest.mark.parametrize(
    ("value", "record"),
    [
        (Point(1, 2), b"\x01\x93\xc7\x00\x04\xa7m.Point\x82\xa1x\x01\xa1y\x02"),
        (Page(3), b"\x01\x93\xc7\x00\x04\xa6m.Page\x81\xa6number\x03"),
        (Colour.RED, b"\x01\x93\xc7\x00\x05\xa8m.Colour\xa3RED"),
        (Right.READ | Right.WRITE, b"\x01\x93\xc7\x00\x05\xa7m.Right\x03"),
        (
            card(no="4", note=1),
            b"\x01\x96\xc7\x00\x04\xa6m.Card\x83\xa6number\xa2*4\xa4line\xc0\xa5cents\x05"
            b"\x92\xa4note\xa6number\x81\xa4note\x01\x81\xa7_secret\xa1s",
        ),
        (Bare(), b"\x01\x96\xc7\x00\x04\xa6m.Bare\x80\x90\xc0\xc0"),
    ],
    ids=lambda part: str(part)[:20],
)
def test_the_format_of_objects_is_frozen(value: Any, record: bytes) -> None:
    name = f"{type(value).__module__}.{type(value).__name__}".encode()
    short = f"m.{type(value).__name__}".encode()
    written = codec.encode(value, hint=PLAIN)
    # The length of the name stands before it, in one byte or two.
    head = bytes([0xA0 + len(name)]) if len(name) < 32 else bytes([0xD9, len(name)])
    assert written == record.replace(bytes([0xA0 + len(short)]) + short, head + name)
    assert codec.decode(record, hint=type(value)) == value

"""What an operator says of a step in doubt is plain data: the body gets the class that the code works with."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, time, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from celery import Celery
from pydantic import BaseModel
from runs.outside import store_of

from celery_steps import DurableTask, ResultError, Runs
from celery_steps.codec import fit
from delivering import deliver, make_app, published
from servers import RedisServer

TICKET = {"headers": {"steps_ticket": True}}


class Currency(enum.Enum):
    EURO = "EUR"
    POUND = "GBP"


@dataclass(frozen=True)
class Charge:
    id: str
    amount: Decimal = Decimal(0)
    currency: Currency = Currency.EURO
    receipt: UUID = field(default_factory=uuid4)


class Invoice(BaseModel):
    number: int
    charges: list[Charge] = []


class Place(NamedTuple):
    street: str
    number: int


ONE = Charge("a", receipt=UUID(int=1))


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    return make_app(redis_server)


@pytest.fixture
def runs(app: Celery) -> Runs:
    return Runs(app)


def in_doubt(app: Celery, body: Callable[[DurableTask], Any]) -> Any:
    """A run whose worker died in the handler of its step at most once."""
    pay = app.task(bind=True, base=DurableTask, name="shop.pay")(body)
    with pytest.raises(KeyboardInterrupt):
        deliver(pay, id="id-1")
    store_of(app).client.call("HSET", store_of(app).keys.namespace("id-1").run, "lease", "0")
    deliver(pay, id="id-1", redelivered=True)
    assert Runs(app).get("id-1").status == "in_doubt"
    return pay


def die() -> Charge:
    raise KeyboardInterrupt


def pay_once(self: DurableTask) -> str:
    charge: Charge = self.step.run("charge", die, at_most_once=True)
    return charge.id


SAID = {"id": "ch_1", "amount": "2.50", "currency": "GBP"}


def test_it_comes_as_the_class_of_the_handler_s_annotation_and_is_recorded_so(app: Celery, runs: Runs) -> None:
    seen: list[Charge] = []

    def body(self: DurableTask) -> str:
        seen.append(self.step.run("charge", die, at_most_once=True))
        self.step.sleep("a while", "1h")
        return "never"

    pay = in_doubt(app, body)
    runs.resolve("id-1", done=SAID)
    deliver(pay, id="id-1", **TICKET)
    deliver(pay, id="id-1", **TICKET)
    deliver(pay, id="id-1", **TICKET)
    first = seen[0]
    assert (first.id, first.amount, first.currency) == ("ch_1", Decimal("2.50"), Currency.POUND)
    assert all(charge == first for charge in seen), "what a default made up is made up once"
    charged, _ = runs.records("id-1")
    assert (charged.key, charged.status, charged.result["id"]) == ("charge", "done", "ch_1")


def test_an_undo_gets_that_class_too_also_before_the_body_came_by(app: Celery, runs: Runs) -> None:
    undone: list[Charge] = []

    def body(self: DurableTask) -> None:
        self.step.run("charge", die, at_most_once=True, rollback=undone.append)

    pay = in_doubt(app, body)
    runs.resolve("id-1", done=SAID)
    runs.cancel("id-1")
    for _ in range(2):
        deliver(pay, id="id-1", **TICKET)
    assert runs.get("id-1").status == "cancelled"
    assert [charge.id for charge in undone] == ["ch_1"]


def test_in_a_parallel_block_and_with_returns(app: Celery, runs: Runs) -> None:
    calls: list[int] = []

    def refuse() -> Any:
        calls.append(1)
        raise KeyboardInterrupt

    def body(self: DurableTask) -> str:
        with self.step.parallel() as p:
            charge = p.run("charge", refuse, at_most_once=True, returns=Charge)
            other = p.run("other", lambda: 1)
        return f"{charge.result().id} {other.result()}"

    pay = in_doubt(app, body)
    runs.resolve("id-1", done={"amount": "1"})
    deliver(pay, id="id-1", **TICKET)
    assert runs.get("id-1").status == "in_doubt"
    runs.resolve("id-1", done=SAID)
    assert deliver(pay, id="id-1", **TICKET).retval == "ch_1 1"
    assert calls == [1]


@pytest.mark.parametrize("said", [{"amount": "1"}, {"id": "x", "amount": "many"}, {"id": "x", "colour": "red"}, "ch_1", None])
def test_what_does_not_fit_leaves_the_doubt_says_so_and_can_be_said_again(
    app: Celery, runs: Runs, said: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pay = in_doubt(app, pay_once)
    runs.resolve("id-1", done=said)
    deliver(pay, id="id-1", **TICKET)
    run = runs.get("id-1")
    assert run.status == "in_doubt"
    assert "'charge' (occurrence 1), which is in doubt again: what was said of it cannot be its result" in run.waiting
    assert "id-1" in caplog.text, "the worker's log says it too"
    published(app)
    runs.resolve("id-1", done=SAID)
    assert deliver(pay, id="id-1", **TICKET).retval == "ch_1"
    assert [record.key for record in runs.records("id-1")] == ["charge"]


@dataclass
class Session:
    """What its constructor makes of plain data cannot be recorded."""

    id: str

    def __post_init__(self) -> None:
        self.id = object()  # type: ignore[assignment]


def test_what_fits_but_cannot_be_recorded_leaves_the_doubt_as_well(app: Celery, runs: Runs) -> None:
    def body(self: DurableTask) -> None:
        self.step.run("charge", die, at_most_once=True, returns=Session)

    pay = in_doubt(app, body)
    runs.resolve("id-1", done={"id": "s"})
    deliver(pay, id="id-1", **TICKET)
    run = runs.get("id-1")
    assert run.status == "in_doubt"
    assert "which is in doubt again: what was said of it cannot be its result" in run.waiting


def test_an_object_of_that_class_may_be_said_as_well(app: Celery, runs: Runs) -> None:
    pay = in_doubt(app, pay_once)
    runs.resolve("id-1", done=Charge("ch_2"))
    assert deliver(pay, id="id-1", **TICKET).retval == "ch_2"


def test_what_is_in_doubt_is_so_in_a_copy(app: Celery, runs: Runs) -> None:
    pay = in_doubt(app, pay_once)
    copy = runs.fork("id-1")
    deliver(pay, id=copy, **TICKET)
    assert runs.get(copy).status == "in_doubt", "and the handler was not called"
    runs.resolve(copy, done=SAID)
    assert deliver(pay, id=copy, **TICKET).retval == "ch_1"


def test_a_copy_takes_along_what_was_said_before_the_run_came_by(app: Celery, runs: Runs) -> None:
    pay = in_doubt(app, pay_once)
    runs.resolve("id-1", done=SAID)
    copy = runs.fork("id-1")
    assert deliver(pay, id=copy, **TICKET).retval == "ch_1"


@pytest.mark.parametrize(
    ("said", "hint", "fitted"),
    [
        ({"number": 7, "charges": [{"id": "a", "receipt": UUID(int=1).hex}]}, Invoice, Invoice(number=7, charges=[ONE])),
        ("EUR", Currency, Currency.EURO),
        ("EURO", Currency | None, Currency.EURO),
        (None, Currency | None, None),
        (["Lane", 1], Place, Place("Lane", 1)),
        ({"street": "Lane", "number": 1}, list[Place] | Place, Place("Lane", 1)),
        ({"home": ["Lane", 1]}, dict[str, Place], {"home": Place("Lane", 1)}),
        (["EUR", "GBP"], set[Currency], {Currency.EURO, Currency.POUND}),
        ([1, "2.5"], tuple[int, Decimal], (1, Decimal("2.5"))),
        (["1"], tuple[Decimal, ...], (Decimal(1),)),
        ("2026-01-02T03:04:05+00:00", datetime, datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)),
        ("2026-01-02T03:04:05Z", datetime, datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)),
        ("03:04:05z", time, time(3, 4, 5, tzinfo=timezone.utc)),
        (2.5, Decimal, Decimal("2.5")),
        (0.1, Decimal | None, Decimal("0.1")),
        ({"id": "a", "amount": 0.1, "receipt": UUID(int=1).hex}, Charge, Charge("a", Decimal("0.1"), receipt=UUID(int=1))),
        ({"7": ["Lane", 1]}, dict[int, Place], {7: Place("Lane", 1)}),
        ({"0.5": 1}, dict[float, int], {0.5: 1}),
        ("as it is", int, "as it is"),
        ({"any": ["thing"]}, None, {"any": ["thing"]}),
        ({"any": ["thing"]}, Any, {"any": ["thing"]}),
    ],
)  # fmt: skip
def test_plain_data_fits_what_a_hint_names(said: Any, hint: Any, fitted: Any) -> None:
    found = fit(said, hint)
    assert (found, type(found)) == (fitted, type(fitted))


@pytest.mark.parametrize(
    ("said", "hint", "text"),
    [
        ("DOLLAR", Currency, "result does not fit test_resolved_values.Currency: 'DOLLAR' is not a valid Currency"),
        (["Lane"], Place, "result is a list, not a test_resolved_values.Place: give its fields as a dict"),
        ([{"id": 1}, 3], list[Charge], r"result\[1\] is a int, not a test_resolved_values.Charge"),
        ([1], tuple[int, int], "result has 1 elements, not 2"),
        ({"id": "x", "amount": "many"}, Charge, "result.amount does not fit decimal.Decimal: 'many' is no number"),
        ({"number": "x"}, Invoice, "result does not fit test_resolved_values.Invoice: 1 validation error"),
        ({"seven": 1}, dict[int, int], 'the key "seven" of result does not fit builtins.int: invalid literal'),
        ("yesterday", datetime, "result does not fit datetime.datetime"),
        ([[1]], set[list[int]], "result does not fit builtins.set: unhashable type"),
        ("x", Charge | Currency, "result is a str, not a test_resolved_values.Charge"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(said: Any, hint: Any, text: str) -> None:
    with pytest.raises(ResultError, match=text):
        fit(said, hint)

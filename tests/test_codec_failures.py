"""Failures in records: the same exception comes back, or StepFailed says what it was."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celery_steps.codec import Codec, RecordedTraceback
from celery_steps.errors import AttemptEnded, ResultError, StepFailed

codec = Codec()


def again(exc: BaseException) -> Exception:
    """The exception as a replay raises it."""
    return codec.decode_failure(codec.encode_failure(exc))


class Declined(Exception):
    calls = 0

    def __init__(self, code: int, *, card: str) -> None:
        type(self).calls += 1
        super().__init__(f"declined with {code}")
        self.code = code
        self.card = card


class Slotted(Exception):
    __slots__ = ("empty", "nothing", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.nothing = None


class Named(OSError):
    def __init__(self, number: int, host: str) -> None:
        self.host = host
        super().__init__(number, "no route")


class Guarded(Exception):
    def __new__(cls, *args: Any) -> Guarded:
        raise AssertionError("ran")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError("ran")


@dataclass(frozen=True)
class Dated(Exception):
    day: int


class Outer:
    class Inner(Exception):
        pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def unreadable(data: bytes) -> Exception:
    try:
        data.decode("ascii")
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


def unparsable() -> Exception:
    try:
        json.loads("{")
    except json.JSONDecodeError as error:
        return error
    raise AssertionError


def unopenable() -> Exception:
    try:
        Path("/nowhere/at/all").read_bytes()
    except OSError as error:
        return error
    raise AssertionError


FAILURES = [
    ValueError("no", 1, (2,)),
    KeyError("k"),
    Declined(7, card="visa"),
    Slotted(4),
    Named(113, "db"),
    Dated(3),
    Outer.Inner("x"),
    ConnectionRefusedError(111, "refused"),
    unreadable(b"\xff"),
    unparsable(),
    unopenable(),
    StopIteration(3),
    ImportError("no", name="shop", path="/shop"),
    SyntaxError("bad", ("f.py", 1, 2, "text")),
    subprocess.CalledProcessError(2, ["ls", "-l"], output=b"o", stderr=b"e"),
]


@pytest.mark.parametrize("exc", FAILURES, ids=lambda exc: type(exc).__name__)
def test_an_exception_comes_back_with_its_type_args_and_attributes(exc: Exception) -> None:
    found = again(exc)
    assert type(found) is type(exc)
    assert (found.args, vars(found), str(found), repr(found)) == (exc.args, vars(exc), str(exc), repr(exc))
    for name in ("errno", "strerror", "filename", "reason", "start", "value", "name", "path", "lineno", "number", "nothing"):
        assert getattr(found, name, "unset") == getattr(exc, name, "unset")


def test_an_init_with_required_arguments_is_not_called() -> None:
    exc = Declined(7, card="visa")
    calls = Declined.calls
    found = again(exc)
    assert isinstance(found, Declined)
    assert (found.code, found.card, Declined.calls) == (7, "visa", calls)


def test_no_code_of_the_class_runs_when_it_comes_back() -> None:
    exc = Exception.__new__(Guarded, "x")
    assert type(again(exc)) is Guarded


def test_the_traceback_of_the_first_time_is_printed_as_the_cause() -> None:
    def charge_the_card() -> None:
        raise Declined(7, card="visa")

    try:
        charge_the_card()
    except Declined as error:
        found = again(error)
    assert isinstance(found.__cause__, RecordedTraceback)
    printed = "".join(traceback.format_exception(found))
    assert "charge_the_card" in printed
    assert printed.rstrip().endswith("Declined: declined with 7")


def test_what_cannot_be_recorded_of_an_exception_is_named_and_the_rest_comes_back() -> None:
    exc = ValueError("no", print)
    exc.response, exc.status = object(), 503  # type: ignore[attr-defined]
    found: Any = again(exc)
    assert found.args == ("no", "<built-in function print>")
    assert found.status == 503
    assert not hasattr(found, "response")
    assert "not recorded: response" in str(found.__cause__)


def test_an_attribute_nested_too_deep_is_left_out() -> None:
    deep: Any = 1
    for _ in range(63):
        deep = [deep]
    exc = ValueError("no")
    exc.deep = deep  # type: ignore[attr-defined]
    found = again(exc)
    assert type(found) is ValueError
    assert "not recorded: deep" in str(found.__cause__)


def test_an_exception_that_cannot_be_printed_is_recorded_all_the_same() -> None:
    assert type(again(Unprintable("x"))) is Unprintable
    exc = ValueError(type("Mute", (), {"__repr__": lambda self: 1 / 0})())
    assert again(exc).args == ("<Mute, whose repr() raises ZeroDivisionError>",)


def test_a_class_that_is_not_at_module_level_gives_step_failed() -> None:
    class Local(Exception):
        pass

    found = again(Local("gone"))
    assert type(found) is StepFailed
    assert str(found) == f"{__name__}.{Local.__qualname__}: gone"
    assert "Local: gone" in str(found.__cause__)


@pytest.mark.parametrize("path", ["shop.errors:Declined", f"{__name__}:Gone", f"{__name__}:codec", "os:path.join", "", "json"])
def test_a_class_that_is_not_to_be_found_gives_step_failed(path: str) -> None:
    record = codec.decode(codec.encode_failure(Declined(7, card="visa")))
    found = codec.decode_failure(codec.encode({**record, "type": path}))
    assert type(found) is StepFailed
    assert "declined with 7" in str(found)


def test_no_module_is_imported_and_no_lazy_attribute_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = type(sys)("lazy_shop")
    lazy.__getattr__ = lambda name: Declined  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_shop", lazy)
    record = codec.decode(codec.encode_failure(ValueError("x")))
    for path in ("lazy_shop:Declined", "this:Anything"):
        assert type(codec.decode_failure(codec.encode({**record, "type": path}))) is StepFailed
    assert "this" not in sys.modules


@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), AttemptEnded("over")], ids=repr)
def test_what_is_no_exception_proper_is_never_raised_again_as_itself(exc: BaseException) -> None:
    found = again(exc)
    assert type(found) is StepFailed
    assert type(exc).__qualname__ in str(found)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups begin with Python 3.11")
def test_an_exception_group_gives_step_failed_with_everything_in_its_traceback() -> None:
    group = builtins.ExceptionGroup("two", [ValueError("one"), KeyError("other")])  # type: ignore[attr-defined]
    found = again(group)
    assert type(found) is StepFailed
    assert str(found).endswith("ExceptionGroup: two (2 sub-exceptions)")
    assert "ValueError: one" in str(found.__cause__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes begin with Python 3.11")
def test_notes_come_back() -> None:
    exc = ValueError("x")
    exc.add_note("seen twice")  # type: ignore[attr-defined]
    assert again(exc).__notes__ == ["seen twice"]  # type: ignore[attr-defined]


def test_a_failure_larger_than_the_limit_is_shortened_and_keeps_its_type() -> None:
    small = Codec(max_size=20_000)
    exc = Declined(7, card="v" * 100_000)
    exc.args = ("m" * 100_000,)
    record = small.encode_failure(exc)
    assert len(record) < 20_000
    found = small.decode_failure(record)
    assert type(found) is Declined
    assert found.args == ("m" * 1_000,)
    assert "not recorded: card, code" in str(found.__cause__)


def test_a_failure_of_a_failure_given_back_can_be_recorded_again() -> None:
    found = again(again(Declined(7, card="visa")))
    assert isinstance(found, Declined)
    assert found.code == 7


@pytest.mark.parametrize("value", [None, 3, {}, {"type": "builtins:ValueError"}, [1]])
def test_a_record_of_something_else_is_no_failure(value: Any) -> None:
    with pytest.raises(ResultError, match=r"the record of step 'charge' .* is not a failure"):
        codec.decode_failure(codec.encode(value), namespace="n", key="charge", sequence=1)

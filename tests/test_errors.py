"""One root for errors; what ends an attempt is no Exception."""

from __future__ import annotations

import inspect

import pytest

from celery_steps import errors

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_first_line_of_the_docstring_is_the_default_message(cls: type[BaseException]) -> None:
    assert cls.__doc__ is not None
    assert str(cls()) == cls.__doc__.splitlines()[0]
    assert str(cls("order-42 is busy")) == "order-42 is busy"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_an_error_or_ends_the_attempt(cls: type[BaseException]) -> None:
    assert issubclass(cls, errors.StepsError) != issubclass(cls, errors.AttemptEnded)


def test_what_ends_an_attempt_is_not_swallowed_by_except_exception() -> None:
    def body() -> None:
        try:
            raise errors.Suspended
        except Exception:
            pytest.fail("swallowed")

    with pytest.raises(errors.Suspended):
        body()

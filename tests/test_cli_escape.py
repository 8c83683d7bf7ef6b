"""What the command line makes of texts and values that nobody should trust."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from celery_steps.escape import as_json, document, error_text, safe, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Zürich 東京 🚚", "Zürich 東京 🚚"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202eevil\u2066\u200f", "\\u202eevil\\u2066\\u200f"),
        ("\u200b\ufeff\u2028", "\\u200b\\ufeff\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("a\u20dd", "a\\u20dd"),
    ],
)
def test_text_is_one_line_without_anything_hidden(text: str, line: str) -> None:
    assert safe(text) == line


class Evil(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_without_text_is_still_named() -> None:
    assert error_text(Evil()) == "Evil: <its text cannot be had: RuntimeError>"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (float("inf"), {"$float": "inf"}),
        (2**80, 2**80),
        (10**20_000, {"$int": hex(10**20_000)}),
        ((1, [2]), {"$tuple": [1, [2]]}),
        ({2, 1}, {"$set": [1, 2]}),
        (frozenset({1}), {"$frozenset": [1]}),
        (b"\xff", {"$bytes": "/w=="}),
        (Decimal("1.50"), {"$decimal": "1.50"}),
        (UUID(int=1), {"$uuid": "00000000-0000-0000-0000-000000000001"}),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), {"$datetime": "2026-01-02T00:00:00+00:00"}),
        (date(2026, 1, 2), {"$date": "2026-01-02"}),
        (time(3, 4), {"$time": "03:04:00"}),
        (timedelta(minutes=1), {"$seconds": 60.0}),
        ({"a": {"b": b""}}, {"a": {"b": {"$bytes": ""}}}),
        ({1: 2}, {"$dict": [[1, 2]]}),
        ({"$bytes": "no"}, {"$dict": [["$bytes", "no"]]}),
    ],
    ids=lambda value: f"{value!r:.30}" if not isinstance(value, int) else "int",
)
def test_values_that_json_does_not_know_are_marked(value: Any, form: Any) -> None:
    assert as_json(value) == form
    assert json.loads(document(form)) == form


def test_an_int_that_python_does_not_write_is_shown() -> None:
    assert shown(10**20_000, 40).startswith('{"$int": "0x')

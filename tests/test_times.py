"""Durations and points in time as people write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from celery_steps import StepsError
from celery_steps.times import duration, moment, spoken


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("12h", 43_200), ("7d", 604_800), ("1h30m", 5400), ("2w", 1_209_600), (1.5, 1.5), (timedelta(minutes=1), 60)],
)
def test_durations_are_understood(text: Any, seconds: float) -> None:
    assert duration(text, "older_than") == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7 days", "-1s", -1, True, None, float("nan"), float("inf"), "1h!", "٣s"])
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(StepsError, match="older_than must be seconds"):
        duration(text, "older_than")


def test_a_moment_keeps_its_offset() -> None:
    assert moment("2026-01-01T00:00:00Z", "since") == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert moment("2026-01-01T02:00:00+02:00", "since") == datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12 ms"),
        (1.25, "1.2 s"),
        (45.9, "45 s"),
        (60, "1 min"),
        (3725, "1 h 2 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_told_in_one_or_two_units(seconds: float, text: str) -> None:
    assert spoken(seconds) == text

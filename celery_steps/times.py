"""Durations and points in time as people write them."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import datetime, timedelta, timezone

from celery_steps.errors import StepsError

_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)([wdhms])", re.ASCII)
_LONGEST = 1000 * 365 * 86_400
_LATEST = 253_402_300_800  # the year 10000, which datetime does not know


def duration(value: float | timedelta | str, name: str) -> float:
    """Seconds of a number, a timedelta, or text such as "90s", "7d", "1h30m". StepsError naming `name` for anything else."""
    seconds: object = value
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        parts = _PART.findall(value)
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in parts) if parts and not _PART.sub("", value) else None
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds <= _LONGEST:
        return float(seconds)
    raise StepsError(f'{name} must be seconds, a timedelta or text such as "90s", "12h", "7d", "1h30m", not {value!r:.80}.')


def moment(value: datetime | str, name: str) -> datetime:
    """An aware datetime, ISO 8601 text with an offset, or how long ago ("2h"). StepsError for a naive one and anything else."""
    found: object = value
    if isinstance(value, str):
        if _PART.match(value) and not _PART.sub("", value):
            return datetime.now(timezone.utc) - timedelta(seconds=duration(value, name))
        try:
            found = datetime.fromisoformat(utc_written_out(value))
        except ValueError:
            found = None
    if not isinstance(found, datetime):
        raise StepsError(f'{name} must be an aware datetime, ISO 8601 text with an offset, or "2h" (ago), not {value!r:.80}.')
    if found.tzinfo is None:
        raise StepsError(f"{name} has no time zone: write {found.isoformat()}+00:00, or the offset that you mean.")
    return found


def utc_written_out(text: str) -> str:
    """A time in ISO 8601 with its Z as an offset, which Python 3.10 reads as well."""
    return re.sub(r"[zZ]$", "+00:00", text)


def epoch_ms(value: datetime | str | float, name: str) -> int:
    """Milliseconds since 1970 of an aware datetime, ISO 8601 text with an offset, or seconds since 1970. StepsError otherwise."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LATEST:
        return int(value * 1000)
    found: object = value
    if isinstance(value, str):
        with suppress(ValueError):
            found = datetime.fromisoformat(utc_written_out(value))
    if not isinstance(found, datetime):
        raise StepsError(
            f"{name} must be an aware datetime, ISO 8601 text with an offset, or seconds since 1970, not {value!r:.80}."
        )
    if found.tzinfo is None:
        raise StepsError(f"{name} has no time zone: write {found.isoformat()}+00:00, or the offset that you mean.")
    return int(found.timestamp() * 1000)


def spoken(seconds: float) -> str:
    """A duration in one or two units, for people: "45 s", "2 h 5 min", "3 d"."""
    if seconds < 0.1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = math.floor(seconds)
    for unit, size, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {below}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"

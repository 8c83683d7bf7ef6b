"""Runs and records as JSON objects."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

from celery_steps.escape import as_json, message_of
from celery_steps.past import Progress, Record, Run, RunAttempt, Waiting, Worker
from celery_steps.timeline import Span, Timeline


def plain(value: Any) -> dict[str, Any]:
    """A dataclass of ours, field by field."""
    return {field.name: _form(getattr(value, field.name)) for field in fields(value)}


def run(run: Run) -> dict[str, Any]:
    form = plain(run)
    del form["history"]
    return form


def attempt(attempt: RunAttempt) -> dict[str, Any]:
    return plain(attempt)


def timeline(timeline: Timeline) -> dict[str, Any]:
    return plain(timeline)


def record(record: Record) -> dict[str, Any]:
    form = plain(record)
    return {**form, "input": as_json(record.input), "result": as_json(record.result)}


def _form(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (Worker, Waiting, Progress, RunAttempt, Span)):
        return plain(value)
    if isinstance(value, BaseException):
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}", "message": message_of(value)}
    return as_json(value) if not isinstance(value, tuple) else [_form(item) for item in value]

"""`steps show --full`: records with everything that is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.pretty import pretty_repr
from rich.text import Text

from celery_steps.cli.axis import length
from celery_steps.cli.cells import STYLES, corrupt_text, escaped, step_text, waiting_text
from celery_steps.codec.failures import RecordedTraceback
from celery_steps.escape import error_text, message_of, safe, shown
from celery_steps.past import Record

_INDENT = "  "
_NAMES = 11


def blocks(records: Sequence[Record], run_id: str, width: int) -> Iterator[Text]:
    """Each record as a title and its values, whole."""
    for record in records:
        yield Text("")
        yield _title(record, run_id)
        yield from _named("id", [record.event_id])
        if record.corrupt:
            yield Text.assemble(_INDENT, corrupt_text(record.corrupt))
        if record.input is not None:
            yield from _named("input", _lines(record.input, width))
        if record.error is not None:
            yield from _named("error", _error(record.error))
        elif record.waits_for is not None:
            yield from _named("waits for", [waiting_text(record.waits_for)])
        elif record.status not in ("raised", "begun", "corrupt") and record.verb != "undo":
            yield from _named("result", _lines(record.result, width))
        if record.reference is not None:
            yield from _named("reference", _lines(record.reference, width))


def _title(record: Record, run_id: str) -> Text:
    known = record.status in ("done", "failed", "undone", "reopened", "replaced") and record.verb in ("run", "emit")
    attempt = [f"attempt {record.attempt}"] if record.attempt else []
    told = [*([] if record.verb == "run" else [record.verb]), *attempt]
    told += [f"took {length(record.took_ms)}"] if known else []
    told += [f"by {record.run_id}"] if record.run_id != run_id else []
    name = step_text(record.key, record.sequence) if record.key else "?"
    status = (record.status, STYLES.get(record.status, "dim"))
    return Text.assemble(escaped(name, "bold"), "  ", status, "  ", escaped(", ".join(told), "dim"))


def _named(name: str, lines: Sequence[str]) -> Iterator[Text]:
    for i, line in enumerate(lines):
        yield Text.assemble(_INDENT, (("" if i else name).ljust(_NAMES), "dim"), safe(line))


def _lines(value: Any, width: int) -> list[str]:
    """A value in Python's notation, in as many lines as it needs."""
    try:
        return pretty_repr(value, max_width=max(40, width - _NAMES - len(_INDENT))).split("\n")
    except ValueError:  # an int with more digits than Python writes
        return [shown(value, 1 << 62)]


def _error(error: BaseException) -> list[str]:
    """Type and message, and the traceback that is recorded, in which it stands between quotes."""
    cause = error.__cause__
    trace = message_of(cause).strip('"\n').split("\n") if isinstance(cause, RecordedTraceback) else []
    return [*error_text(error).split("\n"), *trace]

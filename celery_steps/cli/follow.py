"""`steps tail`: a line for everything that happens."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from celery_steps.cli import forms
from celery_steps.cli.axis import length
from celery_steps.cli.cells import (
    corrupt_text,
    escaped,
    line_text,
    list_cells,
    precise,
    step_text,
    styled,
    value_text,
    worker_text,
)
from celery_steps.past import Line, Record, Run
from celery_steps.tail import Item, moment_of

#: Characters of what happened: a status, a level.
_WORD = 12


def form(item: Item) -> dict[str, Any]:
    """One item as a JSON object that says what it is."""
    if isinstance(item, Run):
        return {"item": "run", **forms.run(item)}
    return {"item": "record", **forms.record(item)} if isinstance(item, Record) else {"item": "line", **forms.plain(item)}


class Follower:
    """Knows what the reader knows already."""

    def __init__(self, name: str | None, brief: bool) -> None:
        self._name = name
        self._brief = brief  # in a terminal a time is enough for today
        self._runs: dict[str, int] = {}  # of one namespace: the attempts that were told

    def text(self, item: Item) -> Text:
        when = precise(moment_of(item))
        text = Text.assemble((when[11:] if self._brief else when, "dim"))
        if isinstance(item, Run):
            return Text.assemble(text, "  ", self._run(item))
        what = styled(item.level if isinstance(item, Line) else item.status)
        what.pad_right(_WORD - len(what))
        step = escaped(step_text(item.key, item.sequence) if item.key else "")
        other = f"[{item.run_id}] " if len(self._runs) > 1 and item.run_id else ""
        told = line_text(item) if isinstance(item, Line) else self._record(item)
        return Text.assemble(text, "  ", what, "  ", escaped(other, "dim"), step, "  " if item.key else "", told)

    def _record(self, record: Record) -> Text:
        if record.corrupt:
            return corrupt_text(record.corrupt)
        value = value_text(record)
        is_told = record.verb == "run" or record.status == "waiting"
        took = f"in {length(record.took_ms)}  " if record.status in ("done", "failed") and record.verb in ("run", "emit") else ""
        return Text.assemble(("" if is_told else f"{record.verb} ", "dim"), (took, "dim"), "" if value == "None" else value)

    def _run(self, run: Run) -> Text:
        cells = list_cells(run)
        status = cells["status"]
        status.pad_right(_WORD - len(status))
        if self._name is None:
            name = cells["run"] if run.namespace == run.id else Text.assemble(cells["namespace"], "  ", cells["run"])
            return Text.assemble(status, "  ", name, "  ", (cells["task"].plain, "dim"), "  ", cells["note"])
        met = self._runs.setdefault(run.id, 0)
        self._runs[run.id] = run.attempts
        who = f"on {worker_text(run.owner)}" if run.owner is not None else ""
        attempt = f"attempt {run.attempts} {who}".strip() if run.attempts > met or run.status == "running" else ""
        other = f"[{run.id}] " if len(self._runs) > 1 else ""
        return Text.assemble(status, "  ", escaped(other, "dim"), escaped(attempt, "dim"), "  " if attempt else "", cells["note"])

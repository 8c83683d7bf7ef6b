"""What the commands print: tables for people, lines for pipes, or one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from celery_steps.cli import forms
from celery_steps.cli.escape import document, error_text, safe, shown
from celery_steps.past import Record, Run, Worker
from celery_steps.runs import Check, Finding, Page, Stats
from celery_steps.times import spoken

_STYLES = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "suspended": "blue", "retrying": "magenta",
    "held": "dim", "paused": "yellow", "in_doubt": "red",
    "interrupted": "red", "ok": "green", "warning": "yellow", "error": "red", "corrupt": "red",
}  # fmt: skip
#: Characters of a value in a table; --json has it whole.
_INPUT, _OUTCOME = 120, 300
#: Columns from which there is room for notes in a list.
_WIDE = 110


class Output:
    """Prints answers. Values from the store are escaped here, and are never taken for markup."""

    def __init__(self, as_json: bool, plain: bool = False) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False, no_color=plain or None)

    # -- answers ----------------------------------------------------------------------------------------------------

    def page(self, page: Page) -> None:
        if self._as_json:
            self._document({"runs": [forms.run(run) for run in page.runs], "cursor": page.cursor})
            return
        if not page.runs:
            self._line("No runs.")
            return
        columns = ["namespace", "run", "task", "status", "ago", "note"]
        if all(run.namespace == run.id for run in page.runs):
            columns.remove("namespace")
        if self._console.is_terminal and self._console.width < _WIDE:
            columns.remove("note")
        cells = [_cells(run) for run in page.runs]
        self._table(columns, [[row[name] for name in columns] for row in cells], whole=("run", "status", "ago"))
        if page.cursor:
            self._line(f"\nThere are more: --cursor {page.cursor}")

    def run(self, run: Run, records: Sequence[Record]) -> None:
        if self._as_json:
            document = {"run": forms.run(run), "attempts": [forms.attempt(attempt) for attempt in run.history]}
            self._document({**document, "records": [forms.record(record) for record in records]})
            return
        self._pairs(_head(run))
        if run.history:
            self._title("attempts")
            rows = [
                [
                    _text(str(attempt.number)),
                    _text(_time(attempt.began_at)),
                    _text(_worker(attempt.worker)),
                    _text(str(attempt.recorded)),
                    _styled(attempt.ended, f", waits for {attempt.waiting}" if attempt.waiting else ""),
                ]
                for attempt in run.history
            ]
            self._table(["#", "began (UTC)", "worker", "recorded", "ended"], rows, whole=("#", "began (UTC)"))
        self._title("records")
        if not records:
            self._line("No step is recorded.")
            return
        shared = any(record.run_id != run.id for record in records)
        rows = [_record_row(record, run, shared) for record in records]
        head = ["step", *(["recorded by"] if shared else []), "attempt", "took", "input", "outcome"]
        self._table(head, rows, whole=("attempt", "took"))

    def stats(self, stats: Stats) -> None:
        if self._as_json:
            self._document(forms.plain(stats))
            return
        memory = "unknown" if stats.memory_bytes is None else f"{stats.memory_bytes / 1_048_576:,.1f} MiB"
        late = f", the first of them for {spoken(stats.late_seconds)}" if stats.due else ""
        pairs = [(status, _text(f"{count:,}")) for status, count in stats.runs.items()]
        pairs.append(("unfinished", _text(f"{stats.unfinished:,}")))
        pairs.append(("tickets", _text(f"{stats.tickets:,} of this app, {stats.due:,} due{late}")))
        pairs.append(("redis", _text(f"version {stats.server or 'unknown'}, {memory} used")))
        self._pairs(pairs)

    def findings(self, findings: Sequence[Finding]) -> None:
        """The last line is "ready", or what to do first."""
        worst = next((f for level in ("error", "warning") for f in findings if f.level == level), None)
        if self._as_json:
            do = worst.do if worst else ""
            self._document({"findings": [forms.plain(f) for f in findings], "ready": worst is None, "do": do})
            return
        rows = []
        for finding in findings:
            rows.append((finding.level, _text(finding.what)))
            if finding.do:
                rows.append(("", _text(f"→ {finding.do}", "bold")))
        self._pairs(rows)
        self._line("\nready" if worst is None else f"\nto do: {safe(worst.do)}")

    def count(self, what: str, count: int) -> None:
        if self._as_json:
            self._document({what: count})
        else:
            self._line(f"{count:,} {'run' if count == 1 else 'runs'} {what}.")

    def done(self, what: str, name: str) -> None:
        """Something was asked of a run."""
        if self._as_json:
            self._document({"asked": what, "name": name})
        else:
            self._line(f"Asked {safe(name)} to {what}.")

    def checks(self, checks: list[Check]) -> None:
        """What the code would make of each open run: those that diverge in full, the others counted."""
        if self._as_json:
            self._document({"checks": [{**asdict(check), "ok": check.ok} for check in checks]})
            return
        for check in checks:
            if not check.ok:
                self._line(f"{safe(check.namespace)}  {safe(check.task)}[{safe(check.id)}] is {check.status}")
                if check.diverges:
                    self._line(f"  diverges: {safe(check.diverges)}")
                if check.unmet:
                    self._line(f"  recorded, and not met any more: {', '.join(safe(_step(*step)) for step in check.unmet)}")
                if check.next is not None:
                    self._line(f"  would newly run: {safe(_step(*check.next))}")
        bad = sum(not check.ok for check in checks)
        self._line(f"{len(checks):,} open runs, {bad:,} would diverge.")

    def forked(self, id: str) -> None:
        """The task id of a copy."""
        if self._as_json:
            self._document({"id": id})
        else:
            self._line(safe(id))

    def error(self, text: str) -> None:
        lines = [safe(line) for line in text.splitlines()]
        if self._as_json:
            self._document({"error": "\n".join(lines)})
        else:
            click.echo("\n".join(lines), err=True)

    # -- forms ------------------------------------------------------------------------------------------------------

    def _document(self, value: Any) -> None:
        click.echo(document(value))

    def _line(self, text: str) -> None:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        # An ASCII terminal gets escapes instead of a traceback.
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), color=self._console.is_terminal)

    def _title(self, text: str) -> None:
        self._line("")
        self._render(Text(text, "bold"))

    def _render(self, what: RenderableType) -> None:
        with self._console.capture() as captured:
            self._console.print(what)
        self._line("\n".join(line.rstrip() for line in captured.get().rstrip("\n").splitlines()))

    def _table(self, head: Sequence[str], rows: Sequence[Sequence[Text]], whole: Sequence[str]) -> None:
        """In a terminal, cells fold at its width but for the columns in `whole`; in a pipe, a row is a line."""
        if not self._console.is_terminal:
            self._lines([[Text(name.upper()) for name in head], *rows])
            return
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for name in head:
            table.add_column(name.upper(), no_wrap=name in whole, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._render(table)

    def _lines(self, rows: Sequence[Sequence[Text]]) -> None:
        widths = [max(len(row[i].plain) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            self._line("  ".join(cell.plain.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _pairs(self, pairs: Sequence[tuple[str, Text]]) -> None:
        if not self._console.is_terminal:
            width = max(len(name) for name, _ in pairs)
            for name, value in pairs:
                self._line(f"{name.ljust(width)}  {value.plain}")
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs:
            table.add_row(Text(name, _STYLES.get(name, "dim")), value)
        self._render(table)


# -- cells --------------------------------------------------------------------------------------------------------------


def _text(text: str, style: str = "") -> Text:
    return Text(safe(text), style)


def _styled(word: str, more: str = "") -> Text:
    return Text.assemble((safe(word), _STYLES.get(word, "")), safe(more))


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _ago(moment: datetime) -> str:
    """In one unit: a column for the eye."""
    seconds = max(0, int((datetime.now(timezone.utc) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _in(moment: datetime) -> str:
    seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return f"in {spoken(seconds)}" if seconds > 0 else f"{spoken(-seconds)} ago"


def _worker(worker: Worker) -> str:
    return worker.hostname if worker.pid is None else f"{worker.hostname} pid {worker.pid}"


def _note(run: Run) -> str:
    if run.error is not None:
        return error_text(run.error)
    if run.wake_at is not None:
        return f"wakes {_in(run.wake_at)}"
    return f"crashed {run.crashes} times in a row" if run.crashes > 1 else "crashed" if run.crashes else ""


def _cells(run: Run) -> dict[str, Text]:
    note = safe(_note(run))
    return {
        "namespace": _text("-" if run.namespace == run.id else run.namespace),
        "run": _text(run.id),
        "task": _text(run.task),
        "status": _styled(run.status),
        "ago": Text(_ago(run.changed_at)),
        "note": Text(note if len(note) <= _INPUT else f"{note[:_INPUT]}…"),
    }


def _head(run: Run) -> list[tuple[str, Text]]:
    changed = f"{_time(run.changed_at)} UTC, {_ago(run.changed_at)} ago"
    pairs = [
        ("run", _text(run.id)),
        ("task", _text(run.task)),
        ("namespace", _text(run.namespace)),
        ("status", _styled(run.status, f", waits for {run.waiting}" if run.waiting else "")),
        ("created", Text(f"{_time(run.created_at)} UTC")),
        ("changed", Text(changed)),
        ("attempts", Text(f"{run.attempts}, crashes in a row {run.crashes}, Celery retries {run.retries}")),
    ]
    if run.owner is not None and run.lease_until is not None:
        pairs.append(("owner", _text(f"{_worker(run.owner)}, its lease ends {_in(run.lease_until)}")))
    if run.wake_at is not None:
        pairs.append(("wakes", Text(_in(run.wake_at))))
    if run.in_flight is not None:
        pairs.append(("in flight", _text(_step(*run.in_flight))))
    if run.error is not None:
        pairs.append(("error", Text(shown_text(error_text(run.error)))))
    return pairs


def shown_text(text: str) -> str:
    """A message, cut as values are."""
    text = safe(text)
    return text if len(text) <= _OUTCOME else f"{text[:_OUTCOME]}… ({len(text):,} characters)"


def _step(key: str, sequence: int) -> str:
    return key if sequence == 1 else f"{key} ({sequence})"


def _record_row(record: Record, run: Run, shared: bool) -> list[Text]:
    by = "" if record.run_id == run.id else record.run_id
    return [
        _text(_step(record.key, record.sequence)),
        *([_text(by)] if shared else []),
        Text(str(record.attempt) if record.attempt else ""),
        Text(spoken(record.took_ms / 1000) if record.status in ("done", "failed") else ""),
        Text("" if record.input is None else shown(record.input, _INPUT)),
        _outcome(record),
    ]


def _outcome(record: Record) -> Text:
    if record.corrupt:
        return Text(shown_text(f"corrupt: {record.corrupt}"), _STYLES["corrupt"])
    failure = "" if record.error is None else shown_text(error_text(record.error))
    if record.status == "done":
        return Text(shown(record.result, _OUTCOME))
    if record.status == "failed":
        return Text.assemble(("failed", _STYLES["failed"]), f": {failure}")
    known = failure or ("" if record.status in ("raised", "begun") else shown(record.result, _OUTCOME))
    return Text.assemble((record.status, "dim"), f": {known}" if known else "")

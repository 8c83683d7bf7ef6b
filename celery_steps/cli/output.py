"""What the commands print: tables for people, lines for pipes, or one JSON document."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from stat import S_ISREG
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from celery_steps.cli import bars, flow, forms, unfolded
from celery_steps.cli.cells import (
    STYLES,
    escaped,
    line_row,
    list_cells,
    record_row,
    run_pairs,
    step_text,
    styled,
    time_text,
    worker_text,
)
from celery_steps.cli.follow import Follower, form
from celery_steps.errors import StepsError
from celery_steps.escape import document, safe
from celery_steps.past import Line, Record, Run
from celery_steps.runs import Check, Finding, Page, Stats, Timeline
from celery_steps.tail import Item
from celery_steps.times import spoken

#: Columns from which there is room for notes in a list.
_WIDE = 110


def _for_its_owner(file: str, flags: int) -> int:
    """An opener. A file that was there loses what it lets others do before it gets anything."""
    descriptor = os.open(file, flags & ~os.O_TRUNC, 0o600)
    try:
        if S_ISREG(os.fstat(descriptor).st_mode):  # /dev/stdout stays as it is
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Output:
    """Prints answers. Values from the store are escaped here, and are never taken for markup."""

    def __init__(self, as_json: bool, plain: bool = False, colored: bool = False) -> None:
        self._as_json = as_json
        self._console = Console(
            highlight=False, markup=False, emoji=False, soft_wrap=False, no_color=plain or None, force_terminal=colored or None
        )

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
        cells = [list_cells(run) for run in page.runs]
        self._table(columns, [[row[name] for name in columns] for row in cells], whole=("run", "status", "ago"))
        if page.cursor:
            self._line(f"\nThere are more: --cursor {page.cursor}")

    def run(self, run: Run, records: Sequence[Record], full: bool = False) -> None:
        if self._as_json:
            document = {"run": forms.run(run), "attempts": [forms.attempt(attempt) for attempt in run.history]}
            self._document({**document, "records": [forms.record(record) for record in records]})
            return
        self._pairs(run_pairs(run))
        if run.history:
            self._title("attempts")
            rows = [
                [
                    escaped(str(attempt.number)),
                    escaped(time_text(attempt.began_at)),
                    escaped(worker_text(attempt.worker)),
                    escaped(str(attempt.recorded)),
                    styled(attempt.ended, f", waits for {attempt.waiting}" if attempt.waiting else ""),
                ]
                for attempt in run.history
            ]
            self._table(["#", "began (UTC)", "worker", "recorded", "ended"], rows, whole=("#", "began (UTC)"))
        self._title("records")
        if not records:
            self._line("No step is recorded.")
            return
        if full:
            self._lines_of(unfolded.blocks(records, run.id, self._console.width))
            return
        shared = any(record.run_id != run.id for record in records)
        verbs = any(record.verb != "run" for record in records)
        rows = [record_row(record, run, shared, verbs) for record in records]
        more = [*(["verb"] if verbs else []), *(["recorded by"] if shared else [])]
        head = ["step", *more, "attempt", "took", "input", "outcome"]
        self._table(head, rows, whole=("step", *more, "attempt", "took") if self._console.width >= _WIDE else ("attempt", "took"))
        if self._console.is_terminal:
            self._line("\nEach value is cut to a line: --full shows them whole.")

    def timeline(self, timeline: Timeline) -> None:
        if self._as_json:
            self._document(forms.timeline(timeline))
        else:
            self._lines_of(bars.draw(timeline, self._console.width, self._ascii_only))

    def graph(self, timeline: Timeline, as_mermaid: bool) -> None:
        if self._as_json:
            self._document(forms.timeline(timeline))
        elif as_mermaid:
            for line in flow.mermaid(timeline):
                self._line(line)
        elif not timeline.spans:
            self._line("No step is recorded.")
        else:
            self._lines_of(flow.tree(timeline, self._console.width, self._ascii_only))

    def tail(self, items: Iterable[Item], name: str | None) -> None:
        follower = Follower(name, brief=self._console.is_terminal)
        for item in items:
            if self._as_json:
                click.echo(document(form(item), indent=None))
            else:
                self._lines_of([follower.text(item)])

    def logs(self, lines: Sequence[Line]) -> None:
        if self._as_json:
            self._document({"lines": [forms.plain(line) for line in lines]})
            return
        if not lines:
            self._line("No lines.")
            return
        shared = any(line.run_id != lines[0].run_id for line in lines)
        head = ["time (UTC)", "level", *(["run"] if shared else []), "attempt", "step", "message"]
        self._table(head, [line_row(line, shared) for line in lines], whole=("time (UTC)", "level", "run", "attempt"))

    def exported(self, run: dict[str, Any], name: str, file: str | None) -> None:
        """The document is JSON already. In a file, which its owner alone may read, it is no answer any more."""
        if file is None:
            self._document(run)
            return
        try:
            with open(file, "w", opener=_for_its_owner) as out:
                out.write(f"{document(run)}\n")
        except OSError as error:
            raise StepsError(f"{file} cannot be written: {error.strerror}.") from error
        if self._as_json:
            self._document({"exported": name, "file": file})
        else:
            self._line(f"Exported to {safe(file)}, with recorded values as they are: mind who gets it.")

    def emitted(self, reached: int, to: str | None) -> None:
        if self._as_json:
            self._document({"reached": reached})
        elif reached:
            self._line(f"Reached {reached:,}.")
        else:
            self._line("Nobody waited for it." if to is None else "Nobody waits for it yet: it is kept there.")

    def stats(self, stats: Stats) -> None:
        if self._as_json:
            self._document(forms.plain(stats))
            return
        memory = "unknown" if stats.memory_bytes is None else f"{stats.memory_bytes / 1_048_576:,.1f} MiB"
        late = f", the first of them for {spoken(stats.late_seconds)}" if stats.due else ""
        pairs = [(status, escaped(f"{count:,}")) for status, count in stats.runs.items()]
        pairs.append(("unfinished", escaped(f"{stats.unfinished:,}")))
        pairs.append(("tickets", escaped(f"{stats.tickets:,} of this app, {stats.due:,} due{late}")))
        pairs.append(("redis", escaped(f"version {stats.server or 'unknown'}, {memory} used")))
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
            rows.append((finding.level, escaped(finding.what)))
            if finding.do:
                rows.append(("", escaped(f"→ {finding.do}", "bold")))
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
                    self._line(f"  recorded, and not met any more: {', '.join(safe(step_text(*step)) for step in check.unmet)}")
                if check.next is not None:
                    self._line(f"  would newly run: {safe(step_text(*check.next))}")
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

    @property
    def _ascii_only(self) -> bool:
        return self._console.options.ascii_only

    def _lines_of(self, drawn: Iterable[Text]) -> None:
        """Lines that fit already: never folded."""
        for text in drawn:
            with self._console.capture() as captured:
                self._console.print(text, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)
            for line in captured.get().rstrip("\n").split("\n"):
                self._line(line.rstrip())

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
            table.add_row(Text(name, STYLES.get(name, "dim")), value)
        self._render(table)

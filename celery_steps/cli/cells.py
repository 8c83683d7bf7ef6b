"""What the commands print, cell by cell: everything from the store is escaped here, and cut for a table."""

from __future__ import annotations

from datetime import datetime, timezone

from rich.text import Text

from celery_steps.escape import error_text, safe, shown
from celery_steps.past import Line, Progress, Record, Run, Waiting, Worker
from celery_steps.times import spoken

STYLES = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "suspended": "blue", "retrying": "magenta",
    "held": "dim", "paused": "yellow", "in_doubt": "red", "rolling_back": "yellow",
    "done": "green", "undone": "yellow", "raised": "magenta", "waiting": "blue",
    "interrupted": "red", "ok": "green", "warning": "yellow", "error": "red", "corrupt": "red",
}  # fmt: skip
#: Characters of a value in a table; --json has it whole.
_INPUT, _OUTCOME = 120, 300
#: Waits that are listed of one run.
_WAITS = 10


def escaped(text: str, style: str = "") -> Text:
    """A text from the store."""
    return Text(safe(text), style)


def styled(word: str, more: str = "") -> Text:
    return Text.assemble((safe(word), STYLES.get(word, "")), safe(more))


def time_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def precise(moment: datetime) -> str:
    return f"{time_text(moment)}.{moment.microsecond // 1000:03d}"


def ago(moment: datetime) -> str:
    """In one unit: a column for the eye."""
    seconds = max(0, int((datetime.now(timezone.utc) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def until_text(moment: datetime) -> str:
    seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return f"in {spoken(seconds)}" if seconds > 0 else f"{spoken(-seconds)} ago"


def worker_text(worker: Worker) -> str:
    return worker.hostname if worker.pid is None else f"{worker.hostname} pid {worker.pid}"


def _note(run: Run) -> str:
    if run.error is not None:
        return error_text(run.error)
    if run.status in ("suspended", "retrying"):
        notes = [f"waits for {', '.join(run.events)}"] if run.events else []
        return ", ".join([*notes, f"wakes {until_text(run.wake_at)}"] if run.wake_at is not None else notes)
    if run.status == "running" and run.progress is not None:
        return _progress(run.progress)
    return f"crashed {run.crashes} times in a row" if run.crashes > 1 else "crashed" if run.crashes else ""


def list_cells(run: Run) -> dict[str, Text]:
    note = safe(_note(run))
    return {
        "namespace": escaped("-" if run.namespace == run.id else run.namespace),
        "run": escaped(run.id),
        "task": escaped(run.task),
        "status": styled(run.status),
        "ago": Text(ago(run.changed_at)),
        "note": Text(note if len(note) <= _INPUT else f"{note[:_INPUT]}…"),
    }


def _progress(progress: Progress) -> str:
    # Shown, not formatted: Python refuses to write an int of thousands of digits.
    far = " of ".join(shown(number, _INPUT) for number in (progress.current, progress.total) if number is not None)
    told = [f": {progress.message}"] if progress.message else []
    return " ".join(["".join([far, *told]), *(f"{name}={shown(value, _INPUT)}" for name, value in progress.data.items())])


def waiting_text(waiting: Waiting) -> str:
    until = "" if waiting.until is None else f" until {time_text(waiting.until)} UTC ({until_text(waiting.until)})"
    return f"{' '.join(part for part in (waiting.verb, waiting.about) if part)}{until}"


def run_pairs(run: Run) -> list[tuple[str, Text]]:
    changed = f"{time_text(run.changed_at)} UTC, {ago(run.changed_at)} ago"
    pairs = [
        ("run", escaped(run.id)),
        ("task", escaped(run.task)),
        ("namespace", escaped(run.namespace)),
        ("status", styled(run.status, f", waits for {run.waiting}" if run.waiting and not run.waits else "")),
        ("created", Text(f"{time_text(run.created_at)} UTC")),
        ("changed", Text(changed)),
        ("attempts", Text(f"{run.attempts}, crashes in a row {run.crashes}, Celery retries {run.retries}")),
    ]
    if run.owner is not None and run.lease_until is not None:
        pairs.append(("owner", escaped(f"{worker_text(run.owner)}, its lease ends {until_text(run.lease_until)}")))
    for waiting in run.waits[:_WAITS]:
        pairs.append(("waits for", escaped(f"{step_text(waiting.key, waiting.sequence)}: {waiting_text(waiting)}")))
    if len(run.waits) > _WAITS:
        pairs.append(("", Text(f"and {len(run.waits) - _WAITS:,} more")))
    if run.wake_at is not None:
        pairs.append(("wakes", Text(until_text(run.wake_at))))
    if run.progress is not None:
        pairs.append(("progress", Text(f"{shown_text(_progress(run.progress))}, {ago(run.progress.at)} ago")))
    if run.in_flight is not None:
        pairs.append(("in flight", escaped(step_text(*run.in_flight))))
    if run.error is not None:
        pairs.append(("error", Text(shown_text(error_text(run.error)))))
    return pairs


def shown_text(text: str) -> str:
    """A message, cut as values are."""
    text = safe(text)
    return text if len(text) <= _OUTCOME else f"{text[:_OUTCOME]}… ({len(text):,} characters)"


def step_text(key: str, sequence: int) -> str:
    return key if sequence == 1 else f"{key} ({sequence})"


def line_text(line: Line) -> Text:
    """What a line says."""
    if line.corrupt:
        return corrupt_text(line.corrupt)
    data = "".join(f" {safe(name)}={shown(value, _INPUT)}" for name, value in line.data.items())
    return Text(f"{shown_text(line.message)}{data}")


def line_row(line: Line, shared: bool) -> list[Text]:
    return [
        escaped(precise(line.at)),
        styled(line.level),
        *([escaped(line.run_id)] if shared else []),
        Text(str(line.attempt) if line.attempt else ""),
        escaped(step_text(line.key, line.sequence) if line.key else ""),
        line_text(line),
    ]


def record_row(record: Record, run: Run, shared: bool, verbs: bool) -> list[Text]:
    by = "" if record.run_id == run.id else record.run_id
    return [
        escaped(step_text(record.key, record.sequence)),
        *([escaped(record.verb)] if verbs else []),
        *([escaped(by)] if shared else []),
        Text(str(record.attempt) if record.attempt else ""),
        Text(
            spoken(record.took_ms / 1000)
            if record.status in ("done", "failed", "undone") and record.verb in ("run", "emit")
            else ""
        ),
        _folded("" if record.input is None else shown(record.input, _INPUT)),
        _outcome(record),
    ]


def value_text(record: Record) -> str:
    """What a step came to: its result, its error, or what it waits for."""
    if record.error is not None:
        return shown_text(error_text(record.error))
    if record.waits_for is not None:
        return shown_text(waiting_text(record.waits_for))
    return "" if record.status in ("raised", "begun") or record.verb == "undo" else shown(record.result, _OUTCOME)


def _folded(value: str) -> Text:
    """One line of a table, however narrow its column is."""
    return Text(value, no_wrap=True, overflow="ellipsis")


def corrupt_text(trouble: str) -> Text:
    return Text(shown_text(f"corrupt: {trouble}"), STYLES["corrupt"])


def _outcome(record: Record) -> Text:
    if record.corrupt:
        return corrupt_text(record.corrupt)
    value = value_text(record)
    if record.status == "done":
        return _folded("done" if record.verb == "undo" else value)
    between = " for " if record.status == "waiting" else ": "
    text = Text.assemble((record.status, STYLES.get(record.status, "dim")), f"{between}{value}" if value else "")
    if record.error is None:  # an error is what people look for: that one is whole
        text.no_wrap, text.overflow = True, "ellipsis"
    return text

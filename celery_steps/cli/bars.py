"""`steps timeline`: a run as bars on a time axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.text import Text

from celery_steps.cli.axis import Axis, length
from celery_steps.cli.cells import STYLES, escaped, step_text, time_text
from celery_steps.escape import safe
from celery_steps.past import RunAttempt
from celery_steps.timeline import Span, Timeline

#: For the eye: a step, a wait, an undo, what goes on, what is cut short, an attempt.
_DRAWN, _IN_ASCII = "█░▒▶╱─", "#.%>/-"
_WAITS = ("sleep", "sleep_until", "wait_for_event")
#: Columns of the bars, at least.
_NARROWEST = 24


def draw(timeline: Timeline, width: int, ascii_only: bool) -> Iterator[Text]:
    """Lines of at most `width` columns, but for a terminal that is narrower than any drawing."""
    signs = _IN_ASCII if ascii_only else _DRAWN
    others = any(span.run_id != timeline.run_id for span in timeline.spans)
    labels = [_label(span, timeline if others else None) for span in timeline.spans]
    notes = [_note(span) for span in timeline.spans]
    right = max((len(note) for note in notes), default=0)
    left = min(max([8, *(Text(label).cell_len for label in labels)]), max(10, (width - right) * 2 // 5))
    axis = _axis(timeline, max(_NARROWEST, width - left - right - 4))
    yield from _head(timeline)
    yield Text(" " * (left + 2)).append(_written(axis.labels(), axis.width), "dim")
    yield Text(" " * (left + 2)).append(_ruler(axis, signs), "dim")
    yield _row("attempts", _attempts(timeline, axis, signs), "", left, "dim")
    for span, label, note in zip(timeline.spans, labels, notes, strict=True):
        yield _row(label, _bar(span, axis, signs).ljust(axis.width), note, left, style_of(span))
    if timeline.spans:
        yield Text(f"\n{signs[0]} step  {signs[1]} wait  {signs[2]} undo  {signs[3]} goes on  {signs[4] * 2} cut short", "dim")


def style_of(span: Span) -> str:
    if span.status in ("reopened", "replaced", "begun"):
        return "dim"
    if span.status == "raised":
        return "magenta"
    if span.status == "undone" or span.verb == "undo":
        return "yellow"
    return "blue" if span.verb in _WAITS and span.status == "done" else STYLES.get(span.status, "")


def took(began: datetime, ended: datetime) -> str:
    return length(_ms(ended) - _ms(began))


def title(span: Span) -> str:
    """A step, and what is special about it."""
    step = step_text(span.key, span.sequence) if span.key else "?"  # nobody can read which
    about = "" if span.about == span.key else f" {span.about}" if span.about else ""
    if span.verb == "undo":
        return f"undo {step}"
    what = {"sleep": "sleep", "sleep_until": "sleep", "wait_for_event": f"event{about}", "emit": f"emit{about}"}
    told = what.get(span.verb, span.about if span.verb == "run_task" else "")
    return f"{step} ({told})" if told else step


def _label(span: Span, timeline: Timeline | None) -> str:
    other = timeline is not None and span.run_id != timeline.run_id
    return safe(f"{title(span)} [{span.run_id}]" if other else title(span))


def _note(span: Span) -> str:
    """How long it took, and how it ended where that is not well."""
    word = "" if span.status == "done" else span.status
    if span.ended_at is None or (word and span.ended_at == span.began_at):  # nobody wrote down how long it took
        return word
    return f"{word} {took(span.began_at, span.ended_at)}".strip()


def _head(timeline: Timeline) -> Iterator[Text]:
    name = timeline.namespace if timeline.namespace == timeline.run_id else f"{timeline.namespace}  {timeline.run_id}"
    long = took(timeline.began_at, timeline.ended_at or timeline.now)
    since = f" after {long}" if timeline.ended_at is not None else f", {long} so far"
    since += f", began {time_text(timeline.began_at)} UTC"
    yield Text.assemble(escaped(name, "bold"), "  ", (safe(timeline.status), STYLES.get(timeline.status, "")), since)
    yield Text("")


def _axis(timeline: Timeline, width: int) -> Axis:
    end = timeline.ended_at or timeline.now
    times = [timeline.began_at, end, *(span.began_at for span in timeline.spans)]
    ends = [span.ended_at or end for span in timeline.spans]
    busy = [
        (_ms(span.began_at), _ms(span.ended_at or end))
        for span in timeline.spans
        if span.verb not in _WAITS and not (span.ended_at is None and timeline.status == "in_doubt")
    ]
    return Axis(_ms(min(times)), _ms(max([end, *ends])), busy, width)


def _ms(moment: datetime) -> float:
    return moment.timestamp() * 1000


def _written(labels: Sequence[tuple[int, str]], width: int) -> str:
    line = ""
    for column, text in labels:
        line = line.ljust(column) + text
    return line[:width]


def _ruler(axis: Axis, signs: str) -> str:
    line = [signs[5]] * axis.width
    for column, _ in axis.labels():
        line[column] = "|" if signs == _IN_ASCII else "┬"
    return _cut("".join(line), axis, signs)


def _cut(line: str, axis: Axis, signs: str) -> str:
    """Marks what is cut short where something is drawn."""
    cells = list(line)
    for middle in axis.cuts:
        for column in (middle, middle + 1):
            if 0 < column < len(cells) - 1 and cells[column] != " ":
                cells[column] = signs[4]
    return "".join(cells)


def _attempts(timeline: Timeline, axis: Axis, signs: str) -> str:
    """Each attempt by its number where it began, and a line for as long as it is known to have gone on.

    Where two numbers would touch, the second is a bar.
    """
    cells = [" "] * axis.width
    for attempt in timeline.attempts:
        first, last = axis.column(_ms(attempt.began_at)), axis.column(_ms(_end(attempt, timeline)))
        cells[first : last + 1] = signs[5] * (last + 1 - first)
        number = str(attempt.number)
        if first and cells[first - 1].isdigit():
            number = "|"
        cells[first : first + len(number)] = number
    return "".join(cells)[: axis.width]


def _end(attempt: RunAttempt, timeline: Timeline) -> datetime:
    goes_on = attempt.ended == "running"
    return attempt.ended_at or (timeline.now if goes_on else attempt.began_at)


def _bar(span: Span, axis: Axis, signs: str) -> str:
    sign = signs[2] if span.verb == "undo" else signs[1] if span.verb in _WAITS else signs[0]
    first = axis.column(_ms(span.began_at))
    if span.ended_at is None:
        return _cut(" " * first + sign * (axis.width - first - 1), axis, signs) + signs[3]
    # The column in which it ends is drawn only where nothing else fits: the next step begins there.
    last = max(first + 1, axis.column(_ms(span.ended_at)))
    return _cut(" " * first + sign * (last - first), axis, signs)


def _row(label: str, bar: str, note: str, left: int, style: str) -> Text:
    name = Text(label, no_wrap=True)
    name.truncate(left, overflow="ellipsis", pad=True)
    return Text.assemble(name, "  ", (bar, style), "  ", (note, style))

"""What a run's page shows, made from what `Runs` says of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from celery_steps.escape import message_of
from celery_steps.past import Line, Record, Run
from celery_steps.store.keys import FINAL
from celery_steps.timeline import Span, Timeline
from celery_steps.times import spoken
from celery_steps.web.bars import Bars, bars_of
from celery_steps.web.flow import Flow, Node, flow_of
from celery_steps.web.graph import Graph, fitted, graph_of
from celery_steps.web.rendering import json_text

#: Steps, and lines of the log, on one page.
STEPS, LINES = 200, 500
#: Characters of a value, of its one line in the list, and lines of either, before it is cut.
_VALUE, _GLANCE, _ROWS = 2000, 90, 40
#: Records that a run may be retried from, or a copy be made before.
_RECORDED = ("done", "failed", "undone")


@dataclass(frozen=True)
class Text:
    """A value or a message as it is shown; `size` characters in all."""

    text: str
    size: int

    @property
    def cut(self) -> bool:
        return len(self.text) < self.size


@dataclass(frozen=True)
class Failure:
    """An exception."""

    kind: str
    message: Text
    traceback: Text | None


@dataclass(frozen=True)
class Step:
    """A record with all that is known of it."""

    anchor: str  # its id in the page: the same however often it is looked at
    record: Record
    span: Span | None
    input: Text | None
    result: Text | None
    reference: Text | None
    failure: Failure | None
    glance: str  # the outcome in a line
    lasted: str  # from begin to end, "" if it is not over
    lines: tuple[Line, ...]
    state: str  # its record's status, or, of what has no outcome, what has become of it
    of_another: bool  # another run in this namespace recorded it
    recorded: bool  # a copy can be made from here, and the run retried, if it is its own


@dataclass(frozen=True)
class Many:
    """Some steps of many: `first` is the number of the first of them, from 0."""

    shown: tuple[Step, ...]
    first: int
    total: int

    @property
    def earlier(self) -> int | None:
        return max(0, self.first - STEPS) if self.first else None

    @property
    def later(self) -> int | None:
        end = self.first + len(self.shown)
        return end if end < self.total else None


@dataclass(frozen=True)
class RunView:
    """A run's page. Without a journal there are neither steps nor pictures."""

    run: Run
    finished: bool
    failure: Failure | None
    steps: Many
    one: bool  # only one step is shown, in full
    lines: tuple[Line, ...]
    timeline: Timeline | None
    flow: Flow | None
    graph: Graph | None
    bars: Bars | None
    anchors: dict[tuple[str, str, int], str]

    @property
    def in_doubt(self) -> tuple[Step, ...]:
        """The steps of which somebody must say what became of them."""
        begun = {(step.record.key, step.record.sequence): step for step in self.steps.shown if step.state == "in_doubt"}
        return tuple(begun.values())

    def anchor(self, node: Node) -> str:
        """The step that a node leads to: of many, the first."""
        span = node.last if node.steps == 1 else node.spans[0]
        return self.anchors.get((span.event_id, span.key, span.sequence), "")

    def href(self, node: Node) -> str:
        """Its details: on this page, or on one of their own."""
        anchor = self.anchor(node)
        here = any(step.anchor == anchor for step in self.steps.shown)
        return f"#{anchor}" if here else f"?step={anchor}"


def view_of(
    run: Run, records: Sequence[Record], lines: Sequence[Line], timeline: Timeline | None, asked: Mapping[str, str]
) -> RunView:
    """Everything that the page shows.

    `asked` is its query: `first` the number of the first step in the list, from 0 (-1: the last page), `step` the anchor of the
    one step that is shown, in full.
    """
    timeline = None if timeline is None else _told(timeline)
    only, number = asked.get("step", ""), asked.get("first", "")
    first = int(number) if re.fullmatch("-1|[0-9]{1,9}", number) else 0
    flow = None if timeline is None or only else flow_of(timeline)
    anchored = list(zip(anchors_of((record.key, record.sequence) for record in records), records, strict=True))
    anchors = {(record.event_id, record.key, record.sequence): anchor for anchor, record in anchored}
    total = len(anchored)
    if only:
        anchored = [(anchor, record) for anchor, record in anchored if anchor == only]
        first = 0
    else:
        first = (max(0, total - 1) // STEPS) * STEPS if first < 0 or first >= total else first
        anchored = anchored[first : first + STEPS]
    spans = {} if timeline is None else {(span.event_id, span.key, span.sequence): span for span in timeline.spans}
    shown = tuple(
        _step(run, anchor, record, spans.get((record.event_id, record.key, record.sequence)), lines, bool(only))
        for anchor, record in anchored
    )
    return RunView(
        run=run,
        finished=run.status in FINAL,
        failure=None if run.error is None else failure_of(run.error, False),
        steps=Many(shown, first, len(shown) if only else total),
        one=bool(only),
        lines=tuple(lines[-LINES:]),
        timeline=timeline,
        flow=flow,
        graph=None if flow is None else graph_of(flow),
        bars=None if flow is None or timeline is None else bars_of(timeline, flow),
        anchors=anchors,
    )


def words() -> dict[str, Any]:
    """What the page's templates call things."""
    return {"step_name": name_of, "node_text": node_text, "node_title": title_of, "node_what": what_of, "fitted": fitted}


def anchors_of(identities: Iterable[tuple[str, int]]) -> list[str]:
    """An id for each record: made of its key and occurrence, so that it stays when a wait becomes a result."""
    seen: dict[tuple[str, int], int] = {}
    found = []
    for identity in identities:
        again = seen[identity] = seen.get(identity, 0) + 1
        found.append(anchor_of(*identity, again))
    return found


def anchor_of(key: str, sequence: int, again: int = 1) -> str:
    digest = sha256(f"{sequence}:{key}".encode(errors="surrogatepass")).hexdigest()[:10]
    return f"step-{digest}" if again == 1 else f"step-{digest}-{again}"


def node_text(node: Node) -> str:
    """What a node is, for who cannot see it."""
    span = node.last
    many = f", {node.steps} steps" if node.steps > 1 else f", {len(node.spans)} tries" if len(node.spans) > 1 else ""
    about = f" {span.about}" if span.about else ""
    return f"{title_of(node)}: {span.verb}{about}, {node.status.replace('_', ' ')}{many}"


def title_of(node: Node) -> str:
    if node.keys > 1:
        return f"{node.steps:,} steps"
    if node.steps > 1:
        return f"{node.last.key} × {node.steps:,}"
    return name_of(node.last.key, node.last.sequence)


def name_of(key: str, sequence: int) -> str:
    """A step's name for people: its key, and which use of it, from the second on."""
    return (key or "(no key)") if sequence <= 1 else f"{key} ({sequence})"


def what_of(node: Node) -> str:
    """What a node did, in a few words."""
    span = node.last
    verb = {"run": "", "undo": "rollback", "wait_for_event": "event", "run_task": "task"}.get(span.verb, span.verb)
    tries = f"{len(node.spans)} tries" if node.steps == 1 and len(node.spans) > 1 else ""
    ended = max((span.ended_at for span in node.spans if span.ended_at is not None), default=None)
    began = min(span.began_at for span in node.spans)
    took = "" if node.goes_on or ended is None else spoken((ended - began).total_seconds())
    about = span.about if node.keys == 1 and span.about != span.key else ""
    words = (" ".join(filter(None, (verb, about))), node.status, took, tries)
    return " · ".join(word for word in words if word)


def _told(timeline: Timeline) -> Timeline:
    """The timeline with what has become of each step that was begun and has no outcome."""
    crashed = {attempt.number for attempt in timeline.attempts if attempt.ended == "interrupted"}

    def told(span: Span) -> Span:
        if span.status != "begun":
            return span
        if span.ended_at is None:
            return replace(span, status="in_doubt" if timeline.status == "in_doubt" else "running")
        return replace(span, status="interrupted") if span.run_id == timeline.run_id and span.attempt in crashed else span

    return replace(timeline, spans=tuple(map(told, timeline.spans)))


def _step(run: Run, anchor: str, record: Record, span: Span | None, lines: Sequence[Line], whole: bool) -> Step:
    # Nothing comes of a sleep, and of an undo.
    tells = record.verb not in ("undo", "sleep", "sleep_until")
    over = tells and record.status not in ("waiting", "begun", "raised") and not record.corrupt and record.error is None
    said = [line for line in lines if line.key and (line.key, line.sequence) == (record.key, record.sequence)]
    result = value_text(record.result, whole) if over else None
    failure = None if record.error is None else failure_of(record.error, whole)
    return Step(
        anchor=anchor,
        record=record,
        span=span,
        input=None if record.input is None else value_text(record.input, whole),
        result=result,
        reference=None if record.reference is None else value_text(record.reference, whole),
        failure=failure,
        glance=_glance(record, result, failure),
        state=record.status if span is None else span.status,
        lasted="" if span is None or span.ended_at is None else spoken((span.ended_at - span.began_at).total_seconds()),
        lines=tuple(said),
        of_another=record.run_id not in ("", run.id),
        recorded=record.status in _RECORDED and record.verb != "undo" and not record.corrupt,
    )


def _glance(record: Record, result: Text | None, failure: Failure | None) -> str:
    if record.corrupt:
        return _line(f"cannot be read: {record.corrupt}")
    if failure is not None:
        return _line(f"{failure.kind}: {failure.message.text}")
    if result is None or record.result is None:
        return ""
    return _line(result.text)


def _line(text: str) -> str:
    text = " ".join(text[: _GLANCE * 4].split())
    return text if len(text) <= _GLANCE else f"{text[:_GLANCE]}…"


def value_text(value: Any, whole: bool = False) -> Text:
    """A decoded value, indented as JSON is."""
    return _cut(json_text(value), whole)


def failure_of(error: BaseException, whole: bool) -> Failure:
    """An exception, with the traceback that was recorded with it."""
    cause = error.__cause__
    trace = "" if cause is None else message_of(cause).strip().strip('"').strip("\n")
    return Failure(type(error).__qualname__, _cut(message_of(error), whole), _cut(trace, whole, end=True) if trace else None)


def _cut(text: str, whole: bool, end: bool = False) -> Text:
    """The beginning of a text, or its end: a traceback says what happened in its last lines."""
    rows = text.split("\n")
    if whole or (len(text) <= _VALUE and len(rows) <= _ROWS):
        return Text(text, len(text))
    if end:
        return Text("\n".join(rows[-_ROWS:])[-_VALUE:], len(text))
    return Text("\n".join(rows[:_ROWS])[:_VALUE], len(text))

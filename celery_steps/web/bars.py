"""The timeline as bars on a shared axis. Places are percents of its width, so that it fits any screen."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from celery_steps.past import RunAttempt
from celery_steps.timeline import Span, Timeline
from celery_steps.times import spoken
from celery_steps.web.flow import Flow, Node

#: What passes while no worker is kept.
WAITS = ("sleep", "sleep_until", "wait_for_event", "run_task")
#: What a long wait takes of the axis, what all of them take at most, and the least that anything else takes.
_GAP, _ALL_GAPS, _LEAST = 8.0, 50.0, 3.0
_TICKS = 6
#: From one tick to the next at least: texts are drawn to the right.
_APART = 8.0
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
#: Room for the number of an attempt.
_NUMBER = 5.0
#: Nodes of more spans than this are one bar.
_BARS = 200


@dataclass(frozen=True)
class Piece:
    """A stretch of the axis. In a gap nothing ran, and its length says nothing."""

    start: datetime
    end: datetime
    x: float
    width: float
    gap: bool

    @property
    def text(self) -> str:
        """How long, in one unit: there is little room."""
        seconds = (self.end - self.start).total_seconds()
        for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
            if seconds >= size:
                return f"{round(seconds / size)} {unit}"
        return spoken(seconds)


@dataclass(frozen=True)
class Tick:
    x: float
    text: str
    minor: bool  # left out on a narrow screen


@dataclass(frozen=True)
class Bar:
    span: Span
    x: float
    width: float
    open: bool  # it goes on


@dataclass(frozen=True)
class Row:
    node: Node
    bars: tuple[Bar, ...]
    took: str
    began: str  # after the run


@dataclass(frozen=True)
class Band:
    """An attempt."""

    attempt: RunAttempt
    x: float
    width: float
    numbered: bool  # there is room to write which

    @property
    def crashed(self) -> bool:
        return self.attempt.ended == "interrupted"


@dataclass(frozen=True)
class Bars:
    pieces: tuple[Piece, ...]
    ticks: tuple[Tick, ...]
    bands: tuple[Band, ...]
    rows: tuple[Row, ...]
    left_out: int

    @property
    def gaps(self) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.pieces if piece.gap)


def bars_of(timeline: Timeline, flow: Flow) -> Bars:
    spans = [span for node in flow.nodes for span in node.spans]
    start = min([timeline.began_at, *(span.began_at for span in spans)])
    # Clocks of a store may step back: never before anything that is shown.
    last = max([timeline.ended_at or timeline.now, start, *(span.ended_at or span.began_at for span in spans)])
    stays = [(attempt, attempt.began_at, _end(timeline, i, last)) for i, attempt in enumerate(timeline.attempts)]
    work = [(span.began_at, span.ended_at or last) for span in spans if _works(span)]
    axis = Axis(_pieces(start, last, [*work, *((began, end) for _, began, end in stays)]))
    return Bars(
        axis.pieces,
        tuple(_ticks(axis)),
        tuple(_bands(axis, stays)),
        tuple(_row(node, axis, start, last) for node in flow.nodes),
        flow.left_out,
    )


def _works(span: Span) -> bool:
    return span.verb not in WAITS and span.status != "in_doubt"


def _bands(axis: Axis, stays: Sequence[tuple[RunAttempt, datetime, datetime]]) -> Iterable[Band]:
    free = 0.0
    for attempt, began, ended in stays:
        x = axis.place(began)
        yield Band(attempt, x, axis.width(began, ended), x >= free)
        free = x + _NUMBER if x >= free else free


def _end(timeline: Timeline, i: int, last: datetime) -> datetime:
    """When an attempt was over: where nobody wrote it, the last moment at which it is known to have been at work."""
    attempt = timeline.attempts[i]
    if attempt.ended == "running":
        return last
    if attempt.ended_at is not None:
        return max(attempt.began_at, min(attempt.ended_at, last))
    limit = timeline.attempts[i + 1].began_at if i + 1 < len(timeline.attempts) else datetime.max.replace(tzinfo=timezone.utc)
    mine = [span for span in timeline.spans if span.run_id == timeline.run_id]
    known = [moment for span in mine for moment in (span.began_at, span.ended_at) if moment is not None]
    return max([attempt.began_at, *(moment for moment in known if attempt.began_at <= moment < limit)])


class Axis:
    """From moments to places on it."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(pieces)

    def place(self, moment: datetime) -> float:
        for piece in self.pieces:
            if moment <= piece.end:
                length = piece.end - piece.start
                share = (moment - piece.start) / length if length else 0.0
                return piece.x + piece.width * max(0.0, share)
        return 100.0

    def width(self, start: datetime, end: datetime) -> float:
        return self.place(end) - self.place(start)


def _pieces(start: datetime, last: datetime, work: Iterable[tuple[datetime, datetime]]) -> list[Piece]:
    """The axis in stretches: a gap where nothing was at work for longer than all the work takes."""
    busy: list[tuple[datetime, datetime]] = []
    for began, ended in sorted(work):
        if busy and began <= busy[-1][1]:
            busy[-1] = (busy[-1][0], max(busy[-1][1], ended))
        else:
            busy.append((began, ended))
    longest = max(sum((ended - began for began, ended in busy), timedelta()), timedelta(milliseconds=1))
    edges = [start, *(edge for stretch in busy for edge in stretch), last]
    stretches: list[tuple[datetime, datetime, bool]] = []
    for i, (one, other) in enumerate(itertools.pairwise(edges)):
        gap = i % 2 == 0 and other - one > longest
        if stretches and not gap and not stretches[-1][2]:
            stretches[-1] = (stretches[-1][0], other, False)
        elif other > one or gap:
            stretches.append((one, other, gap))
    return _shares(stretches or [(start, last, False)])


def _shares(stretches: Sequence[tuple[datetime, datetime, bool]]) -> list[Piece]:
    """How much of the axis each gets."""
    gaps = sum(gap for _, _, gap in stretches)
    each = 0.0 if not gaps else 100 / gaps if gaps == len(stretches) else min(_GAP, _ALL_GAPS / gaps)
    seconds = [0.0 if gap else max(1e-3, (end - start).total_seconds()) for start, end, gap in stretches]
    floor = sum(seconds) * _LEAST / 100
    weights = [max(value, floor) if value else 0.0 for value in seconds]
    room = (100 - each * gaps) / sum(weights) if any(weights) else 0.0
    x, found = 0.0, []
    for (start, end, gap), weight in zip(stretches, weights, strict=True):
        width = each if gap else weight * room
        found.append(Piece(start, end, x, width, gap))
        x += width
    return found


def _ticks(axis: Axis) -> list[Tick]:
    """The time at which each stretch of work begins, and round times after it; far enough from each other to be read."""
    work = [piece for piece in axis.pieces if not piece.gap]
    wanted = [(piece.x, f"{piece.start:%H:%M:%S}") for piece in work]
    for piece in work:
        length = (piece.end - piece.start).total_seconds()
        step = _step(length / max(1.0, _TICKS * piece.width / 100))
        for i in range(1, int(length / step) + 1):
            moment = piece.start + timedelta(seconds=step * i)
            if axis.place(moment) + _APART <= piece.x + piece.width or piece is work[-1]:
                wanted.append((axis.place(moment), f"+{spoken(step * i)}"))
    found: dict[float, str] = {}
    for x, text in wanted:
        if x <= 100 - _APART * 0.7 and all(abs(x - other) >= _APART for other in found):
            found[x] = text
    return [Tick(x, text, i % 2 == 1) for i, (x, text) in enumerate(sorted(found.items()))]


def _step(seconds: float) -> float:
    step = 0.001
    while step < 1:
        for factor in (1, 2, 5):
            if step * factor >= seconds:
                return step * factor
        step *= 10
    days = 86_400 * max(1, round(seconds / 86_400))
    return next((float(step) for step in _STEPS if step >= seconds), float(days))


def _row(node: Node, axis: Axis, start: datetime, last: datetime) -> Row:
    began = min(span.began_at for span in node.spans)
    ended = last if node.goes_on else max(span.ended_at or last for span in node.spans)
    if len(node.spans) > _BARS:
        bars = [Bar(node.last, axis.place(began), axis.width(began, ended), node.goes_on)]
    else:
        bars = [_bar(span, axis, last) for span in node.spans]
    return Row(node, tuple(bars), spoken((ended - began).total_seconds()), spoken((began - start).total_seconds()))


def _bar(span: Span, axis: Axis, last: datetime) -> Bar:
    return Bar(span, axis.place(span.began_at), axis.width(span.began_at, span.ended_at or last), span.ended_at is None)

"""A run's past on a time axis: what `Runs.timeline` hands out, and the flow graph that the times tell."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery_steps.codec import PLAIN, Codec
from celery_steps.engine.child import child_detail
from celery_steps.engine.history import BEGUN, WAITING, History, PastStep
from celery_steps.past import Run, RunAttempt, at
from celery_steps.store.keys import FINAL, RunId
from celery_steps.worker.canvas import Plan

#: Of these verbs, what the recorded input calls what they are about.
_ABOUT = {"wait_for_event": "event", "emit": "event", "run_task": "task"}


@dataclass(frozen=True)
class Span:
    """One step, wait or child as a bar on the run's time axis; also a node of the flow graph."""

    key: str
    sequence: int
    verb: str  # run, sleep, sleep_until, wait_for_event, emit, run_task; undo: a try of the step's rollback
    status: str  # as Record.status
    run_id: str  # the task id of the run that recorded it
    attempt: int  # of that run; 0: it borrowed the namespace for this step
    event_id: str  # as Record.event_id
    began_at: datetime
    ended_at: datetime | None  # None: not over
    about: str  # the event's name, the child's task, ""
    child_id: str  # task id of the child whose result run_task waits for, else ""
    lane: int  # spans that overlap have different lanes, from 0
    after: tuple[int, ...]  # indexes of the spans that it directly follows: the flow graph's edges


@dataclass(frozen=True)
class Timeline:
    """A run on its time axis. Spans of other runs that share the namespace may lie before and after it."""

    namespace: str
    run_id: str
    status: str
    began_at: datetime
    ended_at: datetime | None  # None: the run is not over
    now: datetime  # by the store's clock
    attempts: tuple[RunAttempt, ...]
    spans: tuple[Span, ...]  # in the order in which they began


def timeline_of(run: Run, history: History, now: int, codec: Codec) -> Timeline:
    """The timeline of a run; `now` in ms since 1970 by the store's clock."""
    pasts = [*history.steps, *history.waits]
    # Steps that began in the same millisecond: one after the other, as they are in the journal.
    pasts.sort(key=lambda past: (past.began_ms, past.place))
    ends = [_end(past, run, history) for past in pasts]
    begins = [past.began_ms for past in pasts]
    lanes, after = _lanes(begins, ends), _after(begins, ends)
    return Timeline(
        namespace=run.namespace,
        run_id=run.id,
        status=run.status,
        began_at=run.created_at,
        ended_at=run.changed_at if run.status in FINAL else None,
        now=at(now),
        attempts=run.history,
        spans=tuple(
            _span(run.namespace, past, end, lane, before, codec)
            for past, end, lane, before in zip(pasts, ends, lanes, after, strict=True)
        ),
    )


def _span(namespace: str, past: PastStep, end: int | None, lane: int, after: tuple[int, ...], codec: Codec) -> Span:
    attempt = past.attempt
    return Span(
        key=past.identity[0],
        sequence=past.identity[1],
        verb=past.verb,
        status=past.status,
        run_id="" if attempt is None else RunId.parse(attempt.run).id,
        attempt=0 if attempt is None else attempt.number,
        event_id=past.id,
        began_at=at(past.began_ms),
        ended_at=None if end is None else at(end),
        about=_about(namespace, past, codec),
        child_id=_child(past),
        lane=lane,
        after=after,
    )


def _end(past: PastStep, run: Run, history: History) -> int | None:
    """When it was over. A step without an outcome goes on where its attempt does, and where it is in doubt."""
    if past.status == WAITING:
        return None
    if past.ended_ms is not None:
        return max(past.began_ms, past.ended_ms)
    attempt = past.attempt
    mine = attempt is not None and RunId.parse(attempt.run).id == run.id
    running = (
        attempt is not None and attempt is history.attempts[-1] and not attempt.ended and (run.status == "running" or not mine)
    )
    in_doubt = past.status == BEGUN and past.identity in history.doubts and mine and run.status == "in_doubt"
    return None if running or in_doubt else past.began_ms


def _about(namespace: str, past: PastStep, codec: Codec) -> str:
    if past.wait is not None:
        return past.wait.about
    name, step = _ABOUT.get(past.verb), past.step
    if name is None or step is None or step.input is None:
        return ""
    try:
        asked = codec.decode(step.input, hint=PLAIN, namespace=namespace, key=step.key, sequence=step.sequence)
    except Exception:  # also whatever steps_codec raises: its record says why
        return ""
    about: Any = asked.get(name) if isinstance(asked, dict) else None
    return about if isinstance(about, str) else ""


def _child(past: PastStep) -> str:
    if past.wait is None or past.wait.verb != "run_task":
        return ""
    try:
        shape = Plan.read(child_detail(past.wait.detail)[1]).shape
    except Exception:  # damaged: the bar is drawn all the same
        return ""
    return shape if isinstance(shape, str) else ""  # a group has many ids, and none of its own


def _lanes(begins: Sequence[int], ends: Sequence[int | None]) -> list[int]:
    """For each span the lowest lane that is free when it begins."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    lanes: list[int] = []
    made = 0
    for began, ended in zip(begins, ends, strict=True):
        while busy and busy[0][0] <= began:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            heapq.heappush(free, made)
            made += 1
        lane = heapq.heappop(free)
        lanes.append(lane)
        if ended is not None:
            heapq.heappush(busy, (ended, lane))
    return lanes


def _after(begins: Sequence[int], ends: Sequence[int | None]) -> list[tuple[int, ...]]:
    """For each span those that it directly follows: the transitive reduction of "was over before it began".

    One sweep over begins and ends. `front` holds what is over and was followed by nothing that is over too, by its end. What
    began last of all that is over (`newest`) follows everything that was over by then.
    """
    over = deque(sorted((end, i) for i, end in enumerate(ends) if end is not None))
    front: deque[tuple[int, int]] = deque()
    newest = -1
    found: list[tuple[int, ...]] = []
    now: tuple[int, ...] = ()
    for i, began in enumerate(begins):
        changed = False
        while over and over[0] < (began, i):
            front.append(over.popleft())
            newest, changed = max(newest, front[-1][1]), True
        if changed:
            while front[0][1] != newest and front[0][0] <= begins[newest]:
                front.popleft()
            now = tuple(sorted(place for _, place in front))
        found.append(now)
    return found

"""Journals with known times, entry by entry, without a store."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from celery_steps.codec import PLAIN, Codec, pack
from celery_steps.engine import entries as fmt
from celery_steps.engine.history import History
from celery_steps.past import Run, attempt_of
from celery_steps.store.keys import RunId
from celery_steps.store.replies import Entry
from celery_steps.timeline import Span, Timeline, timeline_of

#: When every journal here begins, in ms since 1970.
START = 1_700_000_000_000


class Written:
    """A journal that is written by hand. Times are ms after its beginning."""

    def __init__(self, task: str = "shop.fulfil", id: str = "id-1", namespace: str = "order-42") -> None:
        self.entries: list[Entry] = []
        self.codec = Codec(None, 1 << 20)
        self.namespace, self.run = namespace, RunId(task, id)
        self._fence, self._n, self._attempt = 0, 0, 0

    def add(self, kind: str, data: bytes, at: int | None = None) -> Written:
        """An entry of the attempt, or with `at` one that moves the fence on."""
        if at is not None:
            self._fence, self._n = at, -1
        self._n += 1
        self.entries.append(Entry(f"{START + self._fence}-{self._n}", kind, data))
        return self

    def attempt(self, at: int, kind: str = "attempt", run: RunId | None = None, token: str = "worker@here/7/1/1") -> Written:
        self._attempt = at
        return self.add(kind, fmt.pack_call(token, str(run or self.run), (run or self.run).task, None, 0), at)

    def step(self, key: str, began: int, ended: int, *, sequence: int = 1, verb: str = "run", input: Any = None) -> Written:
        """A step that was done; its times are written as ms after the attempt began."""
        where: dict[str, Any] = {"namespace": self.namespace, "key": key, "sequence": sequence}
        value = self.codec.encode("result", hint=PLAIN, **where)
        asked = None if input is None else self.codec.encode(input, hint=PLAIN, **where)
        entry = fmt.pack_step((key, sequence), None, True, value, asked, began - self._attempt, ended - began, verb)
        return self.add("step", entry)

    def wait(self, key: str, verb: str = "sleep", about: str = "", deadline: int = 0, *, began: int | None = None) -> Written:
        """A wait that begins at that time; or nobody wrote down when, and it is taken to be when the last step was done."""
        known = [] if began is None else [began - self._attempt]
        entry = pack([fmt.FORMAT, key, 1, verb, about, deadline and START + deadline, b"", *known])
        return self.add("wait", entry)

    def tried(self, key: str, began: int, ended: int, due: int) -> Written:
        self.add("start", fmt.pack_start((key, 1)))
        return self.add("tried", fmt.pack_tried((key, 1), START + due, b"", began - self._attempt, ended - began))

    def suspend(self) -> Written:
        return self.add("suspend", fmt.pack_suspend(str(self.run), "something", fmt.NEVER))

    def finish(self, outcome: str = "succeeded") -> Written:
        return self.add("finish", fmt.pack_finish(str(self.run), outcome, b""))

    def timeline(self, status: str = "running", changed: int = 0, now: int = 1_000_000) -> Timeline:
        history = History.of(self.entries)
        run = Run(
            self.namespace, self.run.id, self.run.task, status, 1, 0, 0, moment(0), moment(changed), None, None, None, None,
            history=tuple(attempt_of(past, False, None) for past in history.attempts_of(str(self.run))),
        )  # fmt: skip
        return timeline_of(run, history, START + now, self.codec)


def moment(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=START + ms)


def ms(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * 1000) - START


def bars(timeline: Timeline) -> list[tuple[str, int | None, int | None]]:
    return [(span.key, ms(span.began_at), ms(span.ended_at)) for span in timeline.spans]


def edges(timeline: Timeline) -> dict[str, list[str]]:
    return {span.key: [timeline.spans[i].key for i in span.after] for span in timeline.spans}


def statuses(timeline: Timeline) -> list[tuple[str, str, str]]:
    return [(span.key, span.verb, span.status) for span in timeline.spans]


def span_of(timeline: Timeline, key: str) -> Span:
    (span,) = [span for span in timeline.spans if span.key == key]
    return span

"""Following runs while they go on: what `Runs.tail` hands out, item by item."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from time import sleep
from typing import TypeVar

from celery_steps.engine.history import History
from celery_steps.errors import StoreUnavailable
from celery_steps.lookup import Lookup
from celery_steps.past import Line, Record, Run, at, line_of, record_of
from celery_steps.store.index import Row
from celery_steps.store.keys import FINAL, OPEN, RunId
from celery_steps.store.replies import Entry

logger = logging.getLogger("celery_steps")

Item = Run | Record | Line
T = TypeVar("T")

#: Entries and lines that are read at once.
_PAGE = 1000
_ENDLESS = 1 << 53


def moment_of(item: Item) -> datetime:
    """When it happened, by the store's clock."""
    return item.changed_at if isinstance(item, Run) else item.occurred_at if isinstance(item, Record) else item.at


def patiently(look: Callable[[], T], interval: float) -> T:
    """Look until Redis is there."""
    told = False
    while True:
        try:
            return look()
        except StoreUnavailable as error:
            if not told:
                logger.warning("%s Waiting until it is back.", error)
            told = True
            sleep(interval)


# -- one run --------------------------------------------------------------------------------------------------------------


class _Namespace:
    """What has been seen of a namespace: of one run in it, or of all."""

    def __init__(self, lookup: Lookup, namespace: str, runs: list[RunId], only: str) -> None:
        self._lookup = lookup
        self._namespace = namespace
        self._only = only  # a task id, "": all
        self._runs: dict[str, RunId] = {}
        self._history = History()
        self._attempts = 0
        self._entry = self._line = ""  # the last that were seen
        self._known: dict[str, tuple[str, int, datetime]] = {}
        self.is_over = False
        self._meet(runs)

    def past(self, last: int) -> list[Item]:
        """What there was before, as much as is asked for."""
        found: list[Item] = []
        while entries := self._entries():
            found += self._records(entries)
        # The newest line also where none is asked for: what follows comes after it.
        lines = list(islice(self._lookup.index.lines(self._namespace), max(1, last)))
        found += self._lines(lines[::-1]) + self._changes(self._load())
        return self._in_order(found)[-last:] if last else []

    def news(self) -> list[Item]:
        """What has come since, at most a page of each kind."""
        runs = self._load()  # first: what is written before a run ends is seen before its end is
        entries = self._entries()
        lines = self._lookup.index.lines_after(self._namespace, self._line or "0", _PAGE)
        # From here nothing can fail, and be lost.
        return self._in_order([*self._changes(runs), *self._records(entries), *self._lines(lines)])

    def _load(self) -> list[Run]:
        return self._lookup.load([(self._namespace, run) for run in self._runs.values()])

    def _entries(self) -> list[Entry]:
        return self._lookup.store.read(self._namespace, f"({self._entry}" if self._entry else "-", _PAGE)

    def _records(self, entries: list[Entry]) -> list[Item]:
        found: list[Item] = []
        for entry in entries:
            found += [record_of(self._namespace, past, self._lookup.codec) for past in self._history.read(entry)]
            self._entry = entry.id
        begun = [RunId.parse(attempt.run) for attempt in self._history.attempts[self._attempts :] if attempt.number]
        self._attempts = len(self._history.attempts)
        self._meet([run for run in begun if run.id == (self._only or run.id)])
        return found

    def _meet(self, runs: list[RunId]) -> None:
        """What `replace` put in a run's place has its id, and takes it here too."""
        for run in sorted(runs, key=lambda run: run.nesting):
            if run.nesting >= self._runs.get(run.id, run).nesting:
                self._runs[run.id] = run

    def _lines(self, lines: list[tuple[str, bytes, bytes]]) -> list[Item]:
        if lines:
            self._line = lines[-1][0]
        return [line_of(self._namespace, *line, self._lookup.codec) for line in lines]

    def _changes(self, runs: list[Run]) -> list[Item]:
        self.is_over = all(run.status in FINAL for run in runs)
        states = {run.id: (run.status, run.attempts, run.changed_at) for run in runs}
        found: list[Item] = [run for run in runs if self._known.get(run.id) != states[run.id]]
        self._known |= states
        return found

    def _in_order(self, items: list[Item]) -> list[Item]:
        wanted = (item for item in items if isinstance(item, Run) or not self._only or item.run_id in (self._only, ""))
        return sorted(wanted, key=moment_of)


def follow(lookup: Lookup, name: str, last: int, interval: float) -> Iterator[Item]:
    """The records, lines and changes of status of one namespace, or of one run in it, until it is finished."""
    namespace, runs = lookup.find(name)
    if not runs:
        raise lookup.none(name)
    seen = _Namespace(lookup, namespace, runs, "" if namespace == name else name)
    past = seen.past(last)  # here, so that who asks for nothing known is told at once
    return _until_over(seen, past, interval)


def _until_over(seen: _Namespace, past: list[Item], interval: float) -> Iterator[Item]:
    yield from past
    while True:
        was_over = seen.is_over
        news = patiently(seen.news, interval)
        yield from news
        if was_over and seen.is_over:
            return
        if len(news) < _PAGE:
            sleep(interval)


# -- all runs -------------------------------------------------------------------------------------------------------------


def follow_all(lookup: Lookup, last: int, interval: float) -> Iterator[Run]:
    """Every run whenever its status changes; one that changes several times between two looks is met once."""
    rows = list(islice(lookup.index.rows(OPEN + FINAL, 0, _ENDLESS, None), max(1, last)))
    since = rows[0].changed if rows else 0
    past = lookup.load([row.split() for row in rows])[::-1] if last else []
    known = {row.split(): row.changed for row in rows}
    return _for_ever(lookup, past, since, known, interval)


def _for_ever(lookup: Lookup, past: list[Run], since: int, known: dict[tuple[str, RunId], int], interval: float) -> Iterator[Run]:
    yield from past
    while True:
        rows, until = patiently(partial(lookup.index.changes, since), interval)
        new = [row for row in rows if known.get(row.split(), -1) < row.changed]
        yield from patiently(partial(_loaded, lookup, new), interval)
        newest = max((row.changed for row in rows), default=since)
        # Others may have changed in the same millisecond: it is looked at again, unless it alone fills the page.
        since = newest + 1 if until == since else newest
        known.update({row.split(): row.changed for row in new})
        known = {run: changed for run, changed in known.items() if changed >= since}
        if until is None:
            sleep(interval)


def _loaded(lookup: Lookup, rows: list[Row]) -> list[Run]:
    """The runs as these rows found them; those that have changed since are met again."""
    places = {(namespace, run.id, at(row.changed)) for row in rows for namespace, run in [row.split()]}
    runs = lookup.load([row.split() for row in rows])
    return [run for run in runs if (run.namespace, run.id, run.changed_at) in places]

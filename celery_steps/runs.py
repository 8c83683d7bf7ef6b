"""Runs: look at runs, and act on them, from outside."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from celery import Celery

from celery_steps import purge
from celery_steps.doctor import Finding, examine
from celery_steps.engine.entries import pack_control
from celery_steps.engine.event import Emission, check_app, check_data, check_event
from celery_steps.engine.history import DONE, FAILED, UNDONE, WAITING, History
from celery_steps.engine.identity import check_namespace
from celery_steps.errors import RunRefused, StepsError
from celery_steps.export import export
from celery_steps.lookup import Lookup
from celery_steps.past import Line, Page, Record, Run, Stats, line_of, record_of
from celery_steps.store.index import Row
from celery_steps.store.keys import FINAL, LEVELS, OPEN
from celery_steps.store.server import Server
from celery_steps.tail import follow, follow_all
from celery_steps.timeline import Span, Timeline, timeline_of
from celery_steps.times import duration, moment
from celery_steps.worker import again, control, events
from celery_steps.worker.check import Check, check
from celery_steps.worker.sweeper import sweep

__all__ = ["Check", "Finding", "Line", "Page", "Record", "Run", "Runs", "Span", "Stats", "Timeline"]

_NOTHING: Any = object()
_STATUSES = OPEN + FINAL
_LARGEST_PAGE = 10_000
_ENDLESS = 1 << 53  # ms; later than any time, and exact as a score


class Runs:
    """The runs of one app's store. `name`, below, is a namespace or a task id.

    Every method raises StoreUnavailable when Redis cannot be reached, SettingsError when the app's settings are wrong.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app

    @property
    def _lookup(self) -> Lookup:
        return Lookup(self.app)

    # -- looking ----------------------------------------------------------------------------------------------------

    def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        task: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        namespace: str | None = None,
        text: str | None = None,
        look_at: int | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Runs by the time at which their status changed last, newest first.

        Args:
            status: one status or several.
            task: a task's name.
            since, until: an aware datetime, ISO 8601 text with an offset, or how long ago ("2h").
            namespace: only runs of this namespace, or with this task id.
            text: only runs whose namespace, task id or task contains it; upper and lower case are the same.
            look_at: give up after so many runs, fitting or not: `cursor` then leads on, even from a page without any.
            limit: at most so many runs, up to 10,000.
            cursor: of the page before. A run that changes meanwhile is the newest, and so not on a later page.

        Raises StepsError for an argument that is none of these.
        """
        if not 1 <= limit <= _LARGEST_PAGE:
            raise StepsError(f"limit must be from 1 to {_LARGEST_PAGE:,}, not {limit!r}.")
        if look_at is not None and look_at < 1:
            raise StepsError(f"look_at must be at least 1, not {look_at!r}.")
        lookup = self._lookup
        start, end = (_milliseconds(value, name) for value, name in ((since, "since"), (until, "until")))
        span = (start or 0, _ENDLESS if end is None else end, None if cursor is None else Row.at(cursor))
        wanted = _statuses(status)
        rows = lookup.index.rows(wanted, *span) if namespace is None else lookup.rows_of(namespace, *span)

        def fits(row: Row) -> bool:
            return (task is None or row.is_of(task)) and (not text or row.contains(text))

        return lookup.page(rows, wanted, limit, fits, look_at)

    def version(self, name: str | None = None) -> str:
        """A text that is another whenever something new is known of a run, or, without `name`, of any run's status.

        For who looks again and again: it costs about as much as listing a few runs, and reads no journal.
        Raises RunRefused if there is no such run.
        """
        return self._lookup.version(name)

    def get(self, name: str) -> Run:
        """One run, with its attempts. RunRefused if there is none, or if the namespace has several: it lists them."""
        return self._lookup.get(name)

    def records(self, name: str, attempts: bool = False) -> builtins.list[Record]:
        """The recorded steps of a namespace, in the order of its journal, then what is waited for; runs in it share them.

        With `attempts` also what does not stand any more: reopened failures, what was before a `replace`, steps that were begun
        or raised without a recorded outcome, and each try of a rollback (its verb is undo). A record that cannot be read says
        why in `corrupt`.

        Raises RunRefused if there is no journal.
        """
        lookup = self._lookup
        namespace, _ = lookup.find(name)
        if not lookup.index.has_journal(namespace):
            raise RunRefused(f"There is no journal of {name!r}: nothing was recorded, or it is past steps_retention.")
        history = History.of(lookup.store.entries(namespace))
        steps, standing = [*history.steps, *history.waits], (DONE, FAILED, WAITING, UNDONE)
        return [
            record_of(namespace, step, lookup.codec)
            for step in steps
            if attempts or step.trouble or (step.status in standing and step.verb != "undo")
        ]

    def timeline(self, name: str) -> Timeline:
        """When everything in a run's journal began and ended, and what followed what: for drawing it as bars, or as a graph.

        Runs that share the namespace are in it too. What does not stand any more is there, with its status. A moment that nobody
        wrote down is the last one that is known before it.

        Raises RunRefused if there is no such run, or if the namespace has several: it lists them.
        """
        lookup = self._lookup
        run, history = lookup.past(name)
        return timeline_of(run, history, lookup.index.now(), lookup.codec)

    def logs(
        self, name: str, *, limit: int = 1000, since: datetime | str | None = None, level: str = "debug"
    ) -> builtins.list[Line]:
        """The lines that runs said with `step.log`, oldest first: of one run for a task id, of all its runs for a namespace.

        A namespace keeps about 10,000 lines, for as long as its journal. A line that cannot be read says why in `corrupt`.

        Args:
            limit: at most so many, up to 10,000: the newest.
            since: an aware datetime, ISO 8601 text with an offset, or how long ago ("2h").
            level: only lines as grave as this, or graver: debug, info, warning, error.

        Raises RunRefused if there is no such run, StepsError for an argument that is none of these.
        """
        if not 1 <= limit <= _LARGEST_PAGE:
            raise StepsError(f"limit must be from 1 to {_LARGEST_PAGE:,}, not {limit!r}.")
        if level not in LEVELS:
            raise StepsError(f"There is no level {level!r}: it is one of {', '.join(LEVELS)}.")
        start = None if since is None else moment(since, "since")
        lookup = self._lookup
        namespace, ids = lookup.find(name)
        if not ids:
            raise lookup.none(name)
        wanted = LEVELS[LEVELS.index(level) :]
        run = name if any(id.id == name for id in ids) else ""
        found: builtins.list[Line] = []
        for id, at, data in lookup.index.lines(namespace):
            line = line_of(namespace, id, at, data, lookup.codec)
            if len(found) == limit or (start is not None and line.at < start):
                break
            if line.level in wanted and line.run_id in (run or line.run_id, ""):
                found.append(line)
        return found[::-1]

    def tail(self, name: str | None = None, *, last: int = 10, interval: float = 0.5) -> Iterator[Run | Record | Line]:
        """What happens, as it happens: it blocks between items.

        With a name: its runs whenever their status changes, their records and their log lines; it ends once they are finished.
        Without: every run whenever its status changes; it never ends. What changes twice between two looks is met once, records
        and lines are all met. While Redis is away it waits, and logs a warning.

        Args:
            last: begin with so many of what there was already, up to 10,000.
            interval: seconds between two looks.

        Raises RunRefused if there is no such run, StepsError for an argument that is none of these.
        """
        if type(last) is not int or not 0 <= last <= _LARGEST_PAGE:
            raise StepsError(f"last must be from 0 to {_LARGEST_PAGE:,}, not {last!r:.80}.")
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0 < interval <= 3600:
            raise StepsError(f"interval must be seconds, more than 0, not {interval!r:.80}.")
        return follow_all(self._lookup, last, interval) if name is None else follow(self._lookup, name, last, interval)

    def stats(self) -> Stats:
        """Counts by status, tickets, and the server."""
        lookup = self._lookup
        runs, tickets, info = lookup.index.counts(), lookup.index.tickets(self.app.main or ""), Server(lookup.store).info()
        return Stats(
            runs=runs,
            unfinished=sum(runs[status] for status in OPEN),
            tickets=tickets.total,
            due=tickets.due,
            late_seconds=tickets.late_ms / 1000,
            memory_bytes=int(info["used_memory"]) if "used_memory" in info else None,
            server=info.get("redis_version", ""),
        )

    def doctor(self) -> builtins.list[Finding]:
        """Examine settings, store and app; whatever is wrong is a finding, not an error. Changes nothing."""
        return examine(self.app)

    def export(self, name: str) -> dict[str, Any]:
        """One run as a JSON document: call, journal, inbox and log lines, with the recorded bytes beside a readable form.

        `celery_steps.testing.replay` runs code against it. Whatever the run recorded is in it, secrets too. Changes nothing.

        Raises RunRefused if there is no such run, or if the namespace has several: it lists them; JournalLost.
        """
        return export(self._lookup, name)

    def check(self, task: str | None = None) -> Iterator[Check]:
        """Rehearse every open run against the code as it is now, before a deploy: which would diverge, and what would newly run?

        Recorded steps are replayed, handlers are not called, nothing is written; code of a body outside its steps does run.

        Args:
            task: only runs of this task.
        """
        self.app.loader.import_default_modules()
        index = self._lookup.index
        rows = [row.split() for row in index.rows(OPEN, 0, _ENDLESS, None) if task is None or row.is_of(task)]
        for place, head in zip(rows, index.heads(rows), strict=True):
            if head.get("status") in OPEN:
                yield check(self.app, *place, head["status"])

    # -- acting -----------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Publish the runs of this app whose tickets are due, as every worker does all the time. Returns how many."""
        self._lookup.index.now()  # an absent Redis is told at once
        self.app.loader.import_default_modules()  # routes may depend on the tasks
        return sweep(self.app).published

    def cancel(self, name: str) -> None:
        """Ask a run to end as cancelled: at once where it waits, after the handler in progress where it runs.

        A task id that has not begun a step is cancelled when it comes to a worker, within steps_retention. Raises RunRefused for
        a finished run, and for a namespace with several open runs: it lists them.
        """
        lookup = self._lookup
        if lookup.find(name)[1]:
            control.cancel(self.app, *lookup.one(name))
            return
        control.cancel_unknown(self.app, name)
        if lookup.find(name)[1]:  # it has begun in this very moment, perhaps before the mark
            control.cancel(self.app, *lookup.one(name))

    def pause(self, name: str) -> None:
        """Ask a run to start no further step until it is unpaused. Its sleeps and deadlines go on; events are kept.

        Raises RunRefused for a finished run, and if there is none.
        """
        namespace, run = self._lookup.one(name)
        control.ask(self.app, namespace, run, "pause", pack_control(str(run), "paused"))

    def unpause(self, name: str) -> None:
        """Let a paused run carry on. Raises RunRefused for one that is not paused, and if there is none."""
        namespace, run = self._lookup.one(name)
        control.ask(self.app, namespace, run, "unpause", pack_control(str(run), "unpaused"))

    def resolve(
        self,
        name: str,
        key: str | None = None,
        *,
        sequence: int = 1,
        done: Any = _NOTHING,
        failed: str | None = None,
        rerun: bool = False,
    ) -> None:
        """Say what became of the step in doubt for which a run waits; it carries on at once.

        Args:
            key, sequence: the step, where several are in doubt.
            done: it had its effect: this is its result. Where `returns=` or the handler's annotation names a class, plain data
                will do: a dict of its fields, an Enum's value. If it does not fit, the step is in doubt again, and the run's
                `waiting` says why.
            failed: it failed: StepFailed with this text is raised in the body.
            rerun: it had no effect: its handler is called again.

        Raises RunRefused if the run or the step is not in doubt; StepsError unless exactly one of the three is given.
        """
        given = [how for how, said in (("done", done is not _NOTHING), ("failed", failed is not None), ("rerun", rerun)) if said]
        if len(given) != 1:
            raise StepsError("Say one of done=, failed= and rerun=True.")
        namespace, run = self._lookup.one(name)
        control.resolve(self.app, namespace, run, key, sequence, given[0], failed if given[0] == "failed" else done)

    def retry(self, name: str, from_step: str | None = None, *, sequence: int = 1) -> None:
        """Let a run that failed or was cancelled begin again, at once, with its recorded results.

        Failed steps are done anew, and what was undone; with `from_step` (and which use of that key) also that step and all that
        was recorded after it. A run whose rollback stopped at an undo that failed goes on with its rollback instead.

        Raises RunRefused for a run in another status, and for a step that is not recorded: it names those that are.
        """
        again.retry(self.app, *self._lookup.one(name), from_step, sequence)

    def fork(self, name: str, from_step: str | None = None, *, sequence: int = 1, namespace: str | None = None) -> str:
        """Start a copy of a run in a namespace of its own, with what was recorded before `from_step` (by default everything).

        The copy has the same arguments, and none of the callbacks, chain, group and chord. Returns its task id, which is also its
        namespace by default. Raises RunRefused if that namespace has a journal, and for a step that is not recorded.
        """
        return again.fork(self.app, *self._lookup.one(name), from_step, sequence, namespace)

    def emit(self, event: str, data: Any, *, to: str | None = None, id: str | None = None, app: str | None = None) -> int:
        """Send an event, as `step.emit` does from inside a run.

        Args:
            event: its name.
            data: what a wait for it returns: anything that a step may return, but None.
            to: a namespace, or a task id: it is kept there until a run waits for it. Without: everyone waiting for it now.
            id: the event's own. Sent again with the same one, it counts once; without, each call is an event of its own.
            app: start only tasks of the Celery app with this name.

        Returns how many waits and tasks it reached. Raises RunRefused if every run of that namespace is finished, StepsError
        for an argument that is none of these.
        """
        check_event(event, "emit")
        check_data(data, "emit")
        check_app(app, to, "emit")
        if id is not None and (not isinstance(id, str) or not id.strip()):
            raise StepsError(f"emit: an event's id must be text that is not blank, not {id!r:.80}.")
        if to is not None:
            to = self._lookup.store.namespace_of(check_namespace(to, "emit's to"))
        self._lookup.index.now()  # an absent Redis is told at once
        self.app.loader.import_default_modules()  # routes may depend on the tasks
        return events.emit(self.app, Emission(event, data, id or uuid4().hex, to, app))

    def purge(
        self,
        *,
        older_than: float | timedelta | str | None = None,
        status: str | Sequence[str] | None = None,
        namespace: str | None = None,
    ) -> int:
        """Forget finished runs; with the last run of a namespace, its journal too. Returns how many.

        A late copy of a purged run's message would run it anew.

        Args:
            older_than: finished so long ago: seconds, a timedelta or text such as "7d".
            status: succeeded, failed, cancelled; one or several.
            namespace: only runs of this namespace, or of this task id.

        Raises RunRefused for an unfinished run, and if there is no such namespace; StepsError if nothing is said about what to
        purge (`older_than=0` is every finished run).
        """
        if older_than is None and status is None and namespace is None:
            raise StepsError("purge needs older_than, status or namespace; older_than=0 is every finished run.")
        wanted = FINAL if status is None else _statuses(status)
        unfinished = [name for name in wanted if name not in FINAL]
        if unfinished:
            raise RunRefused(f"Only finished runs can be purged, not those that are {unfinished[0]}.")
        lookup = self._lookup
        until = lookup.index.now() - int(duration(older_than or 0, "older_than") * 1000)
        if namespace is not None:
            return purge.one_namespace(lookup, namespace, wanted, until, all_of_it=older_than is None and status is None)
        return purge.everywhere(lookup.index, wanted, until)


def _milliseconds(value: datetime | str | None, name: str) -> int | None:
    return None if value is None else int(moment(value, name).timestamp() * 1000)


def _statuses(status: str | Sequence[str] | None) -> tuple[str, ...]:
    wanted = (status,) if isinstance(status, str) else _STATUSES if status is None else tuple(status)
    for name in wanted:
        if name not in _STATUSES:
            raise StepsError(f"There is no status {name!r}: it is one of {', '.join(_STATUSES)}.")
    return wanted

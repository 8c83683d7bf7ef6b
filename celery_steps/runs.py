"""Runs: look at runs, and act on them, from outside."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import uuid4

from celery import Celery

from celery_steps.doctor import Finding, examine
from celery_steps.engine.attempt import Emission
from celery_steps.engine.entries import Identity, pack_control, read_finish
from celery_steps.engine.event import check_app, check_data, check_event
from celery_steps.engine.history import DONE, FAILED, WAITING, History
from celery_steps.engine.identity import check_namespace
from celery_steps.engine.journal import Journal
from celery_steps.errors import JournalLost, RunRefused, StepsError
from celery_steps.past import Line, Page, Record, Run, Stats, attempt_of, line_of, record_of, run_of, waiting_of
from celery_steps.store.index import Index, Row
from celery_steps.store.keys import AWAY, FINAL, LEVELS, OPEN, RunId
from celery_steps.store.replies import Entry
from celery_steps.times import duration, moment
from celery_steps.worker import again, control, events, runtime
from celery_steps.worker.check import Check, check
from celery_steps.worker.sweeper import sweep

__all__ = ["Check", "Finding", "Line", "Page", "Record", "Run", "Runs", "Stats"]

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
    def _index(self) -> Index:
        return Index(runtime.of(self.app).main_store)

    # -- looking ----------------------------------------------------------------------------------------------------

    def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        task: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Runs by the time at which their status changed last, newest first.

        Args:
            status: one status or several.
            task: a task's name.
            since, until: an aware datetime, ISO 8601 text with an offset, or how long ago ("2h").
            limit: at most so many runs, up to 10,000.
            cursor: of the page before. A run that changes meanwhile is the newest, and so not on a later page.

        Raises StepsError for an argument that is none of these.
        """
        if not 1 <= limit <= _LARGEST_PAGE:
            raise StepsError(f"limit must be from 1 to {_LARGEST_PAGE:,}, not {limit!r}.")
        index = self._index
        start, end = (_milliseconds(value, name) for value, name in ((since, "since"), (until, "until")))
        below = None if cursor is None else Row.at(cursor)
        wanted = _statuses(status)
        rows = index.rows(wanted, start or 0, _ENDLESS if end is None else end, below)
        if task is not None:
            rows = (row for row in rows if row.is_of(task))
        found: builtins.list[Run] = []
        last = None
        while len(found) < limit and (chunk := builtins.list(islice(rows, limit - len(found)))):
            last = chunk[-1]
            # Not those that have changed since the index was read, nor those whose keys have expired.
            found += [run for run in self._load(index, [row.split() for row in chunk]) if run.status in wanted]
        more = last is not None and next(rows, None) is not None
        return Page(tuple(found), last.cursor if more and last else None)

    def get(self, name: str) -> Run:
        """One run, with its attempts. RunRefused if there is none, or if the namespace has several: it lists them."""
        index = self._index
        namespace, ids = self._find(name)
        # What `replace` put in a run's place has its id.
        id = max(ids, key=lambda id: id.nesting, default=None)
        if id is None or any(other.id != id.id for other in ids):
            raise RunRefused(self._several(index, namespace, ids) if ids else self._none(index, name))
        run = next(iter(self._load(index, [(namespace, id)])), None)
        if run is None:  # gone since
            raise RunRefused(self._none(index, name))
        history = History.of(self._entries(namespace))
        past = history.attempts_of(str(id))
        running = run.status == "running" and run.owner is not None
        return replace(
            run,
            history=tuple(attempt_of(attempt, running and attempt is past[-1]) for attempt in past),
            in_flight=past[-1].in_flight if past and run.status not in FINAL else None,
            to_undo=self._to_undo(namespace, id) if run.status in ("rolling_back", "failed", "cancelled") else (),
            waiting=past[-1].about if past and run.status in AWAY else "",
            waits=tuple(waiting_of(wait) for wait in history.waits_of(str(id))),
        )

    def records(self, name: str, attempts: bool = False) -> builtins.list[Record]:
        """The recorded steps of a namespace, in the order of its journal, then what is waited for; runs in it share them.

        With `attempts` also what does not stand any more: reopened failures, what was before a `replace`, steps that were begun
        or raised without a recorded outcome. A record that cannot be read says why in `corrupt`.

        Raises RunRefused if there is no journal.
        """
        namespace, _ = self._find(name)
        if not self._index.has_journal(namespace):
            raise RunRefused(f"There is no journal of {name!r}: nothing was recorded, or it is past steps_retention.")
        codec = runtime.of(self.app).codec
        history = History.of(self._entries(namespace))
        steps, standing = [*history.steps, *history.waits], (DONE, FAILED, WAITING)
        return [record_of(namespace, step, codec) for step in steps if attempts or step.trouble or step.status in standing]

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
        index = self._index
        namespace, ids = self._find(name)
        if not ids:
            raise RunRefused(self._none(index, name))
        codec, wanted = runtime.of(self.app).codec, LEVELS[LEVELS.index(level) :]
        run = name if any(id.id == name for id in ids) else ""
        found: builtins.list[Line] = []
        for id, at, data in index.lines(namespace):
            line = line_of(namespace, id, at, data, codec)
            if len(found) == limit or (start is not None and line.at < start):
                break
            if line.level in wanted and line.run_id in (run or line.run_id, ""):
                found.append(line)
        return found[::-1]

    def stats(self) -> Stats:
        """Counts by status, tickets, and the server."""
        index, store = self._index, runtime.of(self.app).main_store
        runs, tickets, info = index.counts(), index.tickets(self.app.main or ""), store.info()
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

    def check(self, task: str | None = None) -> Iterator[Check]:
        """Rehearse every open run against the code as it is now, before a deploy: which would diverge, and what would newly run?

        Recorded steps are replayed, handlers are not called, nothing is written; code of a body outside its steps does run.

        Args:
            task: only runs of this task.
        """
        self.app.loader.import_default_modules()
        index = self._index
        rows = [row.split() for row in index.rows(OPEN, 0, _ENDLESS, None) if task is None or row.is_of(task)]
        for place, head in zip(rows, index.heads(rows), strict=True):
            if head.get("status") in OPEN:
                yield check(self.app, *place, head["status"])

    # -- acting -----------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Publish the runs of this app whose tickets are due, as every worker does all the time. Returns how many."""
        self._index.now()  # an absent Redis is told at once
        self.app.loader.import_default_modules()  # routes may depend on the tasks
        return sweep(self.app).published

    def cancel(self, name: str) -> None:
        """Ask a run to end as cancelled: at once where it waits, after the handler in progress where it runs.

        A task id that has not begun a step is cancelled when it comes to a worker, within steps_retention. Raises RunRefused for
        a finished run, and for a namespace with several open runs: it lists them.
        """
        if self._find(name)[1]:
            control.cancel(self.app, *self._one(name))
        else:
            control.cancel_unknown(self.app, name)

    def pause(self, name: str) -> None:
        """Ask a run to start no further step until it is unpaused. Its sleeps and deadlines go on; events are kept.

        Raises RunRefused for a finished run, and if there is none.
        """
        namespace, run = self._one(name)
        control.ask(self.app, namespace, run, "pause", pack_control(str(run), "paused"))

    def unpause(self, name: str) -> None:
        """Let a paused run carry on. Raises RunRefused for one that is not paused, and if there is none."""
        namespace, run = self._one(name)
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
            done: it had its effect: this is its result.
            failed: it failed: StepFailed with this text is raised in the body.
            rerun: it had no effect: its handler is called again.

        Raises RunRefused if the run or the step is not in doubt; StepsError unless exactly one of the three is given.
        """
        given = [how for how, said in (("done", done is not _NOTHING), ("failed", failed is not None), ("rerun", rerun)) if said]
        if len(given) != 1:
            raise StepsError("Say one of done=, failed= and rerun=True.")
        namespace, run = self._one(name)
        control.resolve(self.app, namespace, run, key, sequence, given[0], failed if given[0] == "failed" else done)

    def retry(self, name: str, from_step: str | None = None, *, sequence: int = 1) -> None:
        """Let a run that failed or was cancelled begin again, at once, with its recorded results.

        Failed steps are done anew, and what was undone; with `from_step` (and which use of that key) also that step and all that
        was recorded after it. A run whose rollback stopped at an undo that failed goes on with its rollback instead.

        Raises RunRefused for a run in another status, and for a step that is not recorded: it names those that are.
        """
        again.retry(self.app, *self._one(name), from_step, sequence)

    def fork(self, name: str, from_step: str | None = None, *, sequence: int = 1, namespace: str | None = None) -> str:
        """Start a copy of a run in a namespace of its own, with what was recorded before `from_step` (by default everything).

        The copy has the same arguments, and none of the callbacks, chain, group and chord. Returns its task id, which is also its
        namespace by default. Raises RunRefused if that namespace has a journal, and for a step that is not recorded.
        """
        return again.fork(self.app, *self._one(name), from_step, sequence, namespace)

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
            to = runtime.of(self.app).main_store.namespace_of(check_namespace(to, "emit's to"))
        self._index.now()  # an absent Redis is told at once
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
        index = self._index
        until = index.now() - int(duration(older_than or 0, "older_than") * 1000)
        if namespace is not None:
            return self._purge_namespace(index, namespace, wanted, until, older_than is None and status is None)
        purged = 0
        while batch := index.oldest(wanted, until):
            dropped = index.purge(batch)
            purged += dropped
            if not dropped:
                break
        return purged

    def _purge_namespace(self, index: Index, name: str, wanted: Sequence[str], until: int, all_of_it: bool) -> int:
        namespace, runs = self._find(name)
        heads = index.heads([(namespace, run) for run in runs])
        if not runs:
            raise RunRefused(self._none(index, name))
        for run, head in zip(runs, heads, strict=True):
            if all_of_it and head.get("status") in OPEN:
                raise RunRefused(
                    f"Run {run.id} ({run.task}) in namespace {namespace!r} is {head['status']}: only finished runs can be "
                    "purged. Wait for its end, or revoke it."
                )
        return index.purge(
            [
                (head["status"], namespace, run)
                for run, head in zip(runs, heads, strict=True)
                if head.get("status") in wanted and int(head["changed"]) <= until
            ]
        )

    def _one(self, name: str) -> tuple[str, RunId]:
        """The one run that a name means: the open one, where others of its namespace are finished."""
        index = self._index
        namespace, ids = self._find(name)
        heads = index.heads([(namespace, id) for id in ids])
        still = [id for id, head in zip(ids, heads, strict=True) if head.get("status") in OPEN] or ids
        newest = max(still, key=lambda id: id.nesting, default=None)
        if newest is None or any(other.id != newest.id for other in still):
            raise RunRefused(self._several(index, namespace, still) if still else self._none(index, name))
        return namespace, newest

    def _to_undo(self, namespace: str, run: RunId) -> tuple[Identity, ...]:
        journal = Journal(runtime.of(self.app).main_store.bind(namespace, run, "", ""), str(run))
        try:
            journal.absorb(builtins.list(self._entries(namespace)))
        except StepsError:  # corrupt: its records say so
            return ()
        left = [step for step in reversed(journal.undoable) if step not in journal.undone]
        return tuple(left) if journal.rollback is not None else ()

    # -- parts ------------------------------------------------------------------------------------------------------

    def _entries(self, namespace: str) -> Iterator[Entry]:
        return runtime.of(self.app).main_store.entries(namespace)

    def _find(self, name: str) -> tuple[str, builtins.list[RunId]]:
        """The namespace that a name leads to, and the runs that it means there."""
        store, index = runtime.of(self.app).main_store, self._index
        namespace = store.namespace_of(name)
        runs = index.runs_in(namespace, name)
        return (namespace, runs) if runs else (name, index.runs_in(name))

    def _load(self, index: Index, runs: Sequence[tuple[str, RunId]]) -> builtins.list[Run]:
        heads, codec = index.heads(runs), runtime.of(self.app).codec
        failed = [i for i, head in enumerate(heads) if head.get("status") == "failed" and "-" in head.get("outcome", "")]
        entries = index.entries([(runs[i][0], heads[i]["outcome"]) for i in failed])
        errors = {i: self._error(entry) for i, entry in zip(failed, entries, strict=True)}
        return [
            run_of(namespace, run, head, JournalLost() if head.get("outcome") == "lost" else errors.get(i), codec)
            for i, ((namespace, run), head) in enumerate(zip(runs, heads, strict=True))
            if "status" in head
        ]

    def _error(self, entry: Entry | None) -> Exception | None:
        try:
            value = b"" if entry is None else read_finish(entry).value
            return runtime.of(self.app).codec.decode_failure(value) if value else None
        except Exception as error:  # whatever steps_codec raises: the run is listed all the same
            return error

    def _several(self, index: Index, namespace: str, runs: Sequence[RunId]) -> str:
        loaded = sorted(self._load(index, [(namespace, run) for run in runs]), key=lambda run: run.changed_at, reverse=True)
        lines = [f"  {run.id}  {run.task}  {run.status}" for run in loaded[:20]]
        if len(loaded) > 20:
            lines.append(f"  and {len(loaded) - 20:,} more")
        return "\n".join((f"Namespace {namespace!r} has {len(runs):,} runs: name one by its task id.", *lines))

    def _none(self, index: Index, name: str) -> str:
        if index.has_journal(name):
            return f"Namespace {name!r} has no run of its own, only steps that other runs recorded in it: see its records."
        return (
            f"There is no run {name!r} in the store: it has not begun a step, has been over for longer than steps_retention, "
            "or belongs to another app's steps_backend."
        )


def _milliseconds(value: datetime | str | None, name: str) -> int | None:
    return None if value is None else int(moment(value, name).timestamp() * 1000)


def _statuses(status: str | Sequence[str] | None) -> tuple[str, ...]:
    wanted = (status,) if isinstance(status, str) else _STATUSES if status is None else tuple(status)
    for name in wanted:
        if name not in _STATUSES:
            raise StepsError(f"There is no status {name!r}: it is one of {', '.join(_STATUSES)}.")
    return wanted

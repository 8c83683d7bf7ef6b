"""Which run a name means, a namespace or a task id; and runs as they are handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import islice

from celery import Celery

from celery_steps.engine.entries import Identity, read_finish
from celery_steps.engine.history import History
from celery_steps.errors import JournalLost, RunRefused, StepsError
from celery_steps.past import Page, Run, attempt_of, run_of, waiting_of
from celery_steps.store.index import Index, Row
from celery_steps.store.keys import AWAY, FINAL, OPEN, RunId
from celery_steps.store.replies import Entry
from celery_steps.worker import runtime
from celery_steps.worker.control import journal_of


class Lookup:
    """Finds runs of one app's store."""

    def __init__(self, app: Celery) -> None:
        parts = runtime.of(app)
        self._app = app
        self.store = parts.main_store
        self.codec = parts.codec
        self.index = Index(self.store)

    def find(self, name: str) -> tuple[str, list[RunId]]:
        """The namespace that a name leads to, and the runs that it means there."""
        namespace = self.store.namespace_of(name)
        runs = self.index.runs_in(namespace, name)
        return (namespace, runs) if runs else (name, self.index.runs_in(name))

    def one(self, name: str) -> tuple[str, RunId]:
        """The one run that a name means: the open one, where others of its namespace are finished."""
        namespace, ids = self.find(name)
        heads = self.index.heads([(namespace, id) for id in ids])
        still = [id for id, head in zip(ids, heads, strict=True) if head.get("status") in OPEN] or ids
        newest = max(still, key=lambda id: id.nesting, default=None)
        if newest is None or any(other.id != newest.id for other in still):
            raise self._several(namespace, still) if still else self.none(name)
        return namespace, newest

    def get(self, name: str) -> Run:
        """The one run that a name means, finished or not, with its attempts."""
        return self.past(name)[0]

    def past(self, name: str) -> tuple[Run, History]:
        """The one run that a name means, and what its namespace's journal tells."""
        namespace, ids = self.find(name)
        # What `replace` put in a run's place has its id.
        id = max(ids, key=lambda id: id.nesting, default=None)
        if id is None or any(other.id != id.id for other in ids):
            raise self._several(namespace, ids) if ids else self.none(name)
        run = next(iter(self.load([(namespace, id)])), None)
        if run is None:  # gone since
            raise self.none(name)
        history = History.of(self.store.entries(namespace))
        past = history.attempts_of(str(id))
        running = run.status == "running" and run.owner is not None
        rests = run.status in FINAL + AWAY or run.status == "retrying"
        seen = replace(
            run,
            history=tuple(
                attempt_of(attempt, running and attempt is past[-1], run.changed_at if rests and attempt is past[-1] else None)
                for attempt in past
            ),
            in_flight=past[-1].in_flight if past and run.status not in FINAL else None,
            to_undo=self._to_undo(namespace, id) if run.status in ("rolling_back", "failed", "cancelled") else (),
            waiting=past[-1].about if past and run.status in AWAY else "",
            waits=tuple(waiting_of(wait) for wait in history.waits_of(str(id))),
        )
        return seen, history

    def page(
        self, rows: Iterator[Row], wanted: Sequence[str], limit: int, fits: Callable[[Row], bool], look_at: int | None
    ) -> Page:
        """The first runs of these rows that fit and have one of the wanted statuses, among so many."""
        found: list[Run] = []
        last: Row | None = None

        def fitting() -> Iterator[Row]:
            nonlocal last
            for last in islice(rows, look_at):
                if fits(last):
                    yield last

        some = fitting()
        while len(found) < limit and (chunk := list(islice(some, limit - len(found)))):
            # Not those that have changed since the index was read, nor those whose keys have expired.
            found += [run for run in self.load([row.split() for row in chunk]) if run.status in wanted]
        more = last is not None and next(rows, None) is not None
        return Page(tuple(found), last.cursor if more and last else None)

    def rows_of(self, name: str, since: int, until: int, below: Row | None) -> Iterator[Row]:
        """As `Index.rows`, of the runs that a name means; whatever their status."""
        namespace, ids = self.find(name)
        keys = self.index.keys_of(namespace)
        heads = self.index.heads([(namespace, id) for id in ids])
        rows = [Row(int(head.get("changed", 0)), keys.member(str(id)).encode()) for id, head in zip(ids, heads, strict=True)]
        return iter(sorted((row for row in rows if since <= row.changed <= until and (not below or row < below)), reverse=True))

    def version(self, name: str | None) -> str:
        """A text that is another whenever something new is known of a run, or of any."""
        if name is None:
            seen: object = self.index.newest()
        else:
            namespace, ids = self.find(name)
            if not ids and not self.index.has_journal(namespace):
                raise self.none(name)
            places = [(namespace, id) for id in sorted(ids)]
            heads = [{**head, "lease": ""} for head in self.index.heads(places)]  # but that it was renewed
            seen = (places, heads, self.index.tips(namespace))
        return blake2b(repr(seen).encode(errors="surrogatepass"), digest_size=12).hexdigest()

    def load(self, runs: Sequence[tuple[str, RunId]]) -> list[Run]:
        """Runs as they are listed, but for those that are gone."""
        heads = self.index.heads(runs)
        failed = [i for i, head in enumerate(heads) if head.get("status") == "failed" and "-" in head.get("outcome", "")]
        entries = self.index.entries([(runs[i][0], heads[i]["outcome"]) for i in failed])
        errors = {i: self._error(entry) for i, entry in zip(failed, entries, strict=True)}
        return [
            run_of(namespace, run, head, JournalLost() if head.get("outcome") == "lost" else errors.get(i), self.codec)
            for i, ((namespace, run), head) in enumerate(zip(runs, heads, strict=True))
            if "status" in head
        ]

    def _error(self, entry: Entry | None) -> Exception | None:
        try:
            value = b"" if entry is None else read_finish(entry).value
            return self.codec.decode_failure(value) if value else None
        except Exception as error:  # whatever steps_codec raises: the run is listed all the same
            return error

    def _to_undo(self, namespace: str, run: RunId) -> tuple[Identity, ...]:
        try:
            journal = journal_of(self._app, namespace, run)
        except StepsError:  # corrupt: its records say so
            return ()
        left = [step for step in reversed(journal.undoable) if step not in journal.undone]
        return tuple(left) if journal.rollback is not None else ()

    def _several(self, namespace: str, runs: Sequence[RunId]) -> RunRefused:
        loaded = sorted(self.load([(namespace, run) for run in runs]), key=lambda run: run.changed_at, reverse=True)
        lines = [f"  {run.id}  {run.task}  {run.status}" for run in loaded[:20]]
        if len(loaded) > 20:
            lines.append(f"  and {len(loaded) - 20:,} more")
        return RunRefused("\n".join((f"Namespace {namespace!r} has {len(runs):,} runs: name one by its task id.", *lines)))

    def none(self, name: str) -> RunRefused:
        """Why a name means no run."""
        if self.index.has_journal(name):
            return RunRefused(
                f"Namespace {name!r} has no run of its own, only steps that other runs recorded in it: see its records."
            )
        return RunRefused(
            f"There is no run {name!r} in the store: it has not begun a step, has been over for longer than steps_retention, "
            "or belongs to another app's steps_backend."
        )

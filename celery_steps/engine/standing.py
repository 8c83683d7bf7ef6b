"""What a namespace's journal says of the present: the records that stand, as an attempt replays them.

Unlike `history`, it trusts the entries: one that cannot be read is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from celery_steps.engine import entries as fmt
from celery_steps.engine.entries import Call, Finish, Identity, Step, Wait
from celery_steps.store.replies import Entry


class Standing:
    """What the entries of a namespace say, for the run `run`."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.steps: dict[Identity, Step] = {}
        self.started: Counter[Identity] = Counter()  # begun or failed without a recorded outcome
        self.waits: dict[Identity, Wait] = {}  # begun; what they came to is in `steps`
        self.writers: dict[Identity, str] = {}  # the run that recorded or began it
        self.intents: dict[Identity, tuple[bytes | None, bool]] = {}  # begun at most once: input's digest, has a rollback
        self.once: set[Identity] = set()  # begun at most once, whatever became of it
        self.undoable: list[Identity] = []  # what this run executed and can undo, oldest first
        self.undone: set[Identity] = set()
        self.redone: Counter[Identity] = Counter()  # how often it is done anew after it was undone
        self.undo_failures: Counter[Identity] = Counter()
        self.rollback: tuple[str, bytes] | None = None  # this run's outcome, and the failure's value
        self.spent: dict[Identity, int] = {}  # tries before the last reopening
        self.due: dict[Identity, int] = {}  # when the next try begins, ms since 1970
        self.rested = ""  # id of the entry with which this run last suspended
        self.in_flight: Identity | None = None  # begun in the newest attempt that recorded what it began
        self.calls: dict[str, Call] = {}  # the first of each task
        self.finishes: dict[str, Finish] = {}  # by run
        self.cancelled = False
        self.paused = False
        self.handed_over = False  # the worker of the newest attempt shuts down
        self.verdict = ""  # of the main process: why the run has failed
        self.epoch = 0  # how often `replace` began it anew
        self.length = 0
        self.last = ""  # id of the newest entry
        self._writer = ""  # the run that the newest attempt belongs to

    def absorb(self, entries: Sequence[Entry]) -> None:
        """Take entries into account, in their order."""
        for entry in entries:
            read = _READERS.get(entry.kind)
            if read is not None:
                read(self, entry)
        if entries:
            self.last = entries[-1].id
            self.length += len(entries)

    def _step(self, entry: Entry) -> None:
        step = fmt.read_step(entry)
        known = self.steps.setdefault((step.key, step.sequence), step)
        if known.said and step.ok:  # a failure says nothing against an effect that somebody has seen
            self.steps[step.key, step.sequence] = step
        self.writers.setdefault((step.key, step.sequence), self._writer)
        if step.undo and step.ok and self._writer == self.run and not known.said:
            self.undoable.append((step.key, step.sequence))
        if self.intents:
            self.intents.pop((step.key, step.sequence), None)

    def _wait(self, entry: Entry) -> None:
        wait = fmt.read_wait(entry)
        self.waits.setdefault((wait.key, wait.sequence), wait)
        self.writers.setdefault((wait.key, wait.sequence), self._writer)

    def _start(self, entry: Entry) -> None:
        key, sequence = fmt.read(entry)
        self.started[key, sequence] += 1
        self.in_flight = (key, sequence)

    def _intent(self, entry: Entry) -> None:
        key, sequence, digest, undo = fmt.read(entry)
        if (known := self.steps.get((key, sequence))) is not None and known.said:  # it did not fit: the doubt is back
            del self.steps[key, sequence]
            self.undoable = [other for other in self.undoable if other != (key, sequence)]
        self.intents[key, sequence] = digest, undo
        self.once.add((key, sequence))
        self.started[key, sequence] += 1
        self.in_flight = (key, sequence)

    def _tried(self, entry: Entry) -> None:
        key, sequence, due, *_ = fmt.read(entry)
        self.due[key, sequence] = due

    def _resolve(self, entry: Entry) -> None:
        run, key, sequence, how, value = fmt.read(entry)
        if (key, sequence) not in self.intents:
            return
        digest, undo = self.intents.pop((key, sequence))
        self.writers[key, sequence] = run
        if how != "rerun":
            done = how == "done"
            self.steps.setdefault((key, sequence), Step(entry.id, key, sequence, digest, done, value, None, 0, 0, said=done))
        if how == "done" and undo and run == self.run:
            self.undoable.append((key, sequence))

    def _roll_back(self, entry: Entry) -> None:
        run, outcome, value = fmt.read(entry)
        if run == self.run:
            self.rollback = (outcome, value)

    def _reopen(self, entry: Entry) -> None:
        run, anew, undoing = fmt.read(entry)
        for key, sequence in anew:
            self._forget((key, sequence))
        if run == self.run:
            self.finishes.pop(run, None)
            self.cancelled, self.paused, self.verdict = False, False, ""
            self.undo_failures.clear()
            if not undoing:
                self.rollback = None

    def _forget(self, identity: Identity) -> None:
        """This step loses its outcome, its next one is another."""
        if identity in self.undone:
            self.redone[identity] += 1
        self.steps.pop(identity, None)
        self.writers.pop(identity, None)
        self.spent[identity] = self.started[identity]
        for known in (self.intents, self.due):
            known.pop(identity, None)  # type: ignore[attr-defined]
        if self.waits.pop(identity, None) is not None:
            self.started[identity] += 1
        self.undoable = [other for other in self.undoable if other != identity]
        self.undone.discard(identity)

    def _undo(self, entry: Entry) -> None:
        key, sequence, ok, *_ = fmt.read(entry)
        if self._writer != self.run:
            if ok:  # its effect is taken back: it does not stand for others either
                self.undone.add((key, sequence))
                self._forget((key, sequence))
            return
        if ok:
            self.undone.add((key, sequence))
        else:
            self.undo_failures[key, sequence] += 1

    def _borrow(self, entry: Entry) -> None:
        self._writer = fmt.read_call(entry).run

    def _call(self, entry: Entry) -> None:
        call = fmt.read_call(entry)
        self.handed_over, self._writer = False, call.run
        self.calls.setdefault(call.task, call)

    def _suspend(self, entry: Entry) -> None:
        if fmt.read(entry)[0] == self.run:
            self.rested = entry.id

    def _retry(self, entry: Entry) -> None:
        _, _, reopened, failed = fmt.read(entry)
        for key, sequence in reopened:
            self._forget((key, sequence))
        self.started.update((key, sequence) for key, sequence in failed)

    def _finish(self, entry: Entry) -> None:
        finish = fmt.read_finish(entry)
        self.finishes[finish.run] = finish
        if finish.outcome == "replaced":  # what takes its place starts with an empty journal
            if finish.run.split("/")[1] != self.run.split("/")[1]:  # another task id: what this run recorded stays
                for identity in [identity for identity, run in self.writers.items() if run == finish.run]:
                    self._forget(identity)
                return
            begun = (self.waits, self.intents, self.spent, self.due, self.started, self.calls)
            for known in (self.steps, self.writers, self.undoable, *begun):
                known.clear()
            self.epoch += 1

    def _cancel(self, entry: Entry) -> None:
        run, _ = fmt.read(entry)
        self.cancelled = self.cancelled or run == self.run

    def _pause(self, entry: Entry) -> None:
        run, _ = fmt.read(entry)
        if run == self.run:
            self.paused = entry.kind == "pause"

    def _handover(self, entry: Entry) -> None:
        run, _ = fmt.read(entry)
        self.handed_over = self.handed_over or run == self.run

    def _verdict(self, entry: Entry) -> None:
        run, reason = fmt.read(entry)
        if run == self.run:
            self.verdict = reason


_READERS: dict[str, Callable[[Standing, Entry], None]] = {
    "step": Standing._step,
    "wait": Standing._wait,
    "suspend": Standing._suspend,
    "start": Standing._start,
    "intent": Standing._intent,
    "tried": Standing._tried,
    "resolve": Standing._resolve,
    "rollback": Standing._roll_back,
    "undo": Standing._undo,
    "reopen": Standing._reopen,
    "borrow": Standing._borrow,
    "attempt": Standing._call,
    "retry": Standing._retry,
    "finish": Standing._finish,
    "cancel": Standing._cancel,
    "pause": Standing._pause,
    "unpause": Standing._pause,
    "handover": Standing._handover,
    "verdict": Standing._verdict,
}

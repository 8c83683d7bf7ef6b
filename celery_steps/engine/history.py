"""What a namespace's journal tells of the past: attempts, and every record, also those that do not stand any more.

Unlike `standing`, which an attempt trusts, it goes on behind an entry that cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from celery_steps.engine import entries as fmt
from celery_steps.engine.entries import Identity, Step, Wait
from celery_steps.errors import ResultError
from celery_steps.store.replies import Entry

#: What has happened to a step. The first four stand, the others are history.
DONE, FAILED, WAITING, UNDONE, REOPENED, REPLACED, RAISED, BEGUN, CORRUPT = (
    "done", "failed", "waiting", "undone", "reopened", "replaced", "raised", "begun", "corrupt",
)  # fmt: skip
#: Who recorded the steps of a copy of a run: its token begins so.
_COPIED = "fork/"


@dataclass
class PastAttempt:
    """One delivery that owned the namespace; `number` counts within its run, 0 for who borrowed it for one step."""

    id: str  # of its first entry
    run: str
    number: int
    token: str
    retries: int
    recorded: int = 0
    ended: str = ""  # "": nothing was written about it
    about: str = ""  # what it left the worker for
    in_flight: Identity | None = None
    ended_ms: int = 0  # the last moment that is known of it, once it has ended


@dataclass
class PastStep:
    """Something that a journal says about a step."""

    id: str
    attempt: PastAttempt | None
    status: str
    identity: Identity
    step: Step | None = None
    wait: Wait | None = None  # how it began, of a wait that recorded that
    trouble: str = ""  # why it cannot be read
    verb: str = "run"
    began_ms: int = 0  # since 1970; where no time was written, the last moment that was known before
    ended_ms: int | None = None  # None: it is not over
    place: int = 0  # in the journal, of the entry with which it began


@dataclass
class History:
    """Reads entries, oldest first."""

    attempts: list[PastAttempt] = field(default_factory=list)
    doubts: set[Identity] = field(default_factory=set)  # begun at most once, and nobody recorded how it ended
    steps: list[PastStep] = field(default_factory=list)
    _now: PastAttempt | None = None
    _clock: int = 0  # the last moment that is known, in ms since 1970
    _place: int = 0
    _told: list[PastStep] = field(default_factory=list)
    _made: Counter[str] = field(default_factory=Counter)
    _standing: dict[Identity, PastStep] = field(default_factory=dict)
    _waits: dict[Identity, PastStep] = field(default_factory=dict)
    _due: dict[Identity, int] = field(default_factory=dict)  # when a step that raised is tried again

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        history = cls()
        for entry in entries:
            history.read(entry)
        return history

    def read(self, entry: Entry) -> list[PastStep]:
        """Take one more entry into account. Returns what it tells of steps."""
        self._told = []
        self._place += 1
        reader = _READERS.get(entry.kind)
        if entry.id.endswith("-0"):  # whatever moved the fence on
            self._clock = max(self._clock, ms_of(entry.id))
        try:
            if reader is not None:
                reader(self, entry)
        except (ResultError, ValueError, TypeError) as error:
            self._past(entry.id, CORRUPT, ("", 0), trouble=str(error))
        return self._told

    def _past(self, id: str, status: str, identity: Identity, **known: Any) -> PastStep:
        """Something that was over at once, as far as anybody knows, unless it is said otherwise."""
        now = self._clock
        seen = PastStep(id, self._now, status, identity, **{"began_ms": now, "ended_ms": now, "place": self._place, **known})
        self.steps.append(seen)
        self._told.append(seen)
        return seen

    def _times(self, began: int, took: int) -> tuple[int, int]:
        """When something began and ended, of which that many ms after the attempt's beginning are written."""
        if self._now is None:
            return self._clock, self._clock
        first = ms_of(self._now.id)  # not that of its own entry: a control request moves the fence on
        if not self._now.number:  # borrowed: it counts from an attempt in another namespace
            return first, first + (0 if self._now.token.startswith(_COPIED) else took)
        return first + began, first + began + took

    def attempts_of(self, run: str) -> list[PastAttempt]:
        return [attempt for attempt in self.attempts if attempt.run == run and attempt.number]

    @property
    def waits(self) -> list[PastStep]:
        """What is waited for, oldest first."""
        return list(self._waits.values())

    def waits_of(self, run: str) -> list[PastStep]:
        return [seen for seen in self._waits.values() if seen.attempt is not None and seen.attempt.run == run]

    def _attempt(self, entry: Entry) -> None:
        call = fmt.read_call(entry)
        if entry.kind == "attempt":
            self._made[call.run] += 1
        number = self._made[call.run] if entry.kind == "attempt" else 0
        self._now = PastAttempt(entry.id, call.run, number, call.token, call.retries)
        self.attempts.append(self._now)

    def _step(self, entry: Entry) -> None:
        step = fmt.read_step(entry)
        if type(step.key) is not str or any(type(number) is not int for number in (step.sequence, step.began, step.took)):
            raise ValueError(f"Journal entry {entry.id} (step) is corrupt: it is no step.")
        identity = (step.key, step.sequence)
        stands = self._standing.get(identity)
        if not step.ok and stands is not None and stands.step is not None and stands.step.said:
            return  # given up with a parallel block, once: what was said of it stands
        self.doubts.discard(identity)
        began, ended = self._times(step.began, step.took)
        known: dict[str, Any] = {"began_ms": began, "place": self._place}
        said = self._unsay(identity)
        if (start := self._close(identity) or said) is not None:
            known["place"] = start.place
        if (wait := self._waits.pop(identity, None)) is not None:
            known = {"began_ms": min(wait.began_ms, ended), "place": wait.place, "wait": wait.wait}
        self._clock = max(self._clock, ended)
        seen = self._past(entry.id, DONE if step.ok else FAILED, identity, step=step, verb=step.verb, ended_ms=ended, **known)
        before = self._standing.setdefault(identity, seen)
        if before.status == UNDONE:
            before.status, self._standing[identity] = REOPENED, seen
        if self._now is not None:
            self._now.recorded += 1

    def _wait(self, entry: Entry) -> None:
        wait = fmt.read_wait(entry)
        if [type(field) for field in wait[1:6]] != [str, int, str, str, int]:
            raise ValueError(f"Journal entry {entry.id} (wait) is corrupt: it is no wait.")
        identity = (wait.key, wait.sequence)
        if identity not in self._waits:
            seen = PastStep(entry.id, self._now, WAITING, identity, wait=wait, verb=wait.verb)
            seen.began_ms, seen.place = self._clock, self._place
            if type(wait.began) is int:
                seen.began_ms, _ = self._times(wait.began, 0)
            self._waits[identity] = seen
            self._told.append(seen)

    def _start(self, entry: Entry) -> None:
        key, sequence, *_ = fmt.read(entry)
        if entry.kind == "intent":
            self._unsay((key, sequence))
        self._clock = max(self._clock, self._due.pop((key, sequence), 0))
        self._past(entry.id, BEGUN, (key, sequence), ended_ms=None)
        if entry.kind == "intent":
            self.doubts.add((key, sequence))
        if self._now is not None:
            self._now.in_flight = (key, sequence)

    def _tried(self, entry: Entry) -> None:
        key, sequence, due, failure, *times = fmt.read(entry)
        began, took = times or (0, 0)  # nothing: written before times were
        step = Step(entry.id, key, sequence, None, False, failure, None, began, took)
        began, ended = self._times(began, took) if times else (self._clock, self._clock)
        self._raised(entry, (key, sequence), step=step, began_ms=began, ended_ms=ended)
        self._clock, self._due[key, sequence] = max(self._clock, ended), due

    def _raised(self, entry: Entry, identity: Identity, **more: Any) -> None:
        start = self._close(identity)
        known = {} if start is None else {"began_ms": start.began_ms, "place": start.place}
        self._past(entry.id, RAISED, identity, **{**known, **more})

    def _resolve(self, entry: Entry) -> None:
        _, key, sequence, how, value = fmt.read(entry)
        if (key, sequence) not in self.doubts:  # said twice: the first counts
            return
        self.doubts.discard((key, sequence))
        if how == "rerun":
            return
        step = Step(entry.id, key, sequence, None, how == "done", value, None, 0, 0, said=how == "done")
        begun = [past for past in self.steps if past.status == BEGUN and past.identity == (key, sequence)]
        self.steps = [past for past in self.steps if past not in begun]
        known = {"began_ms": begun[0].began_ms, "place": begun[0].place} if begun else {}
        seen = self._past(entry.id, DONE if step.ok else FAILED, (key, sequence), step=step, **known)
        self._standing.setdefault((key, sequence), seen)

    def _unsay(self, identity: Identity) -> PastStep | None:
        """What an operator said of this step is recorded by the run, or did not fit. Returns what was said."""
        said = self._standing.get(identity)
        if said is None or said.step is None or not said.step.said:
            return None
        del self._standing[identity]
        self.steps.remove(said)
        return said

    def _close(self, identity: Identity) -> PastStep | None:
        """The step that was begun last has an outcome: one line for both. Returns how it began."""
        last = self.steps[-1] if self.steps else None
        if self._now is not None and self._now.in_flight == identity:
            self._now.in_flight = None
        if last is not None and last.status == BEGUN and last.identity == identity and last.attempt is self._now:
            return self.steps.pop()
        return None

    def _retry(self, entry: Entry) -> None:
        run, _, reopened, failed = fmt.read(entry)
        for key, sequence in reopened:
            seen = self._standing.pop((key, sequence), None)
            if seen is not None:
                seen.status = REOPENED
        for key, sequence in failed:
            self._raised(entry, (key, sequence))
        self._end(run, "retrying")

    def _suspend(self, entry: Entry) -> None:
        run, about, _ = fmt.read(entry)
        self._end(run, "suspended", about)

    def _finish(self, entry: Entry) -> None:
        finish = fmt.read_finish(entry)
        self._end(finish.run, finish.outcome)
        for seen in self.waits_of(finish.run):  # it did not wait to the end
            self._give_up(seen)
        if finish.outcome == "replaced":
            for seen in self._standing.values():
                seen.status = REPLACED
            self._standing.clear()

    def _give_up(self, wait: PastStep) -> None:
        del self._waits[wait.identity]
        wait.status, wait.ended_ms = BEGUN, max(wait.began_ms, self._clock)
        self.steps.append(wait)

    def _reopen(self, entry: Entry) -> None:
        """A run begins again: what it is to do anew does not stand any more."""
        _, anew, _ = fmt.read(entry)
        for key, sequence in anew:
            self.doubts.discard((key, sequence))
            seen = self._standing.pop((key, sequence), None)
            if seen is not None:
                seen.status = REOPENED
            if (key, sequence) in self._waits:
                self._give_up(self._waits[key, sequence])

    def _undo(self, entry: Entry) -> None:
        key, sequence, ok, failure, *times = fmt.read(entry)
        began, ended = self._times(*times) if times else (self._clock, self._clock)
        self._clock = max(self._clock, ended)
        undone = self._standing.get((key, sequence))
        tried = None if ok else Step(entry.id, key, sequence, None, False, failure, None, 0, 0, "undo")
        self._past(entry.id, DONE if ok else RAISED, (key, sequence), step=tried, verb="undo", began_ms=began, ended_ms=ended)
        if ok and undone is not None:
            undone.status = UNDONE

    def _end(self, run: str, ended: str, about: str = "") -> None:
        if self._now is not None and self._now.run == run:
            self._now.ended, self._now.about = ended, about
            self._now.ended_ms = self._clock


_READERS: dict[str, Callable[[History, Entry], None]] = {
    "attempt": History._attempt,
    "borrow": History._attempt,
    "step": History._step,
    "start": History._start,
    "intent": History._start,
    "tried": History._tried,
    "resolve": History._resolve,
    "wait": History._wait,
    "retry": History._retry,
    "suspend": History._suspend,
    "finish": History._finish,
    "reopen": History._reopen,
    "undo": History._undo,
}


def ms_of(entry_id: str) -> int:
    """When the fence was opened under which an entry was written, in ms since 1970."""
    return int(entry_id.partition("-")[0])

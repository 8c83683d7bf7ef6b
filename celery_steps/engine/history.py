"""What a namespace's journal tells of the past: attempts, and every record, also those that do not stand any more.

Unlike `standing`, which an attempt trusts, it goes on behind an entry that cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from celery_steps.engine import entries as fmt
from celery_steps.engine.entries import Identity, Step, Wait
from celery_steps.errors import ResultError
from celery_steps.store.replies import Entry

#: What has happened to a step. The first three stand, the others are history.
DONE, FAILED, WAITING, REOPENED, REPLACED, RAISED, BEGUN, CORRUPT = (
    "done", "failed", "waiting", "reopened", "replaced", "raised", "begun", "corrupt",
)  # fmt: skip


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


@dataclass
class PastStep:
    """Something that a journal says about a step."""

    id: str
    attempt: PastAttempt | None
    status: str
    identity: Identity
    step: Step | None = None
    wait: Wait | None = None  # begun, and what it came to is not recorded
    trouble: str = ""  # why it cannot be read


@dataclass
class History:
    """Reads entries, oldest first."""

    attempts: list[PastAttempt] = field(default_factory=list)
    steps: list[PastStep] = field(default_factory=list)
    _now: PastAttempt | None = None
    _made: Counter[str] = field(default_factory=Counter)
    _standing: dict[Identity, PastStep] = field(default_factory=dict)
    _waits: dict[Identity, PastStep] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        history = cls()
        for entry in entries:
            reader = _READERS.get(entry.kind)
            try:
                if reader is not None:
                    reader(history, entry)
            except (ResultError, ValueError, TypeError) as error:
                history.steps.append(PastStep(entry.id, history._now, CORRUPT, ("", 0), trouble=str(error)))
        return history

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
        seen = PastStep(entry.id, self._now, DONE if step.ok else FAILED, identity, step)
        self._close(identity)
        self._unsay(identity)
        self._waits.pop(identity, None)
        self.steps.append(seen)
        self._standing.setdefault(identity, seen)
        if self._now is not None:
            self._now.recorded += 1

    def _wait(self, entry: Entry) -> None:
        wait = fmt.read_wait(entry)
        if [type(field) for field in wait[1:6]] != [str, int, str, str, int]:
            raise ValueError(f"Journal entry {entry.id} (wait) is corrupt: it is no wait.")
        self._waits.setdefault(
            (wait.key, wait.sequence), PastStep(entry.id, self._now, WAITING, (wait.key, wait.sequence), wait=wait)
        )

    def _start(self, entry: Entry) -> None:
        key, sequence, *_ = fmt.read(entry)
        if entry.kind == "intent":
            self._unsay((key, sequence))
        self.steps.append(PastStep(entry.id, self._now, BEGUN, (key, sequence)))
        if self._now is not None:
            self._now.in_flight = (key, sequence)

    def _tried(self, entry: Entry) -> None:
        key, sequence, _, _ = fmt.read(entry)
        self._close((key, sequence))
        self.steps.append(PastStep(entry.id, self._now, RAISED, (key, sequence)))

    def _resolve(self, entry: Entry) -> None:
        _, key, sequence, how, value = fmt.read(entry)
        if how == "rerun":
            return
        step = Step(entry.id, key, sequence, None, how == "done", value, None, 0, 0, said=how == "done")
        seen = PastStep(entry.id, self._now, DONE if step.ok else FAILED, (key, sequence), step)
        self.steps = [past for past in self.steps if past.status != BEGUN or past.identity != (key, sequence)]
        self.steps.append(seen)
        self._standing.setdefault((key, sequence), seen)

    def _unsay(self, identity: Identity) -> None:
        """What an operator said of this step is recorded by the run, or did not fit."""
        said = self._standing.get(identity)
        if said is not None and said.step is not None and said.step.said:
            del self._standing[identity]
            self.steps.remove(said)

    def _close(self, identity: Identity) -> None:
        """The step that was begun last has an outcome: one line for both."""
        last = self.steps[-1] if self.steps else None
        if last is not None and last.status == BEGUN and last.identity == identity and last.attempt is self._now:
            self.steps.pop()
        if self._now is not None and self._now.in_flight == identity:
            self._now.in_flight = None

    def _retry(self, entry: Entry) -> None:
        run, _, reopened, failed = fmt.read(entry)
        for key, sequence in reopened:
            seen = self._standing.pop((key, sequence), None)
            if seen is not None:
                seen.status = REOPENED
        for key, sequence in failed:
            self._close((key, sequence))
            self.steps.append(PastStep(entry.id, self._now, RAISED, (key, sequence)))
        self._end(run, "retrying")

    def _suspend(self, entry: Entry) -> None:
        run, about, _ = fmt.read(entry)
        self._end(run, "suspended", about)

    def _finish(self, entry: Entry) -> None:
        finish = fmt.read_finish(entry)
        self._end(finish.run, finish.outcome)
        for seen in self.waits_of(finish.run):  # it did not wait to the end
            del self._waits[seen.identity]
            seen.status = BEGUN
            self.steps.append(seen)
        if finish.outcome == "replaced":
            for seen in self._standing.values():
                seen.status = REPLACED
            self._standing.clear()

    def _end(self, run: str, ended: str, about: str = "") -> None:
        if self._now is not None and self._now.run == run:
            self._now.ended, self._now.about = ended, about


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
}

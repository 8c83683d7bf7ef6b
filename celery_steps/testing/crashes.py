"""A crash, and a duplicate delivery, at every boundary of a run: is its end the same?"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature

from celery_steps.engine.history import DONE, FAILED, History
from celery_steps.errors import InputMismatch, StepsError
from celery_steps.past import Record
from celery_steps.readable import as_json
from celery_steps.testing.effects import noted
from celery_steps.worker import control, runtime

if TYPE_CHECKING:
    from celery_steps.testing.steps import Steps

_ID = "crash-everywhere"


class Crash(BaseException):
    """The process of this attempt is gone: nothing of the engine handles it, and it writes nothing more."""


@dataclass(frozen=True)
class Report:
    """What was done to a run that always came to the same end."""

    result: Any  # None for a run that failed: see `error`
    error: BaseException | None
    boundaries: tuple[str, ...]  # of the undisturbed run: after what, and before what
    crashes: int
    duplicates: int
    calls: dict[tuple[str, int], int]  # of each step's handler, by key and occurrence: the most in one of the runs


@dataclass
class Outcome:
    """What is compared."""

    status: str
    result: Any = None
    error: BaseException | None = None
    steps: dict[str, Any] = field(default_factory=dict)  # by namespace, key and occurrence
    sent: Counter[str] = field(default_factory=Counter)  # tasks, each id once
    emitted: Counter[str] = field(default_factory=Counter)  # events, each id once
    stuck: str = ""  # why it does not end
    twice: list[str] = field(default_factory=list)  # recorded again, though it stood

    def differences(self, other: Outcome) -> list[str]:
        """How the other one, which was disturbed, differs from this one."""
        found = [f"{what} is recorded twice" for what in other.twice]
        if (self.status, _told(self.error), _told(self.result)) != (other.status, _told(other.error), _told(other.result)):
            found.append(f"the run {other.ended}, undisturbed it {self.ended}")
        for what in [*self.steps, *(what for what in other.steps if what not in self.steps)]:
            mine, its = self.steps.get(what, "nothing"), other.steps.get(what, "nothing")
            if mine != its:
                found.append(f"step {what} recorded {its}, undisturbed {mine}")
        for name, mine_all, its_all in (("task", self.sent, other.sent), ("event", self.emitted, other.emitted)):
            for what in sorted(mine_all | its_all):
                if mine_all[what] != its_all[what]:
                    found.append(
                        f"{name} {what} was sent {_times(its_all[what])}, undisturbed {_times(mine_all[what])}: send it in a step"
                    )
        return found

    @property
    def ended(self) -> str:
        if self.error is not None:
            return f"failed with {_told(self.error)}"
        return f"returned {_told(self.result)}" if self.status == "succeeded" else f"was {self.status}"


class Trial:
    """One run, disturbed at one boundary or not at all."""

    def __init__(self, steps: Steps, signature: Signature, crash_at: int = -1, duplicate_at: int = -1) -> None:
        self.steps = steps
        self.crash_at, self.duplicate_at = crash_at, duplicate_at
        self._boundaries: list[tuple[int, str, str]] = []  # delivery, before or after, what
        steps.between = self._between
        self.handle = steps.start(signature.clone().set(task_id=signature.options.get("task_id", _ID)))
        self._finish()
        if self.handle.finished:  # a copy of the message that comes late
            steps.duplicate(steps.sent[self.handle.id])

    def _between(self, when: str, where: str) -> None:
        number = len(self._boundaries)
        self._boundaries.append((self.steps.deliveries, when, where))
        if number == self.crash_at:
            self.steps.crash()
        if number == self.duplicate_at:
            self.steps.duplicate()

    @property
    def points(self) -> dict[int, str]:
        """Where it can be disturbed, by number: after one thing and before the next is one point."""
        found, last = {}, ""
        following = [delivery for delivery, _, _ in self._boundaries[1:]] + [-1]
        for number, ((delivery, when, where), next_delivery) in enumerate(zip(self._boundaries, following, strict=True)):
            if when == "before":
                found[number] = f"{last}before {where}"
            elif next_delivery != delivery:
                found[number] = f"after {where}"
            last = f"after {where}, " if when == "after" and next_delivery == delivery else ""
        return found

    def _finish(self) -> None:
        while True:
            self.steps.pass_until(lambda: self.handle.finished)
            if self.handle.finished or not self._resolved():
                return

    def _resolved(self) -> bool:
        """What an operator says who knows what the handlers have done. False: no step is in doubt."""
        resolved = False
        for app in self.steps.apps:
            runs = self.steps.runs(app)
            for run in runs.list(status="in_doubt").runs:
                namespace, id = runs._lookup.one(run.id)
                for key, sequence in list(control.journal_of(app, namespace, id).intents):
                    known = self.steps.returned.get((run.id, key, sequence))
                    if known is None:
                        runs.resolve(run.id, key, sequence=sequence, rerun=True)
                    else:
                        runs.resolve(run.id, key, sequence=sequence, done=known[0])
                    resolved = True
        return resolved

    @property
    def outcome(self) -> Outcome:
        handle = self.handle
        outcome = Outcome(handle.status)
        if not handle.finished:
            outcome.stuck = handle.tells()
            return outcome
        outcome.error = handle.error
        outcome.result = handle.result if handle.status == "succeeded" else None
        for app in self.steps.apps:
            self._add_steps(app, outcome)
        for message in self.steps.sent.values():
            if message.id != handle.id:
                args, kwargs, _ = message.body
                outcome.sent[f"{message.task}{_told(tuple(args))}{_told(kwargs) if kwargs else ''}"] += 1
        for namespace, event, data in self.steps.emitted.values():
            outcome.emitted[f"{event} {data} to {namespace!r}"] += 1
        return outcome

    def _add_steps(self, app: Any, outcome: Outcome) -> None:
        runs, store = self.steps.runs(app), runtime.of(app).main_store
        for namespace in {*(run.namespace for run in runs.list(limit=10_000).runs), *self.steps.namespaces}:
            history = History.of(store.entries(namespace))
            seen = Counter(past.identity for past in history.steps if past.status in (DONE, FAILED))
            for (key, sequence), count in seen.items():
                if count > 1:
                    outcome.twice.append(_place(namespace, key, sequence))
            for record in runs.records(namespace) if history.attempts else ():
                outcome.steps[_place(namespace, record.key, record.sequence)] = _recorded(record)


def crash_everywhere(again: Callable[[], Steps], signature: Signature) -> Report:
    """Each trial begins in an empty world, which `again` makes."""

    def trial(**disturbed: int) -> tuple[Trial, Outcome, list[str]]:
        with _quiet(), noted() as effects, again() as steps:
            done = Trial(steps, signature, **disturbed)
            return done, done.outcome, effects

    first, undisturbed, effects = trial()
    _check_undisturbed(undisturbed, effects, trial()[1])
    calls: Counter[tuple[str, int]] = Counter()
    crashes = duplicates = 0
    points = first.points
    for number, boundary in points.items():
        for what, disturbed in (("a crash", {"crash_at": number}), ("a duplicate delivery", {"duplicate_at": number})):
            done, outcome, effects = trial(**disturbed)
            _check(undisturbed, outcome, effects, f"{what} {boundary}")
            crashes, duplicates = crashes + (what == "a crash"), duplicates + (what != "a crash")
            for (run_id, key, sequence), count in done.steps.calls.items():
                if run_id == done.handle.id:
                    calls[key, sequence] = max(calls[key, sequence], count)
    return Report(undisturbed.result, undisturbed.error, tuple(points.values()), crashes, duplicates, dict(calls))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hundreds of crashes would fill the log of a test."""
    loggers = [logging.getLogger(name) for name in ("celery.app.trace", "celery_steps")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _check_undisturbed(one: Outcome, effects: list[str], other: Outcome) -> None:
    __tracebackhide__ = True
    if one.stuck:
        raise StepsError(f"Undisturbed, the run does not end: {one.stuck}. What it awaits comes by steps.answer(event, data).")
    if isinstance(one.error, InputMismatch):
        raise AssertionError(f"Undisturbed, the run already differs from its own records: {one.error}")
    if effects:
        raise AssertionError(_outside(effects))
    differences = one.differences(other)
    if differences:
        raise AssertionError(
            "Two undisturbed runs differ. Where a handler's result differs from call to call, stub it: steps.stub(key, value).\n"
            + _lines(differences)
        )


def _check(undisturbed: Outcome, outcome: Outcome, effects: list[str], after: str) -> None:
    __tracebackhide__ = True
    differences = undisturbed.differences(outcome)
    if outcome.stuck:
        differences = [f"the run does not end: {outcome.stuck}"]
    if effects:
        differences.append(_outside(effects))
    if differences:
        raise AssertionError(f"With {after}:\n{_lines(differences)}")


def _outside(effects: list[str]) -> str:
    return "The body has effects outside its steps, which every replay repeats: " + "; ".join(dict.fromkeys(effects))


def _lines(differences: list[str]) -> str:
    return "\n".join(f"- {difference}" for difference in differences[:20])


def _place(namespace: str, key: str, sequence: int) -> str:
    where = "" if namespace == _ID else f" in namespace {namespace!r}"
    return f"{key!r}{where}" if sequence == 1 else f"{key!r} (occurrence {sequence}){where}"


def _recorded(record: Record) -> str:
    """What must be the same: of waits and events not what was asked, which holds times."""
    asked = f"{record.deterministic_inputs_hash} {_told(record.input)} " if record.verb == "run" else ""
    said = _told(record.error) if record.error is not None else _told(record.result)
    return f"{asked}{record.verb}: {said}"


def _told(value: Any) -> str:
    """Equal for equal values of equal types."""
    if isinstance(value, BaseException):
        return f"{type(value).__qualname__}{value.args!r}"
    return f"{as_json(value)!r}"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")

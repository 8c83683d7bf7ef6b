"""`step.run_task`: another task as a step. Its id is fixed before it is sent, so that a crash cannot make two of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn, Protocol
from uuid import NAMESPACE_OID, uuid5

from celery_steps.codec import pack, unpack
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.entries import Identity, Step
from celery_steps.engine.identity import idempotency_key
from celery_steps.engine.standing import Standing
from celery_steps.engine.waiting import Ended, Wait, recorded
from celery_steps.errors import ChildFailed, ResultError, StepTimeout
from celery_steps.store.replies import Event
from celery_steps.times import duration

logger = logging.getLogger("celery_steps")

#: The longest time between two looks at a child, in ms.
_LONGEST = 600_000
#: Leases for which a child that may run twice is given time to be seen, before it is sent again.
_PATIENCE = 10


class Asked(NamedTuple):
    """What the caller of `step.run_task` wants to have run."""

    task: Any
    args: Any
    kwargs: Any
    options: dict[str, Any]


class Frozen(NamedTuple):
    """A child, its ids fixed."""

    name: str
    detail: bytes  # all that it takes to send it, again and again, and to look at it


class Child(NamedTuple):
    """What is known of a child."""

    once: bool  # sent twice it runs once
    missing: tuple[str, ...] = ()  # what was sent of it and nobody has begun
    over: bool = False
    value: Any = None
    error: Exception | None = None  # over: why it failed
    task: str = ""  # what of it failed
    task_id: str = ""
    revoked: bool = False


class Parent(NamedTuple):
    """Who is to hear of a child's end."""

    namespace: str
    run: str
    wait: str


class Children(Protocol):
    """Who sends tasks. What one method gives, as `detail`, is what the others take."""

    def freeze(self, asked: Asked, id: str, parent: Parent, said_by: str) -> Frozen: ...  # StepsError for what cannot be sent
    def send(self, detail: bytes, missing: Sequence[str] = ()) -> bool: ...  # all, or what is missing. False: not now
    def look(self, details: Sequence[bytes]) -> list[Child]: ...
    def are_lost(self, asked: Sequence[tuple[bytes, Sequence[str]]]) -> list[bool]: ...  # before what may run twice is sent again
    def cancel(self, details: Sequence[bytes]) -> None: ...


class ChildWait(Wait):
    """Over when the child is, or when the deadline has passed: then the child is cancelled."""

    verb = "run_task"
    reads_inbox = True

    def __init__(
        self, attempt: Attempt, identity: Identity, about: str, deadline: int, asked: dict[str, Any], returns: Any, detail: bytes
    ) -> None:
        super().__init__(attempt, identity, about, deadline, asked)
        self.returns = returns
        self.children = children_of(attempt)
        if self.begun is None:
            self.detail = pack([attempt.now_ms(), detail])
        self.sent_here = False
        self.child: Child | None = None  # as it was seen last
        self.news: list[Event] = []  # of its end
        self.began_at, self.frozen = child_detail(self.detail) if self.detail else (0, b"")

    @property
    def address(self) -> str:
        """How events that are for this wait alone are addressed."""
        return f"{self.attempt.run} {self.name}"

    @property
    def wake(self) -> int:
        """The deadline, or the next look: the news of the child's end may be lost."""
        _, after = _looks(self.attempt.now_ms() - self.began_at, self._lease)
        return min(self.deadline or self.began_at + after, self.began_at + after)

    @property
    def _lease(self) -> int:
        return int(self.attempt.lease * 1000)

    @classmethod
    def start(cls, waits: Sequence[Wait]) -> None:
        """Record that they begin, in one commit, and send them: so a crash in between sends the same ones again."""
        new = [wait for wait in waits if isinstance(wait, ChildWait) and wait.begun is None]
        if not new:
            return
        attempt = new[0].attempt
        attempt.append([("wait", entry) for wait in new if (entry := wait.entry()) is not None], record=False)
        for wait in new:
            wait.begun = attempt.journal.waits[wait.identity]
            wait._send()

    @classmethod
    def prepare(cls, waits: Sequence[Wait], now: int, inbox: Sequence[Event]) -> None:
        """Look at those whose end may have come, all at once, and send again those that nobody has seen."""
        cls.start(waits)
        news: dict[str, list[Event]] = {}
        for event in inbox:
            news.setdefault(event.to, []).append(event)
        children_waits = [wait for wait in waits if isinstance(wait, ChildWait)]
        for wait in children_waits:
            wait.news = news.get(wait.address, [])
        those = [wait for wait in children_waits if wait._is_worth_a_look(now)]
        if not those:
            return
        attempt, children = those[0].attempt, those[0].children
        found: list[Child] = attempt.leaving(lambda: children.look([wait.frozen for wait in those]))
        unseen: list[tuple[ChildWait, Child]] = []
        for wait, child in zip(those, found, strict=True):
            wait.child = child
            if child.missing and not child.over and wait._is_missing(now, child.once):
                unseen.append((wait, child))
        # What may run twice is sent again only if nobody who can be asked has it. One that never left may not have been sent.
        asked = [(wait, child) for wait, child in unseen if not child.once and wait._left_at() is not None]
        lost: list[bool] = []
        if asked:
            lost = attempt.leaving(lambda: children.are_lost([(wait.frozen, child.missing) for wait, child in asked]))
        kept = {wait.identity for (wait, _), gone in zip(asked, lost, strict=True) if not gone}
        for wait, child in unseen:
            if wait.identity not in kept:
                wait._send(child.missing)

    def _send(self, missing: Sequence[str] = ()) -> None:
        self.sent_here = self.children.send(self.frozen, missing)

    def _is_worth_a_look(self, now: int) -> bool:
        if self.attempt.store.skipped_ms is not None:  # outside a worker it has ended when it was sent
            return True
        if self.news or (self.deadline and now >= self.deadline):
            return True
        return not self.sent_here and self._is_missing(now, True)

    def _is_missing(self, now: int, once: bool) -> bool:
        """Whether it is to be sent again if nobody has seen it: the last attempt ended before it had left, or time has passed."""
        left = self._left_at()
        if left is None:
            return not self.sent_here
        return _chances(now - self.began_at, self._lease, once) > _chances(left - self.began_at, self._lease, once)

    def _left_at(self) -> int | None:
        """When this run has last suspended since this wait began, None: not yet."""
        begun, left = self.begun, self.attempt.journal.rested
        if begun is None or _place(left) <= _place(begun.id):
            return None
        return _place(left)[0]

    def look(self, now: int, inbox: Sequence[Event]) -> Ended | None:
        child, late = self.child, bool(self.deadline and now >= self.deadline)
        taken = self.news
        if child is not None and child.over and not (late and child.revoked):  # cancelled late: by us, before a crash
            return self._ended(child, taken)
        if late:
            self.abandon()
            error = StepTimeout(
                f"The child {self.about} of step {self.identity[0]!r} (occurrence {self.identity[1]}) was not over in time."
            )
            return Ended(False, self.attempt.codec.encode_failure(error, **self.where), taken)
        return None

    def _ended(self, child: Child, taken: list[Event]) -> Ended:
        codec = self.attempt.codec
        if child.error is not None:
            failed = ChildFailed(
                f"The child {child.task}[{child.task_id}] of step {self.identity[0]!r} failed: {child.error!r}",
                task=child.task,
                task_id=child.task_id,
                error=child.error,
            )
            return Ended(False, codec.encode_failure(failed, **self.where), taken)
        try:
            return Ended(True, codec.encode(child.value, hint=self.returns, **self.where), taken)
        except ResultError as error:
            refused = ResultError(
                f"The result of the child {self.about} of step {self.identity[0]!r} (occurrence {self.identity[1]}) cannot be "
                f"recorded: {error}"
            )
            return Ended(False, codec.encode_failure(refused, **self.where), taken)

    def abandon(self) -> None:
        """Nobody waits any more: the child is cancelled, unless it has ended."""
        if self.begun is not None:
            self.attempt.leaving(lambda: self.children.cancel([self.frozen]))

    def value_of(self, step: Step) -> Any:
        if step.ok:
            return self.attempt.codec.decode(step.value, hint=self.returns, **self.where)
        try:
            return super().value_of(step)
        except ChildFailed as failed:
            self._raise(failed)

    def _raise(self, failed: ChildFailed) -> NoReturn:
        raise failed from failed.error or failed.__cause__


def run_task(
    attempt: Attempt,
    key: str,
    task: Any,
    args: Any,
    kwargs: Any,
    timeout: float | timedelta | str | None,
    returns: Any,
    options: dict[str, Any],
) -> ChildWait:
    """A wait for a task that this sends. What cannot be sent is refused here, before anything is recorded."""
    said_by = f"step.run_task({key!r})"
    seconds = None if timeout is None else duration(timeout, f"{said_by}'s timeout")
    identity = attempt.identify("run_task", key)
    asked = {"task": "", "args": args, "kwargs": kwargs, "timeout": seconds, "options": options}
    if recorded(attempt, identity, "run_task") is not None:
        return ChildWait(attempt, identity, "", 0, asked, returns, b"")
    children, begun = children_of(attempt), attempt.journal.waits.get(identity)
    if begun is not None:
        asked["task"] = begun.about
        return ChildWait(attempt, identity, begun.about, begun.deadline, asked, returns, b"")
    tries = attempt.journal.started[identity]
    id = str(uuid5(NAMESPACE_OID, f"{idempotency_key(attempt.namespace, identity, attempt.journal.epoch)}/{tries}"))
    wait = Wait(attempt, identity, "", 0, {}).name
    frozen = children.freeze(Asked(task, args, kwargs, options), id, Parent(attempt.namespace, attempt.run, wait), said_by)
    asked["task"] = frozen.name
    deadline = 0 if seconds is None else max(1, attempt.now_ms() + int(seconds * 1000))
    return ChildWait(attempt, identity, frozen.name, deadline, asked, returns, frozen.detail)


def children_of(attempt: Attempt) -> Children:
    """Who sends tasks for this attempt."""
    children: Children = attempt.children
    return children


def child_detail(detail: bytes) -> tuple[int, bytes]:
    """When a child's wait began, in ms since 1970, and the child, frozen."""
    began_at, frozen = unpack(detail)
    return began_at, frozen


def cancel_children(journal: Standing, children: Children) -> None:
    """Cancel every child that the run of this journal still waits for."""
    waits = [
        wait
        for identity, wait in journal.waits.items()
        if wait.verb == "run_task" and identity not in journal.steps and journal.writers.get(identity) == journal.run
    ]
    if waits:
        children.cancel([child_detail(wait.detail)[1] for wait in waits])


def give_up_children(journal: Standing, children: Children) -> None:
    """As `cancel_children`, as far as that can be done: Celery has stored how the run ends, and nothing comes back for them."""
    try:
        cancel_children(journal, children)
    except Exception as error:  # of the broker, the result backend or the store
        logger.warning("Children of run %s may go on, as they could not be cancelled: %r", journal.run, error)


# -- when to look, and when to send again --------------------------------------------------------------------------------


def _looks(elapsed: int, lease: int) -> tuple[int, int]:
    """How many looks were due in the time since the wait began, and when the next is: after a lease, then doubling. In ms."""
    number, at, pause = 0, lease, lease
    while at <= elapsed and pause < _LONGEST:
        pause = min(2 * pause, _LONGEST)
        number, at = number + 1, at + pause
    if at <= elapsed:
        more = (elapsed - at) // _LONGEST + 1
        number, at = number + more, at + more * _LONGEST
    return number, at


def _chances(elapsed: int, lease: int, once: bool) -> int:
    """How often a child that nobody sees would have been sent again by now: at each look, or after ten leases and doubling."""
    if once:
        return _looks(elapsed, lease)[0]
    return max(0, elapsed // (_PATIENCE * lease)).bit_length()


def _place(id: str) -> tuple[int, int]:
    ms, _, n = id.partition("-")
    return int(ms or 0), int(n or 0)

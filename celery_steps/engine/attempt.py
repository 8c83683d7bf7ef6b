"""One delivery that executes a body: opened at the first verb, ended once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from celery_steps.codec import Codec
from celery_steps.engine import entries as fmt
from celery_steps.engine import news
from celery_steps.engine.entries import Identity
from celery_steps.engine.failure import Failure, record, to_blame
from celery_steps.engine.identity import check_key
from celery_steps.engine.journal import Journal, JournalStore
from celery_steps.engine.pause import Pause, rest
from celery_steps.engine.refusal import Refused, refuse_to_go_on
from celery_steps.engine.telling import Telling
from celery_steps.errors import (
    AttemptEnded,
    JournalLost,
    LeaseLost,
    NoActiveRun,
    RollingBack,
    RunCancelled,
    StepsError,
    StoreLost,
    StoreUnavailable,
)
from celery_steps.store.replies import Append, Event

if TYPE_CHECKING:
    from celery_steps.engine.event import Emission

#: The attempt whose body this context is in. Threads that a body starts have none: a verb there is an error.
current: ContextVar[Attempt | None] = ContextVar("celery_steps_attempt", default=None)
#: The attempt of the handler that this context is in: branches have theirs in threads of their own.
handling: ContextVar[Attempt | None] = ContextVar("celery_steps_handling", default=None)


@dataclass(eq=False)
class Attempt:
    """What one delivery knows and has done.

    `message` gives the serialised Celery message; `announce` tells the outside, before it is, that the run is suspended
    for so many ms, and returns after how many it must come back at the latest;
    `emit` sends an event and returns how many it reached; `show` tells the outside how far the run is;
    `before_commit` hears of each step and its result before it is recorded; `listener` of what is recorded, by name, if `hears`
    has that;
    `timer` and `around` are the testing kit's doors: virtual time, stubs;
    `opened` hears of every namespace that this attempt owns, to keep its lease; `passing` are exceptions that are no failure of
    a step (Celery's Retry, Ignore, Reject); `prompt` are exceptions that wait for no branch (a soft time limit);
    `beside` is the context that a branch's thread needs.
    """

    store: JournalStore
    run: str
    run_id: str
    task: str
    token: str
    codec: Codec
    retries: int = 0
    call_digest: Callable[[], bytes | None] = lambda: None
    message: Callable[[], bytes] = lambda: b""
    announce: Callable[[dict[str, Any], int], int] = lambda info, away: fmt.NEVER
    emit: Callable[[Emission], int] = lambda emission: 0
    show: Callable[[dict[str, Any]], None] = lambda progress: None
    children: Any = None  # who sends tasks for it: engine.child.Children
    before_commit: Callable[[Any, Any], Any] | None = None
    listener: news.Listener = lambda name, details: None
    hears: frozenset[str] = frozenset()  # for what it is called: for nothing, nothing is made
    opened: Callable[[JournalStore], None] = lambda store: None
    closed: Callable[[JournalStore], None] = lambda store: None
    passing: tuple[type[BaseException], ...] = ()
    prompt: tuple[type[BaseException], ...] = ()
    beside: Callable[[], AbstractContextManager[Any]] = nullcontext
    lease: float = 30.0
    max_crashes: int = 5
    record_input: bool = True
    nested_in: str = ""
    timer: Any = time  # monotonic() and sleep()
    around: Callable[..., Any] | None = None  # called with (step, verb, handler, *input) instead of each handler
    request: Any = None  # what this attempt executes, to tell a call of super().run() from another task's

    rehearses: ClassVar[bool] = False  # nothing of it is to happen

    namespace: str = field(init=False)
    journal: Journal = field(init=False)
    owner: bool = field(init=False, default=False)
    active: bool = field(init=False, default=True)  # the body runs
    ended: BaseException | None = field(init=False, default=None)
    in_block: bool = field(init=False, default=False)  # of parallel
    seen: dict[tuple[str, str], int] = field(init=False, default_factory=dict)  # occurrences so far, by namespace and key
    verbs: int = field(init=False, default=0)  # of the body, so far
    at: Identity | None = field(init=False, default=None)  # what the last of them was about
    fresh: bool = field(init=False, default=False)  # it has done something that is no replay
    telling: Telling = field(init=False)
    _unmet: list[Identity] | None = field(init=False, default=None)  # recorded outcomes, the last one first
    heard: float = field(init=False, default=0.0)  # monotonic time of Redis's last word
    lost: bool = field(init=False, default=False)  # the journal
    newest_fence: int = field(init=False, default=0)  # as the heartbeat saw it
    number: int = field(init=False, default=1)  # of the run's attempts
    inbox: list[Event] = field(init=False, default_factory=list)  # what has been read of it and not been taken
    inbox_seen: str = field(init=False, default="0")
    undos: dict[Identity, tuple[Callable[[Any], Any], Any]] = field(init=False, default_factory=dict)  # and the result's class
    crashes: int = field(init=False, default=0)  # of attempts before this one, in a row
    records_starts: bool = field(init=False, default=False)
    failures: list[Failure] = field(init=False, default_factory=list)  # several: those of one parallel block
    raised: list[tuple[BaseException, Identity]] = field(init=False, default_factory=list)
    thread: int = field(init=False, default_factory=lambda: threading.get_ident())  # the body's
    _began: float = field(init=False, default=0.0)
    _claimed_at: int = field(init=False, default=0)  # Redis time in ms

    def __post_init__(self) -> None:
        self.namespace = self.store.namespace
        self.journal = Journal(self.store, self.run)
        self.telling = Telling(self)

    # -- opening ----------------------------------------------------------------------------------------------------

    def open(self, known_only: bool = False) -> None:
        """Claim the namespace. Refused says why not; otherwise this attempt is the owner."""
        self.leaving(lambda: self._open(known_only))

    def _open(self, known_only: bool) -> None:
        entry = fmt.pack_call(self.token, self.run, self.task, self.call_digest(), self.retries)
        try:
            claim = self.journal.claim(entry, retries=self.retries, message=self.message(), known_only=known_only)
        except StoreUnavailable as error:
            raise StoreLost(str(error)) from error
        except BaseException:
            if self.journal.fence:  # claimed, then interrupted or unreadable: it is ours to end
                self.owner = True
                self.opened(self.store)
            raise
        if claim.verdict == "LOST":
            raise self.journal.lost()
        if claim.verdict != "OK":
            raise Refused(claim)
        self.owner = True
        self.heard = self._began = self.timer.monotonic()
        self._claimed_at, self.number = claim.now, claim.attempts
        self.telling.carry_on(claim.told)
        self.newest_fence = self.journal.fence
        self.crashes, self.records_starts = claim.crashes, claim.crashes > 0
        self.opened(self.store)
        news.of_run(self, "run_started" if self.number == 1 else "run_resumed", "running")
        refuse_to_go_on(self, claim)

    # -- verbs ------------------------------------------------------------------------------------------------------

    def enter(self, verb: str) -> None:
        """Every verb begins here: is this a place for it, is the run open, has the body caught a failure?"""
        if handling.get() is self and self.ended is None:
            raise StepsError(f"step.{verb} inside a step's handler: a step is one unit. Call it from the task's body.")
        self.speak(verb)
        if self.in_block:
            raise StepsError(
                f"step.{verb} inside a parallel block: use the block's own calls there, and other verbs before or after it."
            )
        self.verbs += 1
        if self.failures:  # caught, as the body went on: this is the step's outcome
            self.record_failures()

    def speak(self, verb: str) -> None:
        """What is no step, but durable, begins here: in the body, it opens the run."""
        if self.ended is not None:  # the body swallowed what should have left it
            raise self.ended
        if not self.active:
            raise NoActiveRun
        if self.nested_in:
            raise StepsError(
                f"step.{verb} in {self.task}, which was called directly inside the run of {self.nested_in}: "
                "a run cannot hold another. Send it with delay() or apply_async()."
            )
        if not self.owner:
            self.open()

    def identify(self, verb: str, key: str) -> Identity:
        """Enter a verb that is no `run`: which use of its key this is."""
        check_key(key)
        self.enter(verb)
        place = (self.namespace, key)
        self.seen[place] = self.seen.get(place, 0) + 1
        self.at = (key, self.seen[place])
        return self.at

    @property
    def in_handler(self) -> bool:
        return handling.get() is self

    def record_failures(self) -> None:
        """The body went on: they are their steps' outcomes."""
        failures, self.failures = self.failures, []
        if failures:
            record(self, failures)

    def leaving(self, act: Callable[[], Any]) -> Any:
        """Do `act`; what ends the attempt is kept, so that a body that swallows it gets it again."""
        try:
            return act()
        except AttemptEnded as end:
            self.ended = end
            raise
        except JournalLost as lost:
            self.ended, self.lost, self.owner = lost, True, False
            self.store.abandon()
            raise
        except StoreUnavailable as error:
            self.ended = StoreLost(str(error))
            raise self.ended from error

    def append(self, entries: Sequence[tuple[str, bytes]], *, record: bool = True) -> None:
        self.leaving(lambda: self.journal.append(entries, record=record))
        self.heard = self.timer.monotonic()

    def before_effect(self) -> None:
        """The last look before a handler is called."""
        self.fresh = True
        if self.journal.rollback is not None:
            self.ended = RollingBack()
            raise self.ended
        if self.journal.cancelled:
            self.ended = RunCancelled()
            raise self.ended
        self.ask()
        if self.journal.paused:
            rest(self, Pause("unpause", fmt.NEVER, {"waiting_for": "unpause", "until": None}, "paused"))
        if self.journal.short:  # nobody knows whether one more outcome could be recorded
            rest(self, Pause("memory in Redis", self.now_ms() + int(self.lease * 1000), {"waiting_for": "memory", "until": None}))
        if self.journal.handed_over:
            rest(self, Pause("another worker", 0, {"waiting_for": "another worker", "until": None}))

    def ask(self) -> None:
        """After silence for half a lease, or a control entry that the heartbeat saw: whether this attempt is still the owner."""
        if self.timer.monotonic() - self.heard > self.lease / 2 or self.newest_fence > self.journal.fence:
            self.leaving(self.renew)

    def renew(self) -> None:
        """Ask whether this attempt still owns its namespace, and meet what was asked of it from outside."""
        try:
            fence = self.store.renew()
        except StoreUnavailable as error:
            raise StoreLost(str(error)) from error
        if not fence:
            raise LeaseLost
        self.heard = self.timer.monotonic()
        if fence > self.journal.fence:
            self.journal.catch_up()
        self.newest_fence = self.journal.fence
        if self.journal.cancelled:
            raise RunCancelled

    @property
    def replaying(self) -> bool:
        """Whether outcomes are recorded that this attempt has not met yet. Never again once it has done something new."""
        if self.fresh or not self.owner:
            return False
        if self._unmet is None:
            self._unmet = list(reversed(self.journal.steps))
        while self._unmet:
            key, sequence = self._unmet[-1]
            if self.seen.get((self.namespace, key), 0) < sequence:
                return True
            self._unmet.pop()
        return False

    def saw(self, fence: int) -> None:
        """The heartbeat renewed the lease and saw the namespace's newest fence."""
        self.newest_fence = max(self.newest_fence, fence)
        if fence == self.journal.fence:
            self.heard = self.timer.monotonic()

    def is_cancelled(self) -> bool:
        """Whether a cancel has been asked for, as far as the last commit or the heartbeat knows."""
        if self.newest_fence > self.journal.fence and self.owner:
            self.leaving(self.journal.catch_up)
            self.newest_fence = self.journal.fence
        return self.journal.cancelled

    def elapsed(self) -> float:
        """Seconds since this attempt's fence."""
        return float(self.timer.monotonic() - self._began)

    def clock(self) -> int:
        """Milliseconds since this attempt's fence."""
        return int((self.timer.monotonic() - self._began) * 1000)

    def now_ms(self) -> int:
        """The time since 1970 by the store's clock."""
        return self._claimed_at + self.clock() + (self.store.skipped_ms or 0)

    def read_inbox(self) -> list[Event]:
        """What is in the namespace's inbox for this run. One round trip."""
        new: list[Event] = self.leaving(lambda: self.store.inbox(self.inbox_seen))
        if new:
            self.inbox_seen = new[-1].id
            self.inbox += [event for event in new if not event.to or event.to.startswith(f"{self.run} ")]
        return self.inbox

    # -- leaving ----------------------------------------------------------------------------------------------------

    def retry(self, delay: float, retries: int, message: bytes, error: BaseException | None) -> None:
        """Celery has stored RETRY: the next attempt starts from the ticket after `delay` seconds."""
        reopened, failed = to_blame(self, error)
        entry = fmt.pack_retry(self.run, retries, reopened, failed)
        ms = max(0, int(delay * 1000))
        self.leave([("retry", entry)], lambda b, a, ids: self.store.retry(b, a, ids[0], entry, ms, retries, message))
        self.tell_failures()
        news.of_run(self, "run_suspended", "retrying", wake=self.now_ms() + ms, error=error)

    def finish(
        self, outcome: str, value: bytes, *, stored: str = "", whatever: bool = False, error: BaseException | None = None
    ) -> bool:
        """Record the run's outcome. `stored`: Celery has stored this state already, so settle in the same round trip.

        `whatever`: also if the run was cancelled meanwhile. Returns False if another attempt had finished the run before.
        """
        if outcome == "succeeded":
            self.record_failures()
        entry = fmt.pack_finish(self.run, outcome, value)

        def send(before: str, after: str, ids: list[str]) -> Append:
            if stored:
                return self.store.finish_and_settle(before, after, ids[0], entry, stored)
            return self.store.finish(before, after, ids[0], entry)

        if self.leave([("finish", entry)], send, whatever) is Append.DONE:
            return False
        self.tell_failures()
        news.of_run(self, "run_finished", outcome, error=error)
        return True

    def tell_failures(self) -> None:
        """Failures that left the body have no record of their own: the attempt's last entry stands for them."""
        failures, self.failures = self.failures, []
        for failure in failures:
            if failure.called:
                failure.tell(self, recorded=False)

    def leave(
        self, entries: Sequence[tuple[str, bytes]], send: Callable[[str, str, list[str]], Append], whatever: bool = False
    ) -> Append:
        """Write the last entries of this attempt. RunCancelled if the run is, unless it is to be written `whatever` happened."""
        self.telling.leave()

        def unless_cancelled(before: str, after: str, ids: list[str]) -> Append:
            if self.journal.cancelled and not whatever and self.journal.rollback is None:
                raise RunCancelled
            return send(before, after, ids)

        reply: Append = self.leaving(lambda: self.journal.write(unless_cancelled, entries, leaves=True))
        self.owner = reply is Append.NEWS
        return reply

    def settle(self, state: str) -> None:
        """Celery has stored `state` (succeeded, failed, cancelled)."""
        self.store.settle(state)
        self.closed(self.store)


def active_attempt() -> Attempt:
    """The attempt whose body runs in this context. NoActiveRun outside."""
    attempt = current.get()
    if attempt is None or not attempt.active:
        raise NoActiveRun
    # asyncio.to_thread and others copy the context. In a handler, the verb says why it cannot be there.
    if attempt.thread != threading.get_ident() and not attempt.in_handler:
        raise NoActiveRun("There is no active run in this thread: call steps in the thread of the task's body.")
    return attempt

"""`step.parallel`: branches that go on side by side, and join where their block ends.

What a branch came to is recorded as any step is. A join that ends with an exception which the body catches records an outcome for
every branch, also for those that were given up: so a replay finds them all, whatever was fast and whatever was slow.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from celery_steps.engine import loops, news
from celery_steps.engine.attempt import Attempt, active_attempt
from celery_steps.engine.entries import Identity
from celery_steps.engine.execution import Call, execute, failure_of
from celery_steps.engine.failure import Failure
from celery_steps.engine.once import branch_call, check_record
from celery_steps.engine.parallel import Branch, Dropped, Future
from celery_steps.engine.pause import Pausing
from celery_steps.engine.waiting import Ended, Wait, commit, pack_end, recorded, wait_for
from celery_steps.errors import AttemptEnded, StepsError


class Block:
    """The body of one `with step.parallel() as p`."""

    def __init__(self, attempt: Attempt, max_workers: int, return_exceptions: bool) -> None:
        if type(max_workers) is not int or max_workers < 1:
            raise StepsError(f"step.parallel's max_workers must be a whole number from 1 on, not {max_workers!r}.")
        self._attempt = attempt
        self._max_workers = max_workers
        self._return_exceptions = return_exceptions
        self._state = "new"  # open, over
        self._branches: list[Branch] = []  # in call order
        self._queue: queue.SimpleQueue[Branch | None] = queue.SimpleQueue()  # not started
        self._threads: list[threading.Thread] = []
        self._takers: list[threading.Thread] = []  # of what operators said
        self._stopped = False  # nothing is started any more

    # -- in the block -----------------------------------------------------------------------------------------------

    def run(self, key: str, input: Any, handler: Any, options: dict[str, Any]) -> Future[Any]:
        if "namespace" in options:
            raise StepsError(f"p.run({key!r}): a branch cannot be recorded in another namespace. Use step.run outside the block.")
        with self._call():
            call = branch_call(self._attempt, key, input, handler, options)
        branch = Branch(call)
        step = self._attempt.journal.steps.get(call.identity)
        if step is not None:
            check_record(call, step)
        if step is not None and not step.said:
            branch.replay(step)
            news.of_replay(self._attempt, step)
        self._branches.append(branch)
        if (step is None or step.said) and self._attempt.journal.rollback is None:  # else it comes by only for the undos
            branch.context = copy_context()
            if step is None:
                self._submit(branch)
            else:
                self._take_over(branch)
        return branch.future

    def wait(self, make: Callable[[Attempt], Wait]) -> Future[Any]:
        with self._call():
            wait = make(self._attempt)
        branch = Branch(wait)
        step = recorded(self._attempt, wait.identity, wait.verb)
        if step is not None:
            branch.replay(step)
            news.of_replay(self._attempt, step)
        self._branches.append(branch)
        return branch.future

    @contextmanager
    def _call(self) -> Iterator[None]:
        if active_attempt().in_handler:
            raise StepsError("A branch inside a step's handler: a step is one unit. Call it from the task's body.")
        if self._state != "open":
            raise StepsError("The parallel block is not open: call its branches inside `with step.parallel() as p:`.")
        self._attempt.in_block = False
        try:
            yield
        finally:
            self._attempt.in_block = True

    # -- threads ----------------------------------------------------------------------------------------------------

    # No lock: a signal in the body's thread (soft time limit) may come in the middle of anything.

    def _submit(self, branch: Branch) -> None:
        self._queue.put(branch)
        if len(self._threads) < self._max_workers and not self._stopped:
            thread = threading.Thread(target=self._work, name="celery-steps-branch", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _take_over(self, branch: Branch) -> None:
        """Record what an operator said of it, before any other branch can end the block: it has had its effect.

        In a thread, as branches are that must pause; no handler is called there.
        """
        thread = threading.Thread(target=self._work_on, args=(branch,), name="celery-steps-branch", daemon=True)
        self._takers.append(thread)
        thread.start()
        thread.join()

    def _work(self) -> None:
        """Do one branch after the other, until the block is over."""
        with self._attempt.beside():
            while not self._stopped and (branch := self._queue.get()) is not None:
                self._do(branch)
        loops.close()

    def _work_on(self, branch: Branch) -> None:
        with self._attempt.beside():
            self._do(branch)
        loops.close()

    def _do(self, branch: Branch) -> None:
        assert branch.context is not None
        branch.context.run(branch.settle, partial(self._execute, branch))
        if branch.has_failed() and not (self._return_exceptions and (branch.failure or branch.is_recorded)):
            self._stopped = True

    def _not_started(self) -> list[Branch]:
        """Take what no thread has taken yet."""
        found = []
        with suppress(queue.Empty):
            while True:
                found.append(self._queue.get_nowait())
        return [branch for branch in found if branch is not None]

    def _dismiss_threads(self) -> None:
        """They end when nothing is left for them."""
        for _ in self._threads:
            self._queue.put(None)

    def _execute(self, branch: Branch) -> Any:
        attempt, call = self._attempt, branch.work
        assert isinstance(call, Call)
        try:
            value = execute(call, attempt.journal, attempt.append)
        finally:
            branch.failure = next(iter(call.failures), None)
            branch.is_recorded = call.identity in attempt.journal.steps
        return value

    def _await_threads(self) -> None:
        for thread in [*self._takers, *self._threads]:
            while thread.is_alive():
                thread.join(1)  # a signal in the moment before is noticed when this returns

    # -- the join ---------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        self._attempt.enter("parallel")
        self._attempt.in_block, self._state = True, "open"

    def leave(self, left_by: BaseException | None) -> None:
        """Join. Raises what ends the block, unless that is what it was left by."""
        try:
            self._attempt.in_block, self._state = False, "over"
            self._join(left_by)
        except Exception as error:
            self._give_up(error)
            raise
        else:
            if isinstance(left_by, Exception):
                self._give_up(left_by)
        finally:
            self._stopped = True
            for branch in self._branches:
                branch.future._joined = True

    def _join(self, left_by: BaseException | None) -> None:
        """Until all is over. Raises what the block comes to, if it is not what it was left by already."""
        attempt = self._attempt
        if attempt.journal.rollback is not None and not all(branch.is_over for branch in self._branches):
            attempt.before_effect()
        if left_by is None:
            try:
                self._start_waits()
            except AttemptEnded as end:  # what runs is recorded first
                attempt.ended = left_by = end
        if left_by is not None:
            self._stopped = True
        self._dismiss_threads()
        if left_by is None or (isinstance(left_by, (Exception, AttemptEnded)) and not isinstance(left_by, attempt.prompt)):
            self._await_threads()
        if attempt.ended is not None:
            raise attempt.ended
        if left_by is None:
            if any(isinstance(branch.error, Pausing) and branch.error.pause.status == "in_doubt" for branch in self._branches):
                self._rest()
            self._raise_first()
            if self._return_exceptions:
                self._record_failures()
            self._rest()
            self._await_waits()
            self._raise_first()

    def _rest(self) -> None:
        """A branch is to be tried again later, or is in doubt: the run leaves, with all that is waited for."""
        pauses = [branch.error.pause for branch in self._branches if isinstance(branch.error, Pausing)]
        if pauses:
            wait_for(self._attempt, self._waits(), pauses=pauses)

    def _record_failures(self) -> None:
        """They are what the branches came to: the body goes on."""
        failed = [branch for branch in self._branches if branch.failure is not None]
        self._attempt.failures += [branch.failure for branch in failed if branch.failure is not None]
        for branch in failed:
            branch.failure, branch.is_recorded = None, True
        self._attempt.record_failures()

    def _waits(self) -> list[Wait]:
        return [branch.work for branch in self._branches if isinstance(branch.work, Wait) and not branch.is_over]

    def _start_waits(self) -> None:
        """Fix the deadlines, and send the children, before what runs may take long or crash."""
        waits = self._waits()
        if not self._threads or self._first() is not None:
            return
        attempt, journal = self._attempt, self._attempt.journal
        attempt.ask()
        if attempt.rehearses or journal.cancelled or journal.paused or journal.short or journal.handed_over:
            return  # the attempt ends, but not before what runs is recorded: after the join
        attempt.fresh = True
        for kind in dict.fromkeys(type(wait) for wait in waits):
            kind.start([wait for wait in waits if type(wait) is kind])

    def _await_waits(self) -> None:
        waits = self._waits()
        if waits:
            wait_for(self._attempt, waits, until_failure=not self._return_exceptions)
        for branch in self._branches:
            step = self._attempt.journal.steps.get(branch.work.identity)
            if step is not None and not branch.is_over:
                branch.replay(step)

    def _first(self) -> BaseException | None:
        """The first failure, in call order, that ends the block."""
        for branch in self._branches:
            kept = self._return_exceptions and (branch.failure is not None or branch.is_recorded)
            if branch.has_failed() and not kept:
                return branch.error
        return None

    def _raise_first(self) -> None:
        error = self._first()
        if error is not None:
            raise error

    # -- giving up --------------------------------------------------------------------------------------------------

    def _give_up(self, cause: Exception) -> None:
        """The block is left by `cause`. What goes on is abandoned; if the body goes on, that is what these branches came to."""
        if self._attempt.ended is not None:
            return
        self._stopped = True
        dropped = set(self._not_started())
        self._dismiss_threads()
        abandoned = self._waits()
        for wait in abandoned:
            wait.abandon()
        failures = [
            failure for branch in self._branches if (failure := self._failure(branch, cause, branch in dropped)) is not None
        ]
        over = [await_ for wait in abandoned for await_ in wait.awaits()]
        for failure in failures:
            failure.commit = lambda entries: commit(self._attempt, entries, over)
        self._attempt.failures += failures

    def _failure(self, branch: Branch, cause: Exception, is_dropped: bool) -> Failure | None:
        """What is to be recorded of this branch if the body goes on."""
        attempt, work = self._attempt, branch.work
        if branch.is_over and not isinstance(branch.error, Pausing):
            if branch.failure is not None:
                branch.failure.cause = cause
            elif branch.is_recorded and branch.error is not None:
                attempt.raised.append((cause, work.identity))
            return branch.failure
        dropped = Dropped()
        if isinstance(work, Wait):
            pack = partial(_pack_dropped, work, dropped)
            failure = Failure(work.identity, dropped, pack, attempt.append, cause, called=False, verb=work.verb, began=work.began)
        elif _may_have_happened(attempt, work.identity):  # that stays so
            failure = None
        elif is_dropped or branch.is_over:
            failure = failure_of(work, dropped, attempt.clock(), cause, called=False)
        else:  # it is running, and is recorded if it ends while this attempt owns the run
            return None
        branch.future._error, branch.future._over = dropped, True
        return failure


def _may_have_happened(attempt: Attempt, identity: Identity) -> bool:
    """Whether this step is in doubt, or an operator said what it came to, which is to be recorded yet."""
    step = attempt.journal.steps.get(identity)
    return identity in attempt.journal.intents or (step is not None and step.said)


def _pack_dropped(wait: Wait, dropped: Dropped) -> bytes:
    return pack_end(wait, Ended(False, wait.attempt.codec.encode_failure(dropped, **wait.where)))

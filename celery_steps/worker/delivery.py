"""One delivery of a durable task in a worker: what its attempt's end means to Celery."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from celery import signals
from celery.app.task import Context, Task
from celery.exceptions import Ignore, Reject, Retry

from celery_steps.codec import Codec, input_digest
from celery_steps.engine import news, rollback
from celery_steps.engine.attempt import Attempt, current
from celery_steps.engine.child import cancel_children, give_up_children
from celery_steps.engine.journal import JournalStore
from celery_steps.engine.refusal import Refused
from celery_steps.errors import (
    AttemptEnded,
    JournalLost,
    LeaseLost,
    RollingBack,
    RunCancelled,
    StepsError,
    StoreLost,
    StoreUnavailable,
    Suspended,
)
from celery_steps.store.binding import Binding
from celery_steps.store.keys import RunId
from celery_steps.store.store import Store
from celery_steps.worker import events, listening, messages, monitoring, process
from celery_steps.worker.beside import PROMPT, beside
from celery_steps.worker.children import WorkerChildren
from celery_steps.worker.heartbeat import Heartbeat
from celery_steps.worker.known import Known
from celery_steps.worker.result import Result

logger = logging.getLogger("celery_steps")

#: The delivery in this context; it stays after its body, for the hooks that Celery calls once the result is stored.
latest: ContextVar[Delivery | None] = ContextVar("celery_steps_delivery", default=None)


class Delivery:
    """Runs a body for one delivered message and gives Celery its outcome."""

    def __init__(
        self,
        task: Task,
        request: Context,
        namespace: str,
        store: Store,
        codec: Codec,
        heartbeat: Heartbeat,
        doors: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.task = task
        self.request = request
        self.store = store
        self.heartbeat = heartbeat
        self.result = Result(task, request)
        self.run_id = RunId(task.name, request.id, request.replaced_task_nesting)
        token = process.token(request.hostname)
        self.binding: Binding = store.bind(namespace, self.run_id, token, task.app.main or "", messages.reopened(request))
        self._retry: tuple[float, int, bytes] | None = None  # delay, retries, message: prepared by retry()
        self._unthrown: Retry | None = None
        self.replaced = False
        self.final = False  # what leaves the body now is not to be retried
        settings = store.settings
        self.snapshot = messages.Snapshot(task, request, namespace)
        ear = listening.of(task, in_worker=True)
        self.attempt = Attempt(
            store=self.binding,
            run=str(self.run_id),
            run_id=request.id,
            task=task.name,
            token=token,
            codec=codec,
            retries=request.retries,
            call_digest=lambda: _call_digest(self.snapshot.args, self.snapshot.kwargs),
            message=self.snapshot,
            before_commit=task.before_commit,
            listener=ear.listener,
            hears=ear.hears,
            announce=self.result.write_suspended,
            emit=functools.partial(events.emit, task.app),
            show=self.result.write_progress,
            children=WorkerChildren(task.app),
            opened=self._hold,
            closed=heartbeat.drop,
            passing=(Retry, Ignore, Reject),
            prompt=PROMPT,
            beside=functools.partial(beside, task, request),
            lease=settings.lease_ttl,
            max_crashes=settings.max_crashes,
            record_input=settings.record_input,
            request=request,
            **doors,
        )
        self.known = Known(self.attempt, self.binding, self.result, self._hold)

    # -- the body ---------------------------------------------------------------------------------------------------

    def run(self, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the body, or give Celery what is known of its end already."""
        outer = current.set(self.attempt)
        latest.set(self)
        try:
            if self._claims_first():
                try:
                    self.attempt.open(known_only=True)
                except Refused as refused:
                    if refused.claim.verdict != "UNKNOWN":
                        raise
                    self.attempt.ended = None  # it goes on as a first delivery
            if self.attempt.journal.rollback is not None:
                self._go_on_undoing(body, args, kwargs)
            self.result.write_started(self.attempt.owner)
            try:
                value = body(*args, **kwargs)
            finally:
                self.attempt.telling.leave()
            if self.attempt.ended is not None:  # the body swallowed it
                raise self.attempt.ended
            if self._unthrown is not None:
                raise self._unthrown
            if self.attempt.owner:
                self._finish(value)
            return value
        except Refused as refused:
            try:
                return self.known.answer(refused.claim)
            except Ignore:
                raise
            except JournalLost:
                self.final = True
                raise
            except (AttemptEnded, Exception) as error:  # what is known stays; the ticket comes again
                self._close()
                raise Ignore(f"The run could not be settled yet: {error}") from error
        except AttemptEnded as end:
            self._ended(end)
        except (Ignore, Reject) as end:
            self._left(end)
            raise
        except Exception as error:
            if isinstance(self.attempt.ended, AttemptEnded):  # the body's clean-up failed as it was left
                self._ended(self.attempt.ended)
            # Celery decides whether this is retried or final, and stores it: make sure that we may still speak for the run.
            self._still_owner(error)
            raise
        except BaseException:  # the process or greenlet is being ended: who ended it speaks for the run, or the lease runs out
            self.heartbeat.drop(self.binding)
            raise
        finally:
            self.attempt.active = False
            current.reset(outer)

    def _claims_first(self) -> bool:
        """A first delivery is opened at its first verb, another one before its body.

        Otherwise a run whose body returns before its first verb would come back for ever.
        """
        request = self.request
        redelivered = (request.delivery_info or {}).get("redelivered")
        return bool(request.retries or redelivered or messages.header(request, messages.TICKET))

    def _finish(self, value: Any) -> None:
        outcome = self.result.encoded(value)
        if not self.attempt.finish("succeeded", outcome):
            raise Ignore("Another attempt finished the run.")
        self._publish_heads()

    def _still_owner(self, error: Exception) -> None:
        if not self.attempt.owner:
            self.final = self.final or self.attempt.lost
            return
        try:
            self.attempt.renew()
        except AttemptEnded as end:
            self._ended(end)

    # -- ends -------------------------------------------------------------------------------------------------------

    def _ended(self, end: AttemptEnded) -> None:
        """The attempt left the body for a reason of ours. Raises Ignore, or Reject while the store is away."""
        if isinstance(end, RunCancelled):
            self._cancel()
        elif isinstance(end, StoreLost):
            self._wait_for_store(end)
        elif isinstance(end, LeaseLost):
            logger.warning("%s[%s]: %s", self.task.name, self.request.id, end)
            news.of_run(self.attempt, "lease_lost", "running")
            if self.result.wrote_open:
                self.known.put_back()
            self._close()
        elif isinstance(end, Suspended):
            self._close()
        raise Ignore(str(end)) from end

    def _cancel(self) -> None:
        """The children, REVOKED, then the outcome: a crash in between finds the cancel again."""
        try:
            cancel_children(self.attempt.journal, self.attempt.children)
            self.result.revoke()
            self._undo_and_finish("cancelled", b"")
        except Suspended:  # its undos are found by a replay of the body, or one of them is tried again later
            pass
        except (AttemptEnded, Exception) as error:  # the ticket comes again and finds the cancel
            logger.warning("%s[%s]: could not be cancelled yet: %s", self.task.name, self.request.id, error)
        finally:
            self._close()

    def _undo_and_finish(self, outcome: str, value: bytes, error: BaseException | None = None) -> bool:
        """Celery has stored how the run ends: undo what it did, then record that. False: another attempt had finished it."""
        if self.attempt.journal.undoable and self.attempt.journal.rollback is None:
            rollback.begin(self.attempt, outcome, value)
        if self.attempt.journal.rollback is not None and self.attempt.crashes < self.attempt.max_crashes:
            rollback.undo(self.attempt)
        finished = self.attempt.finish(outcome, value, stored=outcome, whatever=True, error=error)
        if finished and outcome == "cancelled":
            monitoring.send_revoked(self.task, self.request.id)
        return finished

    def _go_on_undoing(self, body: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """The run is over but for its rollback: its body is replayed to where it ended, for the undos that it names."""
        with suppress(RollingBack, Exception):
            body(*args, **kwargs)
        self.attempt.ended = None
        self._undo_and_finish(*(self.attempt.journal.rollback or ("failed", b"")))
        self._close()
        raise Ignore("The run is rolled back.")

    def _wait_for_store(self, end: StoreLost) -> None:
        """Redis is away. The message goes back to the broker; the ticket, if there is one, waits in Redis."""
        logger.error("%s[%s]: %s", self.task.name, self.request.id, end)
        self._close()
        if self.task.acks_late:
            time.sleep(min(1.0, self.store.settings.lease_ttl))  # the pace at which it comes back, if Redis refuses at once
            raise Reject(str(end), requeue=True) from end
        messages.publish(self.task.app, self.attempt.message(), countdown=1)

    def _left(self, end: Ignore | Reject) -> None:
        """The body raised Ignore or Reject: the run is over, or the broker brings it back."""
        if not self.attempt.owner:
            return
        try:
            if isinstance(end, Reject) and end.requeue:
                self.binding.release(int(self.store.settings.lease_ttl * 1000))
            elif isinstance(end, Reject):
                self.attempt.finish("rejected", b"", stored="failed", whatever=True)
            else:
                self.attempt.finish("replaced" if self.replaced else "ignored", b"", stored="succeeded", whatever=True)
        except (AttemptEnded, StoreUnavailable) as error:
            logger.warning("%s[%s]: its end could not be recorded: %s", self.task.name, self.request.id, error)
        self._close()

    def _hold(self, held: JournalStore) -> None:
        signals.task_postrun.connect(_let_go, dispatch_uid="celery-steps")
        self.heartbeat.hold(held, self.attempt)

    def _close(self) -> None:
        self.heartbeat.drop(self.binding)
        self._publish_heads()

    def _publish_heads(self) -> None:
        """Runs that waited for this namespace: whoever sets them free publishes them."""
        while self.binding.heads:
            messages.publish_soon(self.task.app, self.store, self.binding.namespace, self.binding.heads.pop())

    # -- hooks: Celery has stored a state ---------------------------------------------------------------------------

    def stored(self, state: str, error: BaseException | None = None) -> None:
        """Celery has stored a final state: the run is over."""
        latest.set(None)
        try:
            if self.attempt.owner:
                value = self.attempt.codec.encode_failure(error or StepsError())
                if state == "failed":  # before it came to their waits: too many crashes, another code
                    give_up_children(self.attempt.journal, self.attempt.children)
                if not self._undo_and_finish(state, value, error):
                    self.known.put_back()
            elif self.attempt.journal.length or self.final:
                self.binding.settle(state)
                if self.attempt.lost:
                    news.of_run(self.attempt, "run_finished", state, error=error)
        except LeaseLost:
            news.of_run(self.attempt, "lease_lost", "running")
            self.known.put_back()
        except Suspended:  # between two tries of an undo
            pass
        except (StepsError, AttemptEnded) as trouble:
            # The ticket stays: the next delivery finds the state stored, and settles.
            logger.warning("%s[%s]: could not be settled yet: %s", self.task.name, self.request.id, trouble)
        finally:
            self._close()

    def stored_retry(self) -> None:
        """Celery has stored RETRY: now the ticket becomes the retry."""
        latest.set(None)
        if not self.attempt.owner:
            return
        delay, retries, message = self._retry or (self.store.settings.lease_ttl, self.request.retries, b"")
        try:
            if self._retry is None:  # a Retry that the body raised itself: it has sent the message, the ticket stands behind it
                self.binding.release(int(delay * 1000))
            else:
                self.attempt.retry(delay, retries, message, sys.exc_info()[1])
        except RunCancelled:
            self._cancel()
        except (StepsError, AttemptEnded) as trouble:
            logger.warning("%s[%s]: its retry could not be recorded: %s", self.task.name, self.request.id, trouble)
            if isinstance(trouble, LeaseLost):
                news.of_run(self.attempt, "lease_lost", "running")
        finally:
            self._close()
        if self._retry is not None and delay <= 0:
            messages.publish_soon(self.task.app, self.store, self.binding.namespace, self.run_id)

    def prepare_retry(self, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
        """retry() only prepares: the message becomes the ticket once Celery has stored RETRY."""
        self._retry = self.snapshot.retry(args, kwargs, options)

    def unthrown(self, retry: Retry) -> None:
        """retry(throw=False): the retry is the outcome all the same."""
        self._unthrown = retry


def _let_go(task_id: str = "", **_: Any) -> None:
    """task_postrun: Celery could not store the result, so no hook was called. The settling lease must run out."""
    delivery = latest.get()
    if delivery is not None and delivery.request.id == task_id:
        delivery.heartbeat.drop(delivery.binding)


def _call_digest(args: Any, kwargs: Any) -> bytes | None:
    """Hash of the whole call: runs that share a namespace must have begun with the same arguments."""
    return input_digest([list(args), dict(kwargs)], where="the task's arguments")

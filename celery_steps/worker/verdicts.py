"""What the main process decides without the task's own code: worker lost, hard time limit, revoke, shutdown."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import uuid4

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.worker import state
from celery.worker.request import Request as CeleryRequest

from celery_steps.details import Problem, RunDetails
from celery_steps.engine.child import give_up_children
from celery_steps.engine.entries import pack_control, pack_finish, pack_rollback
from celery_steps.engine.journal import Journal
from celery_steps.errors import StepsError, StoreUnavailable
from celery_steps.store.keys import RunId
from celery_steps.store.replies import Append, Verdict
from celery_steps.worker import listening, messages, process, runtime
from celery_steps.worker.children import WorkerChildren
from celery_steps.worker.revoke import cancel

logger = logging.getLogger("celery_steps")

_CELERY = Verdict("CELERY")


class _Run(NamedTuple):
    """The run that a message belongs to."""

    namespace: str
    id: RunId
    parts: runtime.Runtime


class Request(CeleryRequest):  # type: ignore[misc]
    """A durable task's message in the main process: the run behind it is asked before Celery decides over the message.

    An open run is never failed, requeued or discarded with its message: its ticket brings it back, unless it is ended here.
    """

    _timed_out: Verdict | None = None  # what was found at the hard time limit
    _spared = False  # revoked() let this message through
    _was_revoked = False
    _token = ""

    # -- worker lost ------------------------------------------------------------------------------------------------

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """As Celery's for what the child has handled. For a dead child the run comes back by its ticket."""

        def as_celery() -> Any:
            return super(Request, self).on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        if return_ok or self._already_cancelled or self._already_revoked:
            return as_celery()
        if isinstance(error, TimeLimitExceeded):  # on_timeout follows
            self._timed_out = self._at_hard_limit(error)
            return self._fail_once(as_celery)
        # Billiard hands over what is no Exception (a CancelledError of the body, say) as it does the end of a child.
        if isinstance(error, (WorkerLostError, Terminated)) or not isinstance(error, Exception):
            return self._worker_lost(as_celery)
        return as_celery()

    def _worker_lost(self, as_celery: Callable[[], Any]) -> Any:
        try:
            run = self._run()
            found = self._release(run) if _shutting_down() else self._verdict(run, "lost", "").verdict != "CELERY"
        except StoreUnavailable as error:
            return self._requeue(error)
        if not found:
            return self._requeued_once(as_celery)
        state.task_ready(self)
        self.acknowledge()
        if not _shutting_down():
            self._publish(run)

    def _requeued_once(self, as_celery: Callable[[], Any]) -> Any:
        """Not open. A message that has come back before is not requeued again: it would kill worker after worker."""
        task = self.task
        wanted = task.reject_on_worker_lost
        if self.delivery_info.get("redelivered"):
            task.reject_on_worker_lost = False
        try:
            return as_celery()
        finally:
            task.reject_on_worker_lost = wanted

    # -- hard time limit --------------------------------------------------------------------------------------------

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """As Celery's. At the hard limit the run ends as failed."""
        if soft:
            return super().on_timeout(soft, timeout)
        # Of a greenlet's limit on_failure has not heard.
        found, self._timed_out = self._timed_out or self._at_hard_limit(TimeLimitExceeded(timeout)), None
        if found.verdict in ("CELERY", "TAKEN"):
            super().on_timeout(soft, timeout)
        if found.verdict == "TAKEN":
            self._conclude(found, "failed", TimeLimitExceeded(timeout))
        return None

    def _fail_once(self, as_celery: Callable[[], Any]) -> Any:
        """on_failure at the hard limit: stored and told here, which on_timeout would do once more."""
        verdict = self._timed_out.verdict if self._timed_out else ""
        if verdict not in ("CELERY", "TAKEN"):
            return None
        result = as_celery()
        if verdict == "TAKEN":
            self._context.update(chord=None, errbacks=None, chain=None)
        return result

    def _at_hard_limit(self, error: TimeLimitExceeded) -> Verdict:
        """Billiard tells of the limit before it ends the child: end it first."""
        child = process.child_of(self)
        if child is not None:
            process.kill(child)
        run = self._run()
        try:
            if _shutting_down() and self._release(run):
                found = Verdict("NOTHING")
            else:
                reason = f"The hard time limit ({error.args[0] if error.args else '?'} s) was exceeded."
                found = self._verdict(run, "failed", reason)
        except StoreUnavailable as trouble:
            self._requeue(trouble)
            return Verdict("NOTHING")
        if found.verdict not in ("CELERY", "TAKEN"):
            state.task_ready(self)
            self.acknowledge()
            self._publish(run)
        return found

    # -- revoke -----------------------------------------------------------------------------------------------------

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """As Celery's: the child is ended, and the run with it."""
        run = self._run()
        if not self.time_start or run is None:
            super().terminate(pool, signal)
            return
        number = process.end(self, pool, signal)
        try:
            found = self._verdict(run, "cancelled", "revoked")
            if found.verdict in ("CELERY", "TAKEN"):
                self._announce_revoked("terminated", True, number, False)
            else:
                self._gone()
                cancel(run.parts.main_store, run.namespace, run.id)
                self.acknowledge()
                self._publish(run)
        except StoreUnavailable as error:
            logger.error("%s[%s] was ended, but its run could not be cancelled: %s", self.name, self.id, error)
            self._gone()
            self.reject(requeue=True)
            return
        if found.verdict == "TAKEN":
            self._conclude(found, "cancelled", None)

    def revoked(self) -> bool:
        """As Celery's, but the message of a run that the store knows is never discarded: the run ends, or goes on, itself."""
        self._was_revoked = self.id in state.revoked
        self._spared = False
        discarded = super().revoked()
        return bool(discarded and not self._spared)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if not terminated:
            try:
                self._spared = self._is_spared(expired)
            except StoreUnavailable as error:
                self._requeue(error)
                return
        if not self._spared:
            super()._announce_revoked(reason, terminated, signum, expired)

    def _is_spared(self, expired: bool) -> bool:
        run = self._run()
        if run is None:
            return False
        if expired and not self._was_revoked:
            known = run.parts.main_store.status(run.namespace, run.id) is not None
            if known:
                state.revoked.discard(self.id)  # Celery has just added it: it would cancel the run
            return known
        if run.parts.main_store.fields(run.namespace).get(f"{run.id}:reopened"):  # an operator has retried it since
            state.revoked.discard(self.id)
            return True
        return cancel(run.parts.main_store, run.namespace, run.id)

    # -- shutdown, a lost connection --------------------------------------------------------------------------------

    def cancel(self, pool: Any, signal: Any = None, **options: Any) -> None:
        """The child is ended though nobody wants the task ended: another worker carries on at once."""
        if not self.time_start or process.child_of(self) is None:
            super().cancel(pool, signal, **options)
            return
        process.end(self, pool, signal)
        try:
            if self._release(self._run()):
                self._gone()
                return
        except StoreUnavailable as error:
            logger.error("%s[%s]: its lease must run out: %s", self.name, self.id, error)
        self._announce_cancelled(**options)

    def hand_over(self) -> None:
        """The worker waits for its tasks and ends: this one leaves it at its next step boundary."""
        run = self._run()
        if run is None or not self.time_start:
            return
        entry = pack_control(str(run.id), "warm shutdown")
        try:
            # By its process: who has the run by then, as this one has lost it, keeps it.
            run.parts.main_store.control(
                run.namespace, run.id, what="handover", nonce=uuid4().hex, entry=entry, owner=self._process()
            )
        except StepsError as error:
            logger.warning("%s[%s] is not handed over, this worker waits for its end: %s", self.name, self.id, error)

    def give_back(self, pool: Any) -> None:
        """The worker ends now and takes its children along: free what this one holds."""
        if process.child_of(self) is not None and not self._already_cancelled and not self._already_revoked:
            self.cancel(pool)

    def _release(self, run: _Run | None) -> bool:
        """RELEASE: no crash is counted. Returns whether the store knows the run."""
        if run is None:
            return False
        store = run.parts.main_store
        return store.release(run.namespace, run.id, self._process(), 0) or store.status(run.namespace, run.id) is not None

    # -- parts ------------------------------------------------------------------------------------------------------

    def _run(self) -> _Run | None:
        """The run of this message, None where there cannot be one: no store is set, or no namespace can be made."""
        try:
            parts = runtime.of(self._app)
            run = RunId(self._type, self.id, self.replaced_task_nesting)
            return _Run(self.task.namespace_of(self._context), run, parts)
        except StepsError:
            return None

    def _process(self) -> str:
        return process.token_prefix(self.hostname, process.child_of(self) or os.getpid())

    def _verdict(self, run: _Run | None, what: str, reason: str) -> Verdict:
        """VERDICT: the child is dead, the main process speaks for it."""
        if run is None or not self.time_start:
            return _CELERY
        entry = pack_control(str(run.id), reason)
        self._token = f"{self.hostname}/main/{os.getpid()}/{uuid4().hex}"
        return run.parts.main_store.verdict(
            run.namespace, run.id, process=self._process(), what=what, nonce=uuid4().hex, entry=entry, token=self._token
        )

    def _conclude(self, taken: Verdict, outcome: str, error: Exception | None) -> None:
        """Celery has stored the verdict: the run is finished and settled. If this fails, its ticket brings it to the same end."""
        run = self._run()
        if run is None:
            return
        try:
            value = run.parts.codec.encode_failure(error) if error is not None else b""
            binding = run.parts.main_store.bind(run.namespace, run.id, self._token, self._app.main or "")
            journal = Journal(binding, str(run.id))
            journal.absorb(binding.read("-"))
            give_up_children(journal, WorkerChildren(self._app))
            if journal.undoable:
                binding.begin_rollback(uuid4().hex, pack_rollback(str(run.id), outcome, value))
                binding.release(0)
                self._publish(run)
                return
            before, id = f"{taken.fence}-0 {taken.uid}", f"{taken.fence}-1"
            entry = pack_finish(str(run.id), outcome, value)
            if binding.finish_and_settle(before, f"{id} {taken.uid}", id, entry, outcome) is Append.OK:
                self._tell_finished(run, outcome, error)
        except StepsError as trouble:
            logger.warning("%s[%s]: could not be settled yet: %s", self.name, self.id, trouble)
            return
        for head in binding.heads:
            self._publish(run._replace(id=head))

    def _tell_finished(self, run: _Run, outcome: str, error: Exception | None) -> None:
        ear = listening.of(self.task, in_worker=True)
        if "run_finished" in ear.hears:
            attempt = int(run.parts.main_store.fields(run.namespace).get(f"{run.id}:attempts") or 1)
            details = RunDetails(
                task=self.task.name,
                run_id=run.id.id,
                namespace=run.namespace,
                attempt=attempt,
                retries=self._context.retries,
                status=outcome,
                error=Problem.of(error) if error is not None else None,
            )
            ear.listener("run_finished", details)

    def _publish(self, run: _Run | None) -> None:
        if run is not None:
            messages.publish_soon(self._app, run.parts.main_store, run.namespace, run.id)

    def _requeue(self, error: StoreUnavailable) -> None:
        """Nobody can say whether the run is open: the message comes back, and claims before its body."""
        logger.error("%s[%s] goes back to the broker: %s", self.name, self.id, error)
        state.task_ready(self)
        self.reject(requeue=True)

    def _gone(self) -> None:
        """The message has no child any more, and what becomes of its run is told elsewhere."""
        state.task_ready(self)
        # No task-cancelled: monitors would show that over the run, which goes on elsewhere or is told of as revoked.
        self._already_cancelled = True


def give_back(pool: Any) -> None:
    """At the end of a worker, before its pool takes the children along: other workers carry on with what these hold."""
    for request in tuple(state.active_requests):
        if isinstance(request, Request):
            request.give_back(pool)


def hand_over() -> None:
    """A warm shutdown, before the pool waits for its tasks: other workers carry on with what they have left."""
    for request in tuple(state.active_requests):
        if isinstance(request, Request):
            request.hand_over()


def _shutting_down() -> bool:
    return state.should_terminate is not None and state.should_terminate is not False

"""The end of a run that another attempt recorded: given to Celery, settled, or put back over what was stored since."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import states
from celery.exceptions import Ignore

from celery_steps.engine.attempt import Attempt
from celery_steps.engine.refusal import Refused
from celery_steps.errors import StepsError
from celery_steps.store.binding import Binding
from celery_steps.store.replies import Claim
from celery_steps.worker.result import Result

logger = logging.getLogger("celery_steps")

#: As what a run settles, by its outcome.
_STATUS = {
    "succeeded": "succeeded",
    "ignored": "succeeded",
    "replaced": "succeeded",
    "failed": "failed",
    "rejected": "failed",
    "cancelled": "cancelled",
}


class Known:
    """What one delivery makes of an end that is known already."""

    def __init__(self, attempt: Attempt, binding: Binding, result: Result, hold: Callable[[Binding], None]) -> None:
        self._attempt = attempt
        self._binding = binding
        self._store = binding.store
        self._result = result
        self._hold = hold

    def answer(self, claim: Claim) -> Any:
        """The claim was refused. Returns the recorded result, or raises Ignore: the ticket brings the run back, or it is over."""
        if claim.verdict == "SETTLING" and self._result.wrote_open:
            time.sleep(min(claim.wait, 500) / 1000)  # our STARTED may lie over the final state: look again
            try:
                self._attempt.open()
            except Refused as refused:
                return self.answer(refused.claim)
        if claim.verdict == "SETTLED" and self._result.wrote_open:
            self._restore(claim.detail.split()[0])
        if claim.verdict == "FINISHED":
            return self._settle_known(claim.detail)
        raise Ignore(f"The run is {claim.verdict.lower()}.")

    def put_back(self) -> None:
        """We stalled for longer than the lease, and stored a state all the same: another attempt's end is put back."""
        patience = time.monotonic() + self._store.settings.lease_ttl
        try:
            while f"{self._binding.run}:outcome" in (fields := self._store.fields(self._binding.namespace)):
                settled = fields.get(f"{self._binding.run}:settled")
                if settled is not None:
                    self._attempt.journal.absorb(self._binding.read("-"))
                    return self._restore(settled)
                if time.monotonic() > patience:  # who was storing it has crashed: the ticket brings it again
                    return None
                time.sleep(0.1)  # until the one who is storing its end has settled
        except StepsError as trouble:
            logger.warning("%s[%s]: its state may be out of date: %s", self._binding.run.task, self._binding.run.id, trouble)

    def _settle_known(self, entry_id: str) -> Any:
        # Without its run hash, a run that was reopened is taken to have ended as it did before that: what became of it is lost.
        finish = self._attempt.journal.finishes.get(self._attempt.run)
        if entry_id == "lost" or finish is None:
            if self._result.state() not in states.READY_STATES:
                raise self._attempt.journal.lost()
            self._result.count_for_chord()
            self._binding.settle("failed")
            raise Ignore("The run's journal was lost.")
        if finish.outcome == "succeeded":
            if self._result.state() not in states.READY_STATES:
                self._hold(self._binding)
                return self._result.decoded(finish.value)  # to Celery once more, which sends callbacks and stores it
            self._result.count_for_chord()
        self._binding.settle(_STATUS[finish.outcome])
        raise Ignore("The run is finished.")

    def _restore(self, status: str) -> None:
        """What was stored over another attempt's end, which is settled, is replaced by that end."""
        finish = self._attempt.journal.finishes.get(self._attempt.run)
        if finish is not None and finish.outcome == "succeeded":
            self._result.put_back(states.SUCCESS, self._result.decoded(finish.value))
        elif finish is not None and status == "failed":
            self._result.put_back(states.FAILURE, self._attempt.codec.decode_failure(finish.value))
        elif finish is not None and status == "cancelled":
            self._result.revoke()

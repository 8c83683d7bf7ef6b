"""Why a delivery does not go on: its namespace was not claimed, or its run is to end before the body does anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_steps.engine import entries as fmt
from celery_steps.errors import AttemptEnded, InputMismatch, RunCancelled, RunRefused, TooManyCrashes
from celery_steps.store.replies import Claim

if TYPE_CHECKING:
    from celery_steps.engine.attempt import Attempt


class Refused(AttemptEnded):
    """The namespace was not claimed; `claim` says why."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(f"The namespace was not claimed: {claim.verdict}.")
        self.claim = claim


def refuse_to_go_on(attempt: Attempt, claim: Claim) -> None:
    """Raise what ends a run that was claimed, before its body does anything."""
    journal = attempt.journal
    if journal.rollback is not None:  # it only undoes
        return
    if journal.verdict:  # the main process ended before Celery had stored it
        attempt.ended = RunRefused(journal.verdict)
        raise attempt.ended
    if journal.cancelled or claim.cancelled:
        raise RunCancelled
    if claim.crashes >= attempt.max_crashes:
        step = f"in step {journal.in_flight[0]!r} (occurrence {journal.in_flight[1]})" if journal.in_flight else "before any step"
        attempt.ended = TooManyCrashes(
            f"The run {attempt.run_id} in namespace {attempt.namespace!r} crashed {claim.crashes} times in a row without "
            f"recording anything new, last {step}. steps_max_crashes is {attempt.max_crashes}."
        )
        raise attempt.ended
    first = journal.calls.get(attempt.task)
    if first is not None and first.run != attempt.run and first.digest != attempt.call_digest():
        raise InputMismatch(
            f"Namespace {attempt.namespace!r} was begun by task {attempt.task} with other arguments: recorded hash "
            f"{fmt.hash_text(first.digest)}, this call's hash {fmt.hash_text(attempt.call_digest())}. "
            "Use another namespace, or the same arguments."
        )

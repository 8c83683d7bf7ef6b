"""`step.patched`: tells a body whether its run began with this code."""

from __future__ import annotations

from typing import Any

from celery_steps.codec import PLAIN
from celery_steps.engine import entries as fmt
from celery_steps.engine import news
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.once import check_verb
from celery_steps.errors import StepsError


def patched(attempt: Attempt, name: str) -> bool:
    """The answer is recorded when it is asked for first, and holds for the run."""
    if not isinstance(name, str) or not name.strip():
        raise StepsError(f"step.patched: the name of a change must be text that is not blank, not {name!r:.80}.")
    attempt.enter("patched")
    identity = (f"patched {name}", 1)
    where: dict[str, Any] = {"namespace": attempt.namespace, "key": identity[0], "sequence": 1}
    recorded = attempt.journal.steps.get(identity)
    if recorded is not None:
        check_verb(attempt.namespace, recorded, "patched")
        news.of_replay(attempt, recorded)
        return bool(attempt.codec.decode(recorded.value, hint=PLAIN, **where))
    began_here = not attempt.replaying and not _waits_further_on(attempt)
    value = attempt.codec.encode(began_here, hint=PLAIN, **where)
    attempt.append([("step", fmt.pack_step(identity, None, True, value, None, attempt.clock(), 0, "patched"))])
    news.of_step(attempt, "step_executed", identity, "patched", attempt.clock(), 0)
    return began_here


def _waits_further_on(attempt: Attempt) -> bool:
    """Whether the run has begun to wait at a place that this attempt has not come to."""
    journal = attempt.journal
    return any(
        identity not in journal.steps and attempt.seen.get((attempt.namespace, identity[0]), 0) < identity[1]
        for identity in journal.waits
    )

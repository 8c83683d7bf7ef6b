"""What an attempt tells the one who listens: signals, monitors and metrics are made of it elsewhere.

Everything is told after it is recorded. Where nobody listens, nothing is made.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from celery_steps.details import Awaited, Problem, RunDetails, StepDetails, at
from celery_steps.engine.entries import Identity, Step

if TYPE_CHECKING:
    from celery_steps.engine.attempt import Attempt

#: Called with the name of what has happened and its details; raises only what ends the task.
Listener = Callable[[str, StepDetails | RunDetails], None]


def of_step(
    attempt: Attempt,
    name: str,
    identity: Identity,
    verb: str,
    began: int,
    took: int,
    *,
    namespace: str = "",
    error: BaseException | None = None,
    recorded: bool = True,
    next_try: int = 0,
) -> None:
    """Tell of a step: step_executed, step_replayed, step_failed.

    `began` is in ms since the attempt's fence, `took` in ms, `next_try` in ms since 1970, or 0.
    """
    if name in attempt.hears:
        began_at = datetime.now(timezone.utc) + timedelta(seconds=began / 1000 - attempt.elapsed())
        _tell(attempt, name, identity, verb, began_at, took, namespace, error, recorded, next_try)


def _tell(
    attempt: Attempt,
    name: str,
    identity: Identity,
    verb: str,
    began_at: datetime,
    took: int,
    namespace: str = "",
    error: BaseException | None = None,
    recorded: bool = True,
    next_try: int = 0,
) -> None:
    key, sequence = identity
    details = StepDetails(
        task=attempt.task,
        run_id=attempt.run_id,
        namespace=namespace or attempt.namespace,
        attempt=attempt.number,
        key=key,
        sequence=sequence,
        verb=verb,
        began_at=began_at,
        took_ms=took,
        error=Problem.of(error) if error is not None else None,
        recorded=recorded,
        next_try=at(next_try),
    )
    attempt.listener(name, details)


def of_replay(attempt: Attempt, step: Step, namespace: str = "") -> None:
    """Tell that a recorded outcome is met again."""
    if "step_replayed" in attempt.hears:
        where: dict[str, Any] = {"namespace": namespace or attempt.namespace, "key": step.key, "sequence": step.sequence}
        error = None if step.ok else attempt.codec.decode_failure(step.value, **where)
        began_at = datetime.fromtimestamp((step.occurred_at_ms - step.took) / 1000, timezone.utc)
        _tell(attempt, "step_replayed", (step.key, step.sequence), step.verb, began_at, step.took, namespace, error)


def of_run(
    attempt: Attempt,
    name: str,
    status: str,
    *,
    waits: tuple[Awaited, ...] = (),
    wake: int = 0,
    error: BaseException | None = None,
) -> None:
    """Tell of the run: run_started, run_resumed, run_suspended, run_finished, lease_lost. `wake` is in ms since 1970."""
    if name not in attempt.hears:
        return
    details = RunDetails(
        task=attempt.task,
        run_id=attempt.run_id,
        namespace=attempt.namespace,
        attempt=attempt.number,
        retries=attempt.retries,
        status=status,
        took_ms=attempt.clock() if attempt.heard else 0,
        waits=waits,
        until=at(wake),
        error=Problem.of(error) if error is not None else None,
    )
    attempt.listener(name, details)


def of_waiting(attempt: Attempt, status: str, wake: int, info: dict[str, Any]) -> None:
    """Tell that the run has left its worker; `info` is what Celery's state SUSPENDED shows."""
    if "run_suspended" in attempt.hears:
        told = info.get("waits", [info])
        waits = tuple(Awaited(str(one.get("key", "")), str(one["waiting_for"]), _read(one.get("until"))) for one in told)
        of_run(attempt, "run_suspended", status, waits=waits, wake=wake)


def _read(until: str | None) -> datetime | None:
    return datetime.fromisoformat(until) if until else None

"""Records as people look at them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery_steps.codec import PLAIN, Codec
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.entries import Step, hash_text
from celery_steps.engine.identity import check_namespace
from celery_steps.engine.standing import Standing


def inspect_namespace(attempt: Attempt, namespace: str | None) -> list[dict[str, Any]]:
    """The completed records of the attempt's own journal, or of another namespace's as it is now."""
    if namespace is None or check_namespace(namespace, "step.inspect's namespace") == attempt.namespace:
        return records(attempt.namespace, attempt.journal.steps.values(), attempt.codec)
    there = Standing(attempt.run)
    there.absorb(attempt.store.elsewhere(namespace).read("-"))
    return records(namespace, there.steps.values(), attempt.codec)


def records(namespace: str, steps: Iterable[Step], codec: Codec) -> list[dict[str, Any]]:
    """Steps with their values decoded."""
    return [_record(namespace, step, codec) for step in steps]


def _record(namespace: str, step: Step, codec: Codec) -> dict[str, Any]:
    where: dict[str, Any] = {"namespace": namespace, "key": step.key, "sequence": step.sequence}
    return {
        "event_id": step.id,
        **where,
        "verb": step.verb,
        "deterministic_inputs_hash": hash_text(step.digest),
        "input": None if step.input is None else codec.decode(step.input, hint=PLAIN, **where),
        "result": codec.decode(step.value, hint=PLAIN, **where) if step.ok else None,
        "error": None if step.ok else codec.decode_failure(step.value, **where),
        "occurred_at_ms": step.occurred_at_ms,
        "took_ms": step.took,
        "reference": None if step.reference is None else codec.decode(step.reference, hint=PLAIN, **where),
    }

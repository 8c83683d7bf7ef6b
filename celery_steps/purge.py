"""Forgetting finished runs."""

from __future__ import annotations

from collections.abc import Sequence

from celery_steps.errors import RunRefused
from celery_steps.lookup import Lookup
from celery_steps.store.index import Index
from celery_steps.store.keys import OPEN


def everywhere(index: Index, wanted: Sequence[str], until: int) -> int:
    """Runs with these statuses that changed last before `until`, in ms. Returns how many."""
    purged = 0
    while batch := index.oldest(wanted, until):
        dropped = index.purge(batch)
        purged += dropped
        if not dropped:
            break
    return purged


def one_namespace(lookup: Lookup, name: str, wanted: Sequence[str], until: int, *, all_of_it: bool) -> int:
    """Runs of a namespace, or of a task id; with `all_of_it` none of them may be unfinished. Returns how many."""
    index = lookup.index
    namespace, runs = lookup.find(name)
    heads = index.heads([(namespace, run) for run in runs])
    if not runs:
        raise lookup.none(name)
    for run, head in zip(runs, heads, strict=True):
        if all_of_it and head.get("status") in OPEN:
            raise RunRefused(
                f"Run {run.id} ({run.task}) in namespace {namespace!r} is {head['status']}: only finished runs can be "
                "purged. Wait for its end, or revoke it."
            )
    return index.purge(
        [
            (head["status"], namespace, run)
            for run, head in zip(runs, heads, strict=True)
            if head.get("status") in wanted and int(head["changed"]) <= until
        ]
    )

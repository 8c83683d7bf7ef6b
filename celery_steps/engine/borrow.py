"""Another namespace's journal, owned for one step."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from celery_steps.engine import entries as fmt
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.journal import Journal
from celery_steps.engine.pause import suspend
from celery_steps.errors import StoreLost, StoreUnavailable
from celery_steps.store.replies import Append

GiveBack = Callable[[Sequence[tuple[str, bytes]]], None]

#: Seconds for which a busy namespace is waited for in the worker, before the run suspends.
_PATIENCE = 1.0


def borrowed(attempt: Attempt, namespace: str, key: str, inside: Callable[[Journal, GiveBack], Any]) -> Any:
    """What `inside` returns, called with the journal of `namespace` while this attempt owns it, for the step `key` only.

    So two runs that use each other's namespaces cannot deadlock. `inside` gets a function that appends its entries and gives the
    namespace back. Suspends the run if the namespace stays busy.
    """
    store = attempt.store.elsewhere(namespace)
    journal = Journal(store, attempt.run)
    _claim(attempt, namespace, key, journal)
    given_back = False

    def give_back(entries: Sequence[tuple[str, bytes]]) -> None:
        nonlocal given_back

        def send(before: str, after: str, ids: list[str]) -> Append:
            return store.giveback(before, after, [(id, *entry) for id, entry in zip(ids, entries, strict=True)])

        if entries:
            attempt.leaving(lambda: journal.write(send, entries))
        else:
            attempt.leaving(lambda: store.giveback("", "", []))
        given_back = True

    attempt.opened(store)
    try:
        return inside(journal, give_back)
    finally:
        attempt.closed(store)
        if not given_back and not isinstance(attempt.ended, StoreLost):
            attempt.leaving(lambda: store.giveback("", "", []))


def _claim(attempt: Attempt, namespace: str, key: str, journal: Journal) -> None:
    entry = fmt.pack_call(attempt.token, attempt.run, attempt.task, None, attempt.retries)
    until = attempt.timer.monotonic() + _PATIENCE
    while True:
        try:
            claim = journal.borrow(entry)
        except StoreUnavailable as error:
            attempt.ended = StoreLost(str(error))
            raise attempt.ended from error
        if claim.verdict == "OK":
            return
        if claim.verdict == "LOST":
            raise journal.lost()
        if attempt.timer.monotonic() > until:
            # Jitter: two runs that each wait for the other's namespace must not come back in step.
            info = {"waiting_for": f"namespace {namespace}", "key": key}
            suspend(attempt, f"namespace {namespace!r}", attempt.now_ms() + random.randint(500, 2000), info)
        attempt.timer.sleep(random.uniform(0.01, 0.05))  # short waits for a busy namespace stay in the worker

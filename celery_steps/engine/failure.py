"""Steps without result, and which of them are to blame for what leaves a body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_steps.engine.entries import Identity

if TYPE_CHECKING:
    from celery_steps.engine.attempt import Attempt


@dataclass(eq=False, slots=True)
class Failure:
    """A step without result, on its way to the body: a handler's exception, or a branch that was given up."""

    identity: Identity
    error: Exception
    pack: Callable[[], bytes]
    commit: Callable[[Sequence[tuple[str, bytes]]], None]
    cause: BaseException  # if this leaves the body, the step is tried again
    called: bool = True  # its handler


def to_blame(attempt: Attempt, error: BaseException | None) -> tuple[list[Identity], list[Identity]]:
    """Steps whose recorded failure is what left the body, and the one whose failure is not recorded yet."""
    chain: list[BaseException] = []
    todo = [error]
    while todo:
        link = todo.pop()
        if link is not None and not any(link is known for known in chain):
            chain.append(link)
            todo += (link.__cause__, link.__context__, getattr(link, "exc", None), *getattr(link, "exceptions", ()))
    reopened = [
        identity
        for raised, identity in attempt.raised
        if identity not in attempt.journal.once and any(raised is link for link in chain)
    ]
    reopened += [
        failure.identity for failure in attempt.failures if not failure.called and failure.identity not in attempt.journal.once
    ]
    return list(dict.fromkeys(reopened)), [failure.identity for failure in attempt.failures if failure.called]

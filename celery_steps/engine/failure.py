"""Steps without result, and which of them are to blame for what leaves a body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_steps.engine import news
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
    verb: str = "run"
    began: int = 0  # ms after the attempt's fence
    took: int = 0  # ms
    namespace: str = ""  # "": the run's

    def tell(self, attempt: Attempt, *, recorded: bool) -> None:
        """Tell who listens, once it is recorded; or not `recorded`, but the attempt that it has ended."""
        when, where, error = (self.began, self.took), self.namespace, self.error
        news.of_step(attempt, "step_failed", self.identity, self.verb, *when, namespace=where, error=error, recorded=recorded)


def record(attempt: Attempt, failures: Sequence[Failure]) -> None:
    """These failures are their steps' outcomes: recorded in one commit."""
    for failure in failures:
        attempt.raised += [(failure.error, failure.identity), (failure.cause, failure.identity)]
    told = failures
    try:
        failures[0].commit([("step", failure.pack()) for failure in failures])
    except BaseException:  # a signal in the middle of a commit comes after it
        told = [failure for failure in failures if failure.identity in attempt.journal.steps]
        raise
    finally:
        for failure in told:
            failure.tell(attempt, recorded=True)


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

"""Runs without Celery and without Redis: the engine over a journal in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from celery_steps.codec import Codec
from celery_steps.engine.attempt import Attempt, current
from celery_steps.engine.memory import MemoryStore

T = TypeVar("T")


class Retry(Exception):
    """Stands for Celery's exception, which is no failure of a step."""


class Run:
    """One run; each `attempt` executes a body over the same journal."""

    def __init__(
        self, namespace: str = "order-42", task: str = "shop.fulfil", store: MemoryStore | None = None, **options: Any
    ) -> None:
        self.store = store or MemoryStore(namespace)
        self.task = task
        self.options = options
        self.retries = 0
        self.last: Attempt | None = None

    def attempt(self, body: Callable[[], T]) -> T:
        """One delivery. What leaves the body leaves this, as Celery would see it; a failure is retried by the next call."""
        attempt = Attempt(
            store=self.store,
            run=f"{self.task}/id-1/0",
            run_id="id-1",
            task=self.task,
            token=f"token-{self.retries}",
            codec=self.options.get("codec") or Codec(),
            retries=self.retries,
            passing=(Retry,),
            prompt=self.options.get("prompt", ()),
            record_input=self.options.get("record_input", True),
        )
        self.last = attempt
        token = current.set(attempt)
        try:
            result = body()
            if attempt.owner:
                attempt.finish("succeeded", b"")
            return result
        except Exception as error:
            self.retries += 1
            if attempt.owner:
                attempt.retry(0, self.retries, b"", error)
            raise
        finally:
            attempt.active = False
            current.reset(token)

    @property
    def records(self) -> list[tuple[str, int]]:
        """The identities of recorded steps, in the order of the journal."""
        from celery_steps.engine.entries import read_step

        return [(step.key, step.sequence) for step in (read_step(e) for e in self.store.entries if e.kind == "step")]


class Calls(list[Any]):
    """A handler that notes its calls."""

    def __init__(self, outcome: Any = None) -> None:
        super().__init__()
        self.outcome = outcome

    def __call__(self, value: Any = None) -> Any:
        self.append(value)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return value if self.outcome is None else self.outcome


@pytest.fixture
def run() -> Iterator[Run]:
    yield Run()
    assert current.get() is None

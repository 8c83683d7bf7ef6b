"""Public usage, type-checked strictly: `mypy --strict tests/typing`. Never run."""

from __future__ import annotations

from functools import partial

from typing_extensions import assert_type

from celery_steps import DurableTask, current_step, step
from celery_steps.engine.parallel import Future
from celery_steps.signals import Awaited, Problem, RunDetails, StepDetails, run_suspended, step_executed


def length(text: str) -> int:
    return len(text)


async def fetch(url: str) -> bytes:
    return url.encode()


async def now() -> float:
    return 0.0


def charge(card: str, cents: int) -> str:
    return f"{card}{cents}"


def body(self: DurableTask) -> None:
    assert_type(self.step.run("k", "text", length), int)
    assert_type(step.run("k", lambda: 1.5), float)
    assert_type(step.run("k", "url", fetch), bytes)
    assert_type(step.run("k", now), float)
    assert_type(step.run("k", partial(charge, "visa", cents=5)), str)
    assert_type(step.run("k", "input", lambda: 1, namespace="order-1", record_input=False), int)
    step.run("k", 5, length)  # type: ignore[arg-type]
    step.run("k", length)  # type: ignore[arg-type]
    step.run("k", now, retrun=int)  # type: ignore[call-overload]
    step.log.info("charged", cents=100)
    step.log.warning(5)  # type: ignore[arg-type]
    step.progress(1, 3, message="loaded", rows=7)
    step.progress("1")  # type: ignore[arg-type]
    with step.parallel(max_workers=3, return_exceptions=True) as p:
        assert_type(p.run("k", "text", length), Future[int])
        assert_type(p.run("k", now), Future[float])
        assert_type(p.map("k", ["url"], fetch), list[Future[bytes]])
        assert_type(p.sleep("nap", "1h"), Future[None])
        p.run("k", "text", length, namespace="order-1")  # type: ignore[call-overload]
        p.map("k", [1], length)  # type: ignore[arg-type]
    assert_type(step.run_id, str)
    assert_type(step.attempt, int)
    assert_type(self.step.replaying, bool)
    assert_type(current_step().idempotency_key, str)


@step_executed.connect
def on_step(sender: DurableTask, details: StepDetails, **kwargs: object) -> None:
    assert_type(details.took_ms, int)
    assert_type(details.error, Problem | None)


@run_suspended.connect
def on_suspended(sender: DurableTask, details: RunDetails, **kwargs: object) -> None:
    assert_type(details.waits, tuple[Awaited, ...])

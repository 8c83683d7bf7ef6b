"""Public usage, type-checked strictly: `mypy --strict tests/typing`. Never run."""

from __future__ import annotations

from functools import partial

from typing_extensions import assert_type

from celery_steps import DurableTask, current_step, step


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
    assert_type(current_step().idempotency_key, str)

"""Handlers and bodies that use threads and event loops of their own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Generator

import pytest

from celery_steps import NoActiveRun, StepsError, step
from engine.conftest import Run


def test_a_thread_that_copied_the_context_of_its_task_has_no_active_run(run: Run) -> None:
    caught: list[NoActiveRun] = []

    def elsewhere() -> None:
        try:
            step.run("in the thread", pytest.fail)
        except NoActiveRun as error:
            caught.append(error)

    def body() -> int:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(elsewhere,))
        thread.start()
        thread.join()
        return step.run("in the body", lambda: 1)

    assert run.attempt(body) == 1
    (error,) = caught
    assert "thread" in str(error)
    assert run.records == [("in the body", 1)]


def test_an_async_handler_that_was_interrupted_does_not_go_on_beside_the_next(run: Run) -> None:
    noted: list[str] = []

    def signal() -> None:
        raise KeyboardInterrupt

    async def interrupted() -> None:
        asyncio.get_running_loop().call_soon(signal)
        try:
            await asyncio.Event().wait()
        finally:
            noted.append("cancelled")

    async def following() -> int:
        return len(asyncio.all_tasks())

    with pytest.raises(KeyboardInterrupt):
        run.attempt(lambda: step.run("first", interrupted))
    assert noted == ["cancelled"]
    assert run.attempt(lambda: step.run("second", following)) == 1


def test_async_handlers_that_overlap_in_one_thread_are_refused(run: Run) -> None:
    class Answer:
        def __await__(self) -> Generator[None, None, int]:
            yield from ()
            return 1

    async def loop_of_another() -> None:
        with pytest.raises(StepsError, match="overlap in one thread"):
            run.attempt(lambda: step.run("k", Answer))

    asyncio.run(loop_of_another())
    assert run.attempt(lambda: step.run("k", Answer)) == 1

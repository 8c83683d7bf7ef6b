"""A process is stopped for longer than its lease and wakes up: what it does then is refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from celery.result import AsyncResult

from servers import RedisServer, wait_until
from worker.workers import Stage


class Zombies:
    """Processes that are stopped, and told to go on at the latest when the test ends."""

    def __init__(self) -> None:
        self._stopped: list[psutil.Process] = []

    def stop(self, pid: int) -> None:
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        self._stopped.append(process)

    def wake(self) -> None:
        for process in self._stopped:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
        self._stopped.clear()


@pytest.fixture
def zombies() -> Iterator[Zombies]:
    zombies = Zombies()
    yield zombies
    zombies.wake()


@pytest.fixture
def stage(stage_on: Callable[..., Stage], start_redis: Callable[..., RedisServer], zombies: Zombies) -> Stage:
    return stage_on(start_redis())


def records(stage: Stage, result: AsyncResult) -> list[Any]:
    return list(stage.store.entries(result.id))


def wait_until_refused(stage: Stage, result: AsyncResult) -> None:
    def is_refused() -> bool:
        lines = "\n".join(worker.text() for worker in stage.workers).splitlines()
        return any(result.id in line and "Another attempt owns the namespace" in line for line in lines)

    wait_until(is_refused, message="the process that woke up is refused")


@pytest.mark.parametrize("whole_worker", [False, True], ids=["a child", "a worker with its child"])
def test_what_a_process_has_done_while_it_was_replaced_is_not_recorded(
    stage: Stage, zombies: Zombies, whole_worker: bool
) -> None:
    result = stage.send("three", "two")
    first = stage.start(concurrency=1)
    zombie = stage.wait_for(result, "two")
    zombies.stop(zombie)
    if whole_worker:
        zombies.stop(first.process.pid)
    stage.start(concurrency=1)
    stage.wait_for(result, "two", times=2)
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two", "three"]
    stage.wait_until_settled(result, "succeeded")

    def effects() -> list[object]:  # of the steps: the task's hooks come after its result
        return [stage.effects(result, what) for what in ("one", "two", "three")]

    recorded, stored, done = records(stage, result), result.backend.get(f"celery-task-meta-{result.id}"), effects()
    zombies.wake()
    wait_until_refused(stage, result)
    stage.wait_until_idle()
    assert records(stage, result) == recorded
    assert result.backend.get(f"celery-task-meta-{result.id}") == stored
    assert effects() == done


def test_a_process_that_was_replaced_starts_no_further_step(stage: Stage, zombies: Zombies) -> None:
    result = stage.send("three", "two")
    stage.start(concurrency=2)
    zombies.stop(stage.wait_for(result, "two"))
    owner = stage.wait_for(result, "two", times=2)
    zombies.wake()
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two", "three"]
    wait_until_refused(stage, result)
    assert [effect.pid for effect in stage.effects(result, "three")] == [owner]
    kinds = [entry.kind for entry in records(stage, result)]
    assert kinds.count("step") == 3
    stage.wait_until_settled(result, "succeeded")


def test_a_process_that_wakes_between_two_steps_asks_before_it_calls_the_next_handler(stage: Stage, zombies: Zombies) -> None:
    result = stage.send("between")
    stage.start(concurrency=2)
    zombies.stop(stage.wait_for(result, "body"))
    stage.wait_for(result, "body", times=2)
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two"]
    stage.wait_until_settled(result, "succeeded")
    zombies.wake()
    wait_until_refused(stage, result)
    assert [what for what in stage.did(result) if what != "body"] == ["one", "two"]

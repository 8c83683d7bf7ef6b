"""Budget 5: what durability adds to tasks on a real prefork worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from celery import Celery, chain

from celery_steps import DurableTask

Row = tuple[str, str, str]

URL = os.environ.get("STEPS_BENCH_URL", "redis://127.0.0.1:6379")
app = Celery("bench", broker=f"{URL}/2", backend=f"{URL}/3")
app.conf.update(steps_backend=f"{URL}/4", worker_prefetch_multiplier=16, broker_connection_retry_on_startup=True)


@app.task(acks_late=True)
def bare(number: int) -> int:
    return number


@app.task(base=DurableTask)
def no_steps(number: int) -> int:
    return number


@app.task(bind=True, base=DurableTask)
def steps(self: DurableTask, count: int) -> int:
    return sum(self.step.run("k", number, lambda value: value) for number in range(count))


@app.task(acks_late=True)
def link(number: int) -> int:
    return number + 1


@contextmanager
def worker(url: str) -> Iterator[None]:
    environment = {**os.environ, "STEPS_BENCH_URL": url}
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.workers", "worker", "-c", "1", "-l", "error", "--without-gossip"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def timed(send: Callable[[], Any]) -> float:
    start = time.perf_counter()
    send()
    return time.perf_counter() - start


def many(task: Any, argument: int, count: int) -> Callable[[], Any]:
    """Seconds for `count` calls that the worker has one after the other, divided by the caller."""
    return lambda: [result.get(timeout=60) for result in [task.delay(argument) for _ in range(count)]]


def measure() -> list[Row]:
    bare.delay(1).get(timeout=30)
    times: dict[str, list[float]] = {"bare": [], "no_steps": [], "ten": [], "hundred": [], "chain": []}
    for _ in range(7):  # in turn, so that drift meets all alike
        times["bare"].append(timed(many(bare, 1, 200)) / 200)
        times["no_steps"].append(timed(many(no_steps, 1, 200)) / 200)
        times["ten"].append(timed(many(steps, 10, 200)) / 200)
        times["hundred"].append(timed(lambda: steps.delay(100).get(timeout=60)))
        times["chain"].append(timed(lambda: chain(link.s(0), *(link.s() for _ in range(99))).delay().get(timeout=60)))
    m = {name: median(values) for name, values in times.items()}
    return [
        ("5 ten steps add", f"{(m['ten'] - m['bare']) * 1e3:.2f} ms to {m['bare'] * 1e3:.2f} ms", "≤ 1 ms"),
        ("5 a hundred steps", f"{m['chain'] / m['hundred']:.0f} × faster than a chain of 100", "≥ 25 ×"),
        ("5 durable without steps", f"{m['no_steps'] / m['bare']:.3f} × a plain task", "≤ 1.02 ×"),
    ]

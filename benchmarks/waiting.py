"""What waiting costs: runs asleep, all due at once, and how late one wakes up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import quantiles

import redis
from celery import Celery

from celery_steps import DurableTask, Runs
from celery_steps.worker.sweeper import sweep

Row = tuple[str, str, str]

URL = os.environ.get("STEPS_BENCH_URL", "redis://127.0.0.1:6379")
app = Celery("bench-waiting", broker=f"{URL}/5", backend=f"{URL}/6")
app.conf.update(
    steps_backend=f"{URL}/7",
    steps_sweep_interval=1,
    worker_prefetch_multiplier=16,
    broker_connection_retry_on_startup=True,
)
_RUNS = int(os.environ.get("STEPS_BENCH_RUNS", "10000"))


@app.task(bind=True, base=DurableTask, ignore_result=True)
def sleeper(self: DurableTask, until: float) -> None:
    """Sleeps until then."""
    self.step.sleep_until("nap", until)


@app.task(bind=True, base=DurableTask)
def late(self: DurableTask, seconds: float) -> float:
    """How late it wakes up, in seconds; the measurement's clock is Redis's."""
    begun = self.step.run("begun", time.time)
    self.step.sleep("nap", seconds)
    return time.time() - begun - seconds


@contextmanager
def worker(url: str, concurrency: int) -> Iterator[None]:
    environment = {**os.environ, "STEPS_BENCH_URL": url}
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.waiting", "worker", "-c", str(concurrency), "-l", "error"]
    process = subprocess.Popen([*command, "--without-gossip"], env=environment, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _until(what: str, condition: Callable[[], bool], limit: float = 900) -> float:
    """Seconds until then."""
    start = time.perf_counter()
    while not condition():
        if time.perf_counter() - start > limit:
            sys.exit(f"gave up after {limit:.0f} s of waiting for {what}: {Runs(app).stats()}")
        time.sleep(0.05)
    return time.perf_counter() - start


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _due() -> float:
    """When all will be asleep for sure, by how long a part of them takes."""
    took = 0.0
    for part in (1, _part()):  # the first waits for the worker to start
        done = _count("succeeded") + part
        start = time.perf_counter()
        for _ in range(part):
            sleeper.apply_async((0.0,))
        _until("a first part", lambda done=done: _count("succeeded") == done)
        took = time.perf_counter() - start
    return time.time() + 60 + 6 * took * _RUNS / _part()  # other work on the machine may slow it down


def _part() -> int:
    return max(10, _RUNS // 50)


def _count(status: str) -> int:
    return Runs(app).stats().runs[status]


def _asleep(until: float) -> None:
    for _ in range(_RUNS):
        sleeper.apply_async((until,))
    _until("all asleep", lambda: _count("suspended") == _RUNS, until - time.time())


def asleep(url: str) -> list[Row]:
    """10,000 sleepers: what is in the broker and in Redis for them; then all are due."""
    store, broker = redis.Redis.from_url(f"{url}/7"), redis.Redis.from_url(f"{url}/5")
    before = int(store.info("memory")["used_memory"])
    with worker(url, 2):
        due = _due()
        _asleep(due)
        _until("the last acknowledgement", lambda: not broker.exists("unacked"))
        queued = int(broker.llen("celery"))
        used = int(store.info("memory")["used_memory"]) - before
        _until("the time", lambda: time.time() >= due)
        drained = _until("the end", lambda: _count("suspended") == 0 and _count("running") == 0)
        lost = _RUNS + _part() + 1 - _count("succeeded")
    return [
        (f"9 {_RUNS:,} runs asleep", f"{queued} messages in the broker, {used / _RUNS:,.0f} B in Redis a run", "0 messages"),
        ("9 all due at once", f"{_RUNS / drained:,.0f} runs/s ended by two processes, {lost} lost", "reported"),
    ]


def published(url: str) -> list[Row]:
    """The sweeper alone: what it publishes in a second."""
    broker = redis.Redis.from_url(f"{url}/5")
    with worker(url, 2):
        due = _due()
        _asleep(due)
    _until("the time", lambda: time.time() >= due + 1)
    start = time.perf_counter()
    found = sweep(app).published
    took = time.perf_counter() - start
    plain = timed(lambda: [app.send_task("bench.plain", (1.0,), ignore_result=True, queue="plain") for _ in range(1000)])
    lost = _RUNS - int(broker.llen("celery"))
    measured = f"{found / took:,.0f} messages/s, {lost} lost; send_task alone {1000 / plain:,.0f}/s"
    return [("9 sweeper publishes", measured, "as plain tasks are sent")]


def lateness(url: str) -> list[Row]:
    """Sleeps of between one and two seconds on an idle worker."""
    with worker(url, 2):
        late.delay(0).get(timeout=30)
        results = []
        for n in range(100):
            results.append(late.delay(1.01 + n / 100))
            time.sleep(0.05)
        behind = sorted(result.get(timeout=30) for result in results)
    cuts = quantiles(behind, n=100)
    return [("9 wakes up late by", f"p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms", "≤ 1 s")]


def measure(url: str) -> list[Row]:
    rows = lateness(url)
    rows += published(url)
    for database in (5, 6, 7):
        redis.Redis.from_url(f"{url}/{database}").flushdb()
    return rows + asleep(url)

"""Budgets 1 to 3 and 7: commands, a fresh step against PING, replay, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

import redis

from celery_steps import step
from celery_steps.codec import Codec
from celery_steps.engine.attempt import Attempt, current
from celery_steps.settings import Settings
from celery_steps.store.client import Client
from celery_steps.store.keys import RunId
from celery_steps.store.store import Store

Row = tuple[str, str, str]


class CountingClient(Client):
    """Counts round trips and commands."""

    trips = 0
    commands = 0

    def _once(self, commands: Sequence[Any]) -> list[Any]:
        self.trips += 1
        self.commands += len(commands)
        return super()._once(commands)


def open_attempt(store: Store, id: str) -> Attempt:
    """A new attempt at run `id`, current in this context."""
    run = RunId("bench.task", id)
    token = f"bench/{time.time_ns()}"
    attempt = Attempt(
        store=store.bind(id, run, token, "bench"), run=str(run), run_id=id, task=run.task, token=token, codec=Codec()
    )
    current.set(attempt)
    return attempt


def handler(value: int) -> int:
    return value


def run_steps(count: int) -> None:
    for number in range(count):
        step.run("k", number, handler)


def commands(url: str) -> list[Row]:
    client = CountingClient(url)
    store = Store(Settings(backend=url), client)
    open_attempt(store, "warm").open()
    run_steps(1)

    def count(act: Any) -> tuple[int, int]:
        before = client.trips, client.commands
        act()
        return client.trips - before[0], client.commands - before[1]

    attempt = open_attempt(store, "counted")
    claim = count(attempt.open)[0]
    fresh = count(lambda: run_steps(1))[1]
    attempt.store.release(0)
    attempt = open_attempt(store, "counted")
    attempt.open()
    replayed = count(lambda: run_steps(1))[1]
    client.script("finish"), client.script("settle")
    finish = count(lambda: attempt.finish("succeeded", b""))[1]
    settle = count(lambda: attempt.settle("succeeded"))[1]
    measured = f"fresh {fresh}, replayed {replayed}, claim + journal {claim} round trip, finish {finish}, settle {settle}"
    return [("1 commands", measured, "1, 0, 1, 1, 1")]


def fresh(url: str, cores: str, budget: str) -> list[Row]:
    """A fresh step and a PING through redis-py, in turn."""
    store, ping = Store(Settings(backend=url)), redis.Redis.from_url(url).ping
    open_attempt(store, f"fresh-{cores}-{time.time_ns()}").open()
    run_steps(200)
    steps, pings = [], []
    for number in range(4000):
        start = time.perf_counter()
        step.run("k", number, handler)
        middle = time.perf_counter()
        ping()
        steps.append(middle - start)
        pings.append(time.perf_counter() - middle)
    s, p = quantiles(steps, n=100), quantiles(pings, n=100)
    text = f"p50 {s[49] * 1e6:.0f} µs = {s[49] / p[49]:.2f} × PING, p99 {s[98] / p[49]:.2f} × PING's p50 ({p[49] * 1e6:.0f} µs)"
    return [(f"2 fresh step, {cores}", text, budget)]


def replay(url: str) -> list[Row]:
    store, ping = Store(Settings(backend=url)), redis.Redis.from_url(url).ping
    rows: list[Row] = []
    for count, budget in ((100, "0.5 ms"), (1000, "3 ms"), (10_000, "40 ms")):
        id = f"replay-{count}"
        attempt = open_attempt(store, id)
        run_steps(count)
        attempt.store.release(0)
        best, best_ping = 1e9, 1e9
        for _ in range(5):
            start = time.perf_counter()
            attempt = open_attempt(store, id)
            run_steps(count)
            middle = time.perf_counter()
            ping()
            best, best_ping = min(best, middle - start), min(best_ping, time.perf_counter() - middle)
            attempt.store.release(0)
        rows.append((f"3 replay of {count}", f"{best * 1e3:.2f} ms = {best / best_ping:.0f} × PING", f"≤ {budget}"))
    return rows


def memory(url: str) -> list[Row]:
    store, client = Store(Settings(backend=url)), redis.Redis.from_url(url)

    def used(namespace: str) -> int:
        found = (client.memory_usage(key, samples=0) for key in store.keys.namespace(namespace).all if client.exists(key))
        return sum(int(size or 0) for size in found)

    open_attempt(store, "wide").open()
    before = used("wide")
    for _ in range(1000):
        step.run("k", lambda: "x" * 100)
    per_step = (used("wide") - before) / 1000
    attempt = open_attempt(store, "small")
    for number in range(5):
        step.run("k", number, handler)
    attempt.finish("succeeded", b"")
    attempt.settle("succeeded")
    return [
        ("7 memory a step", f"{per_step:.0f} B (1,000 steps of 100 B)", "≤ 150 B (reported)"),
        ("7 finished 5-step run", f"{used('small'):,} B", "≤ 1 KB (reported)"),
    ]


def all_rows(url: str) -> list[Row]:
    rows = commands(f"{url}/1")
    rows += fresh(f"{url}/1", "across cores", "≤ 1.2 × PING; p99 ≤ 3.5 ×")
    return rows + replay(f"{url}/1") + memory(f"{url}/1")

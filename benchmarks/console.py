"""What looking costs: lists and pages over many finished runs, through `Runs` and through the console's own server."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from statistics import median, quantiles
from uuid import uuid4

import redis
import uvicorn
from celery import Celery

from benchmarks.steps import open_attempt, run_steps
from celery_steps import Runs
from celery_steps.settings import Settings
from celery_steps.store.client import Client
from celery_steps.store.keys import Keys, RunId
from celery_steps.store.store import Store
from celery_steps.web import create_app
from celery_steps.web.console import _LOOK_AT
from celery_steps.web.server import address, bind

Row = tuple[str, str, str]

_SIZES = [int(size) for size in os.environ.get("STEPS_BENCH_SIZES", "100000,1000000").split(",")]
#: Of a hundred runs, so many have each end; one task in a thousand is rare.
_ENDS = ("succeeded",) * 90 + ("failed",) * 5 + ("cancelled",) * 3 + ("suspended",) * 2
_BATCH = 2000


def fill(url: str, first: int, size: int) -> None:
    """Write runs number `first` to `size` as CLAIM and SETTLE leave them, a millisecond apart, the last one now."""
    keys, now = Keys("steps", 16), int(time.time() * 1000)
    client = Client(url)
    for start in range(first, size, _BATCH):
        commands: list[list[str]] = []
        for n in range(start, min(start + _BATCH, size)):
            namespace, status = f"order-{n}", _ENDS[n % 100]
            run = RunId("shop.rare" if n % 1000 == 7 else f"shop.task_{n % 7}", str(uuid4()))
            space, at, encoded = keys.namespace(namespace), str(now - size + n), str(run)
            fields = {"status": status, "app": "bench", "task": run.task, "created": at, "changed": at, "attempts": "1"}
            known = [part for name, value in fields.items() for part in (f"{encoded}:{name}", value)]
            commands += (
                ["HSET", space.run, "tip", f"{at}-3", "fence", at, "open", "0", *known],
                ["ZADD", keys.status(space.partition, status), at, space.member(encoded)],
                ["SET", keys.index(run.id), namespace],
            )
        client.exchange(*commands)
    client.close()


def _times(call: Callable[[], object], count: int = 30) -> list[float]:
    call()
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


@contextmanager
def _serving(app: Celery) -> Iterator[http.client.HTTPConnection]:
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(app), log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    connection = http.client.HTTPConnection(address(listener).removeprefix("http://"))
    try:
        yield connection
    finally:
        connection.close()
        server.should_exit = True
        thread.join()


def _page(connection: http.client.HTTPConnection, path: str) -> Callable[[], bytes]:
    def get() -> bytes:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body

    return get


def measure(url: str) -> list[Row]:
    app = Celery("bench", broker=f"{url}/5", backend=f"{url}/6", set_as_current=False)
    app.conf.steps_backend = f"{url}/8"
    with closing(redis.Redis.from_url(f"{url}/8")) as client:
        client.config_set("appendonly", "no")
        open_attempt(Store(Settings(backend=f"{url}/8")), "bench-page").open()
        run_steps(100)
        rows: list[Row] = []
        done = 0
        for size in _SIZES:
            fill(f"{url}/8", done, size)
            done = size
            rows += _looks(app, client, size)
    return rows


def _looks(app: Celery, client: redis.Redis, size: int) -> list[Row]:
    runs = Runs(app)
    deep = runs.list(limit=10_000).cursor
    ping = median(_times(client.ping, 2000))
    bounded = {"look_at": _LOOK_AT}
    looks: dict[str, tuple[Callable[[], object], str]] = {
        "newest 50": (lambda: runs.list(), "≤ 20 ms"),
        "newest 50 that failed": (lambda: runs.list(status="failed"), ""),
        "50 from the 10,001st on": (lambda: runs.list(cursor=deep), ""),
        "50 of a common task": (lambda: runs.list(task="shop.task_3", **bounded), ""),
        "one task in 1,000": (lambda: runs.list(task="shop.rare", **bounded), ""),
        "search that finds nothing": (lambda: runs.list(text="nobody", **bounded), ""),
        "exact name": (lambda: runs.list(namespace=f"order-{size // 2}"), ""),
        "counts": (runs.stats, ""),
        "version of the list": (runs.version, ""),
        "version of a run": (lambda: runs.version("bench-page"), ""),
    }
    rows = []
    for name, (call, allowed) in looks.items():
        rows.append(_row(f"{size:>9,} runs: Runs, {name}", _times(call), ping, allowed))
    with _serving(app) as connection:
        paths = {
            "the list": "/",
            "a list by task": "/?task=shop.rare",
            "a search in vain": "/?q=nobody",
            "a run of 100 steps": "/run/bench-page",
        }
        for name, path in paths.items():
            rows.append(_row(f"{size:>9,} runs: page, {name}", _times(_page(connection, path)), ping, ""))
    return rows


def _row(name: str, times: list[float], ping: float, allowed: str) -> Row:
    middle, slow = median(times), quantiles(times, n=20)[-1]
    return name, f"{middle * 1000:.1f} ms = {middle / ping:,.0f} × PING; p95 {slow * 1000:.1f} ms", allowed

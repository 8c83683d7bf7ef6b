"""Metrics, in the real prometheus_client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry, generate_latest

from celery_steps import DurableTask, RetryPolicy, Runs
from celery_steps.contrib import prometheus
from celery_steps.worker.messages import TICKET
from delivering import app_of_its_own, close, deliver, make_app
from servers import RedisServer


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    metrics = prometheus.instrument(registry)
    yield registry
    metrics.uninstrument()
    assert generate_latest(registry) == b""


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server, steps_lease_ttl=600)
    yield app
    close(app)


def refuse() -> None:
    raise ValueError("no")


def counters(registry: CollectorRegistry) -> dict[str, float]:
    """Every counter, and the counts of the histogram, as they are scraped; the label `task` left out."""
    lines = re.findall(r"^celery_steps_\w+_(?:total|count)\{.*", generate_latest(registry).decode(), re.MULTILINE)
    found = (line.rsplit(" ", 1) for line in lines)
    return {re.sub(r',?task="order"|\{task="order"\}', "", name).removeprefix("celery_steps_"): float(n) for name, n in found}


def test_steps_and_runs_are_counted(app: Celery, registry: CollectorRegistry) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        with suppress(ValueError):
            self.step.run("broken", refuse, retry=RetryPolicy(max_retries=1, delay=0))
        self.step.wait_for_event("approved")

    deliver(order, id="id-1")
    Runs(app).emit("approved", 1, to="id-1")
    deliver(order, id="id-1", headers={TICKET: True})
    assert counters(registry) == {
        'executed_total{key="one"}': 1,
        'executed_total{key="approved"}': 1,
        'failed_total{key="broken"}': 2,
        'replayed_total{key="one"}': 1,
        'replayed_total{key="broken"}': 1,
        'duration_seconds_count{key="one"}': 1,
        'duration_seconds_count{key="broken"}': 2,
        'duration_seconds_count{key="approved"}': 1,
        "runs_started_total": 1,
        "runs_resumed_total": 1,
        'runs_suspended_total{status="suspended"}': 1,
        'runs_finished_total{status="succeeded"}': 1,
    }


def test_keys_that_are_made_of_data_share_a_label(registry: CollectorRegistry) -> None:
    app = app_of_its_own("keys")

    @app.task(bind=True, base=DurableTask, name="order")
    def order(self: DurableTask) -> None:
        for key in ("item-1", "item-22", "user 8d4ee9a9-3c54-4d9c-9c62-8a2f6cf3b2c1", "v2"):
            self.step.run(key, lambda: 1)
        for number in range(300):
            self.step.run("k" + "x" * number, lambda: 1)

    order()
    found = {name: n for name, n in counters(registry).items() if name.startswith("executed")}
    assert found['executed_total{key="item-#"}'] == 2
    assert found['executed_total{key="user #"}'] == 1
    assert found['executed_total{key="(other)"}'] == 103
    assert len(found) == 201


def test_a_hostile_key_is_no_other_metric(registry: CollectorRegistry) -> None:
    app = app_of_its_own("hostile")

    @app.task(bind=True, base=DurableTask, name="order")
    def order(self: DurableTask) -> None:
        self.step.run('"} evil 1\nevil{a="', lambda: 1)

    order()
    assert not re.search(rb"^evil", generate_latest(registry), re.MULTILINE)


def test_how_the_runs_stand_is_collected(app: Celery) -> None:
    registry = CollectorRegistry()
    registry.register(prometheus.RunsCollector(Runs(app)))

    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask, wait: bool) -> None:
        self.step.run("one", lambda: 1)
        if wait:
            self.step.sleep("nap", 3600)

    deliver(order, True, id="id-1")
    deliver(order, False, id="id-2")

    def value(name: str, **labels: str) -> Any:
        return registry.get_sample_value(f"celery_steps_{name}", labels)

    assert value("store_up") == 1
    assert value("runs", status="suspended") == 1
    assert value("runs", status="succeeded") == 1
    assert value("runs", status="failed") == 0
    assert (value("tickets"), value("tickets_due"), value("late_seconds")) == (1, 0, 0)


def test_a_store_that_is_away_is_a_metric_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    app = app_of_its_own("away")
    app.conf.update(steps_backend="redis://127.0.0.1:1/0", steps_redis_options={"retry_on_timeout": False}, steps_lease_ttl=0.3)
    registry = CollectorRegistry()
    registry.register(prometheus.RunsCollector(Runs(app)))
    assert generate_latest(registry).decode().splitlines()[-1] == "celery_steps_store_up 0.0"
    assert "could not be counted for Prometheus" in caplog.text

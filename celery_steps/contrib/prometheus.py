"""Metrics: what the steps and runs of this process do, and a collector of how all runs stand.

    from celery_steps.contrib import prometheus
    prometheus.instrument()

Numbers that are put into a key (`item-17`), and UUIDs, are `#` in the label `key`; beyond 200 keys of a task the others share
`(other)`. So a key that is made of data cannot flood the server.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from celery_steps import signals
from celery_steps.details import RunDetails, StepDetails
from celery_steps.errors import StepsError
from celery_steps.runs import Runs

logger = logging.getLogger("celery_steps")

#: Label of what has no label of its own.
OTHER = "(other)"

_MOST_KEYS = 200
_DATA = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|\d+")
_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


def instrument(registry: CollectorRegistry = REGISTRY, *, buckets: Sequence[float] = _SECONDS) -> Metrics:
    """Count from now on, for every durable task in this process and those that are forked from it.

    Args:
        registry: where the metrics are registered; with PROMETHEUS_MULTIPROC_DIR they are in that folder, too.
        buckets: of the histogram of durations, in seconds.

    Returns what counts, for `uninstrument`.
    """
    metrics = Metrics(registry, buckets)
    for signal, receiver in metrics.receivers():
        signal.connect(receiver, weak=False)
    return metrics


class Metrics:
    """Counters of this process."""

    def __init__(self, registry: CollectorRegistry, buckets: Sequence[float]) -> None:
        self._registry = registry
        self._keys: defaultdict[str, set[str]] = defaultdict(set)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"celery_steps_{name}", text, ["task", *labels], registry=registry)

        self._executed = counter("executed", "Steps that were executed and recorded", "key")
        self._replayed = counter("replayed", "Steps whose recorded outcome was returned", "key")
        self._failed = counter("failed", "Failed tries of steps, with and without a next one", "key")
        self._seconds = Histogram(
            "celery_steps_duration_seconds",
            "How long the handlers of executed and failed steps took",
            ["task", "key"],
            registry=registry,
            buckets=buckets,
        )
        self._started = counter("runs_started", "Runs that began")
        self._resumed = counter("runs_resumed", "Later attempts at a run")
        self._suspended = counter("runs_suspended", "Runs that left their worker unfinished, by what as", "status")
        self._finished = counter("runs_finished", "Runs that are over, by how", "status")
        self._lost = counter("leases_lost", "Attempts that noticed that another one owns their namespace")

    def uninstrument(self) -> None:
        """Count no more, and forget the metrics."""
        for signal, receiver in self.receivers():
            signal.disconnect(receiver)
        for metric in vars(self).values():
            if isinstance(metric, (Counter, Histogram)):
                self._registry.unregister(metric)

    def receivers(self) -> Iterator[tuple[Any, Callable[..., None]]]:
        """Each signal, with what hears it."""
        yield signals.step_executed, self._on_executed
        yield signals.step_replayed, self._on_replayed
        yield signals.step_failed, self._on_failed
        yield signals.run_started, self._on_started
        yield signals.run_resumed, self._on_resumed
        yield signals.run_suspended, self._on_suspended
        yield signals.run_finished, self._on_finished
        yield signals.lease_lost, self._on_lost

    def _on_executed(self, details: StepDetails, **_: Any) -> None:
        labels = details.task, self._key(details)
        self._executed.labels(*labels).inc()
        self._seconds.labels(*labels).observe(details.took_ms / 1000)

    def _on_replayed(self, details: StepDetails, **_: Any) -> None:
        self._replayed.labels(details.task, self._key(details)).inc()

    def _on_failed(self, details: StepDetails, **_: Any) -> None:
        labels = details.task, self._key(details)
        self._failed.labels(*labels).inc()
        self._seconds.labels(*labels).observe(details.took_ms / 1000)

    def _on_started(self, details: RunDetails, **_: Any) -> None:
        self._started.labels(details.task).inc()

    def _on_resumed(self, details: RunDetails, **_: Any) -> None:
        self._resumed.labels(details.task).inc()

    def _on_suspended(self, details: RunDetails, **_: Any) -> None:
        self._suspended.labels(details.task, details.status).inc()

    def _on_finished(self, details: RunDetails, **_: Any) -> None:
        self._finished.labels(details.task, details.status).inc()

    def _on_lost(self, details: RunDetails, **_: Any) -> None:
        self._lost.labels(details.task).inc()

    def _key(self, details: StepDetails) -> str:
        key, known = _DATA.sub("#", details.key), self._keys[details.task]
        if key not in known:
            if len(known) >= _MOST_KEYS:
                return OTHER
            known.add(key)
        return key


class RunsCollector(Collector):
    """Gauges of how the runs in Redis stand, read whenever they are collected: register it in one process only.

    `celery_steps_store_up` is 0, and the others are missing, while Redis cannot be read.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def describe(self) -> list[GaugeMetricFamily]:
        """Without a look: registering must not need Redis."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One look, of a few commands."""
        try:
            stats = self._runs.stats()
        except StepsError as error:
            logger.warning("The runs could not be counted for Prometheus: %s", error)
            yield GaugeMetricFamily("celery_steps_store_up", "Whether Redis could be read", value=0)
            return
        yield GaugeMetricFamily("celery_steps_store_up", "Whether Redis could be read", value=1)
        runs = GaugeMetricFamily("celery_steps_runs", "Runs, by status", labels=["status"])
        for status, count in stats.runs.items():
            runs.add_metric([status], count)
        yield runs
        yield GaugeMetricFamily("celery_steps_tickets", "Unfinished runs that have a ticket", value=stats.tickets)
        yield GaugeMetricFamily("celery_steps_tickets_due", "Tickets that are due and not published yet", value=stats.due)
        late = "How late the oldest ticket is that is due"
        yield GaugeMetricFamily("celery_steps_late_seconds", late, value=stats.late_seconds)
